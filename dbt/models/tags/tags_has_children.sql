-- Grain: one customer of whom an uploaded list says whether they have children. Fed by external/attributes.

{{ uploaded_tag('has_children') }}
