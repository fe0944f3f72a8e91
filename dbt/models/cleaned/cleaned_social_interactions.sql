-- Grain: one mention, comment, like, share, follow or message. Fed by social/interactions; read by cleaned.events,
-- identity and listening.

with staged as ({{ staged('social_interactions') }})

select
    {{ carried() }},
    {{ event('social_interactions', event_name=event_name('social', 'staged.kind')) }},
    interaction_id,
    {{ lower_case('trim(platform)') }} as platform,
    kind,
    occurred_at,
    {{ social_handle('platform', 'handle') }} as social_handle,
    handle,
    user_id,
    {{ person_name('author_name') }} as author_name,
    trim(text) as text,
    trim(url) as url,
    campaign_id
from staged
