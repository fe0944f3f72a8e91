"""E-mail and text message campaigns: held out, sent, delivered, opened, clicked, and what a click leads to."""

from random import Random

from simulator.exports import HOUR
from simulator.journeys import SITE, visit
from simulator.people import Person
from simulator.registers import Permission
from simulator.world import Campaign, World

CONTACT_TYPES = {"email": "email", "sms": "phone"}
OPEN_CHANCE, CLICK_CHANCE = {"email": 0.35, "sms": 1.0}, {"email": 0.22, "sms": 0.06}
LIST_SHARE = {"email": 0.6, "sms": 0.5}  # of those who may be written to, how many a campaign picks
CONTROL_SHARE = 0.1  # of those, how many are held out, on both channels of a campaign


def receive_messages(world: World, rng: Random, person: Person, permissions: dict[str, Permission]) -> None:
    """Every campaign the person may get and is picked for, until the person unsubscribes."""
    unreachable = rng.random() < 0.02  # an address that bounces for good
    unsubscribed_at: dict[str, int] = {}
    for campaign in world.messages:
        channel, contact_type = campaign.channel, CONTACT_TYPES[campaign.channel]
        contact = person.email if contact_type == "email" else person.phone_at(campaign.at)
        if contact is None or channel not in permissions or not permissions[channel].allows(campaign.at):
            continue
        if rng.random() < LIST_SHARE[channel] and campaign.at < unsubscribed_at.get(channel, world.end):
            if _is_held_out(world, person, campaign):
                _hold_out(world, rng, person, campaign, {contact_type: contact})
                continue
            left_at = _receive(world, rng, person, campaign, {contact_type: contact}, unreachable)
            if left_at is not None:
                unsubscribed_at[channel] = left_at
                world.emit(
                    "crm/consents",
                    left_at,
                    person,
                    identifier_type=contact_type,
                    identifier_value=contact,
                    purpose="marketing",
                    channel=channel,
                    status="withdrawn",
                    source="unsubscribe_link",
                )


def _is_held_out(world: World, person: Person, campaign: Campaign) -> bool:
    return Random(f"{world.seed}/control/{campaign.campaign_id}/{person.index}").random() < CONTROL_SHARE


def _hold_out(world: World, rng: Random, person: Person, campaign: Campaign, contact: dict[str, str]) -> None:
    """The person is in the control group: the sender says so, and nothing else happens."""
    world.emit(
        f"{campaign.channel}/events",
        campaign.at + rng.randrange(20 * 60_000),
        person,
        event_id=f"{rng.getrandbits(80):020x}",
        event_name="held_out",
        campaign_id=campaign.campaign_id,
        **contact,
    )


def _receive(
    world: World, rng: Random, person: Person, campaign: Campaign, contact: dict[str, str], unreachable: bool
) -> int | None:
    """One message and what the person does with it; the moment of unsubscribing, if it comes to that."""
    message_id = f"{campaign.channel}-{rng.getrandbits(64):016x}"

    def tell(event_name: str, at: int, url: str | None = None) -> None:
        world.emit(
            f"{campaign.channel}/events",
            at,
            person,
            event_id=f"{rng.getrandbits(80):020x}",
            event_name=event_name,
            message_id=message_id,
            campaign_id=campaign.campaign_id,
            url=url,
            **contact,
        )

    sent_at = campaign.at + rng.randrange(20 * 60_000)
    tell("sent", sent_at)
    if unreachable or rng.random() < 0.01:
        tell("bounced", sent_at + 4_000)
        return None
    tell("delivered", sent_at + rng.randint(2, 90) * 1000)
    is_active = person.active_from <= sent_at < person.active_until
    if not is_active or rng.random() > OPEN_CHANCE[campaign.channel] * campaign.pull * (0.6 + 0.8 * person.mood):
        return None
    seen_at = sent_at + int(rng.expovariate(1 / (8 * HOUR))) + 60_000
    if campaign.channel == "email":
        tell("opened", seen_at)
    chance = rng.random()
    if chance < CLICK_CHANCE[campaign.channel] * campaign.pull:
        tell("clicked", seen_at + 20_000, f"{SITE}/landing?utm_campaign={campaign.campaign_id}")
        visit(world, rng, person, seen_at + 25_000, "web", campaign)
    elif chance > 0.985:
        tell("unsubscribed", seen_at + 30_000)
        return seen_at + HOUR
    elif chance > 0.98:
        tell("complained", seen_at + 30_000)
    return None
