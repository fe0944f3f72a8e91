"""The shipped contracts are DESIGN's table, and a wrong YAML says where it is wrong and what to do."""

import re
from pathlib import Path

import pytest
import yaml

from dagster_project.lib.contracts import CHANNELS, COMPONENT_TYPE, load_channels, parse_channel
from dagster_project.lib.errors import OnefoldError

TRACKER = """
event_id* event_name* occurred_at* anonymous_id user_id device_id email phone session_id url title referrer utm_source
utm_medium utm_campaign product_id quantity amount currency search_term duration_seconds user_agent ip country
utc_offset type previous_id group_id traits properties
"""
# DESIGN, "Landing"; * required. What changes under one key also has an optional updated_at: without it, which of two
# states of an order is the later one could not be told.
ENTITIES = {
    "web/events": TRACKER + "contact_id",
    "app/events": TRACKER,
    "mini_program/events": TRACKER + "open_id union_id",
    "email/events": "event_id* event_name* occurred_at* email contact_id message_id campaign_id url",
    "sms/events": "event_id* event_name* occurred_at* phone contact_id message_id campaign_id url",
    "social/interactions": """interaction_id* platform* kind* occurred_at* handle user_id author_name text url
        campaign_id""",
    "chat/messages": """message_id* conversation_id* occurred_at* direction author_id user_id anonymous_id email phone
        contact_id agent_id text status csat_score""",
    "chat/conversations": """conversation_id* started_at* user_id email phone contact_id agent_id subject status csat_score
        updated_at""",
    "chat/agents": "agent_id* name updated_at",
    "call/calls": "call_id* started_at* direction* phone* duration_seconds agent_id outcome transcript",
    "wecom/contacts": "external_user_id* union_id phone name remark added_at updated_at",
    "wecom/messages": "message_id* external_user_id* occurred_at* direction* text",
    "crm/contacts": """contact_id* email phone user_id first_name last_name full_name gender birth_date address city
        region postal_code country company job_title created_at updated_at* is_deleted""",
    "crm/merges": "contact_id* merged_contact_id* merged_at",
    "crm/consents": "identifier_type* identifier_value* purpose* channel status* occurred_at* source",
    "orders/orders": """order_id* ordered_at* status* user_id email phone amount* currency* discount coupon
        shipping_city shipping_country updated_at""",
    "orders/order_items": "order_id* line_number* product_id* quantity* unit_price*",
    "orders/refunds": "refund_id* refunded_at* amount* currency* order_id user_id product_id quantity",
    "pos/receipts": "receipt_id* store_id* sold_at* kind member_id phone amount* currency*",
    "pos/receipt_items": "receipt_id* line_number* product_id* quantity* unit_price*",
    "survey/responses": "response_id* survey_id* answered_at* question* answer score user_id email phone",
    "ads/spend": "date* platform* campaign_id* impressions clicks cost* currency*",
    "loyalty/members": "member_id* phone email tier points joined_at updated_at",
    "catalog/products": "product_id* name* category brand price cost currency updated_at",
    "external/fx_rates": "date* currency* rate_to_base*",
    "external/attributes": "identifier_type* identifier_value* attribute* value* as_of*",
}
ALLOWED = {
    "email/events event_name": "sent delivered opened clicked bounced unsubscribed complained held_out",
    "sms/events event_name": "sent delivered opened clicked bounced unsubscribed complained held_out",
    "social/interactions kind": "mention comment like share follow message",
    "chat/messages direction": "in out",
    "chat/messages status": "open waiting closed",
    "chat/conversations status": "open waiting closed",
    "crm/consents status": "granted denied withdrawn suppressed released",
    "pos/receipts kind": "sale refund",
}

SHOP = {
    "type": COMPONENT_TYPE,
    "attributes": {
        "channel": "shop",
        "description": "A shop.",
        "owner": "team:shop",
        "entities": {
            "things": {
                "description": "Things.",
                "kind": "record",
                "key": ["thing_id"],
                "columns": {"thing_id": {"required": True}, "colour": {}},
            }
        },
    },
}


@pytest.fixture(scope="module")
def shipped(new_home):
    return load_channels(new_home())


def written(folder: Path, content: dict | str, channel: str = "shop") -> Path:
    file = folder / channel / "defs.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def changed(path: str, value: object) -> dict:
    """SHOP with one value set; the path has dots between keys."""
    content = yaml.safe_load(yaml.safe_dump(SHOP))
    *parents, last = path.split(".")
    target = content["attributes"]
    for key in parents:
        target = target[key]
    target[last] = value
    return content


def test_exactly_the_entities_of_the_design_are_shipped(shipped):
    assert {f"{c}/{e}" for c, contract in shipped.items() for e in contract.entities} == set(ENTITIES)


@pytest.mark.parametrize("name", ENTITIES)
def test_a_shipped_contract_has_the_columns_of_the_design(shipped, name):
    channel, entity = name.split("/")
    columns = shipped[channel].entities[entity].columns
    assert {c + "*" if column.required else c for c, column in columns.items()} == set(ENTITIES[name].split())


@pytest.mark.parametrize("place", ALLOWED)
def test_a_shipped_contract_accepts_the_values_of_the_design(shipped, place):
    name, column = place.split()
    channel, entity = name.split("/")
    assert set(shipped[channel].entities[entity].columns[column].allowed) == set(ALLOWED[place].split())


def test_every_channel_of_the_design_has_its_folder():
    assert {file.parent.name for file in CHANNELS.glob("*/defs.yaml")} == {name.split("/")[0] for name in ENTITIES}


def test_a_sound_contract_is_read(tmp_path):
    contract = parse_channel(written(tmp_path, SHOP))
    assert (contract.table("things"), contract.entities["things"].key) == ("shop_things", ("thing_id",))


SOURCES = "entities.things.sources"
WRONG = {
    "unknown key": (
        "entities.things.colums",
        {},
        "attributes.entities.things.colums",
        "remove it or correct its spelling",
    ),
    "unknown type": (
        "entities.things.columns.colour",
        {"type": "string"},
        "attributes.entities.things.columns.colour.type",
        "'text'",
    ),
    "wrong type of value": (
        "entities.things.columns.colour",
        {"required": "perhaps"},
        "attributes.entities.things.columns.colour.required",
        "found 'perhaps'",
    ),
    "unknown kind": ("entities.things.kind", "evnt", "attributes.entities.things.kind", "'event'"),
    "owner that nobody can write to": ("owner", "bob", "attributes.owner", "found 'bob'"),
    "key that is no column": ("entities.things.key", ["thing"], "key", "there is no column 'thing'"),
    "event time that is no column": ("entities.things.event_time", "at", "event_time", "the contract's columns are"),
    "event without a time": ("entities.things.kind", "event", "event_time", "name its column"),
    "column name in capitals": (
        "entities.things.columns.Size",
        {},
        "columns",
        "Size: write column names in lower case",
    ),
    "two rules for a column": (
        SOURCES,
        [{"rename": {"colour": "c"}, "constant": {"colour": "red"}}],
        "colour",
        "keep one",
    ),
    "rename outside of group_by": (
        SOURCES,
        [{"rename": {"colour": "c"}, "group_by": ["id"]}],
        "rename colour",
        "use an aggregate",
    ),
    "two lists to split": (SOURCES, [{"split": {"colour": ";", "thing_id": ";"}}], "split", "name one column"),
    "rule for no column": (SOURCES, [{"sql": {"size": "1"}}], "sources.landing.sql", "there is no column 'size'"),
    "two sources of one name": (SOURCES, [{}, {}], "sources", "give each its own"),
    "unknown format": (SOURCES, [{"format": "xml"}], "sources.0.format", "'csv'"),
    "currency that is no code": (SOURCES, [{"currency": "yuan"}], "sources.0.currency", "found 'yuan'"),
}


@pytest.mark.parametrize("path, value, key, remedy", WRONG.values(), ids=WRONG)
def test_a_wrong_contract_names_file_key_and_remedy(tmp_path, path, value, key, remedy):
    file = written(tmp_path, changed(path, value))
    with pytest.raises(OnefoldError, match=re.escape(key)) as caught:
        parse_channel(file)
    assert str(file) in str(caught.value)
    assert remedy in str(caught.value)


def test_a_missing_channel_key_is_named(tmp_path):
    content = changed("owner", "team:shop")
    del content["attributes"]["channel"]
    file = written(tmp_path, content)
    with pytest.raises(OnefoldError, match=re.escape(f"{file}: attributes.channel: is missing; add it")):
        parse_channel(file)


def test_every_problem_of_a_contract_is_told_at_once(tmp_path):
    content = changed("entities.things.kind", "evnt")
    content["attributes"]["ownr"] = "x"
    with pytest.raises(OnefoldError) as caught:
        parse_channel(written(tmp_path, content))
    assert {"attributes.entities.things.kind", "attributes.ownr"} <= set(re.findall(r"attributes[\w.]+", str(caught.value)))


def test_a_channel_carries_its_folders_name(tmp_path):
    file = written(tmp_path, SHOP, channel="store")
    with pytest.raises(OnefoldError, match=re.escape(f"{file}: attributes.channel: 'shop' has to be the folder's name, store")):
        parse_channel(file)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1"])
def test_bad_yaml_names_the_file(tmp_path, text):
    file = written(tmp_path, text)
    with pytest.raises(OnefoldError, match=re.escape(f"{file}: not valid YAML")):
        parse_channel(file)


@pytest.mark.parametrize("text", ["", "- 1", "just text"])
def test_yaml_that_is_no_mapping_names_the_file(tmp_path, text):
    file = written(tmp_path, text)
    with pytest.raises(OnefoldError, match=re.escape(f"{file}: expected a mapping")):
        parse_channel(file)


def test_another_component_type_names_file_and_the_type_expected(tmp_path):
    file = written(tmp_path, SHOP | {"type": "other.Component"})
    with pytest.raises(OnefoldError, match=re.escape(f"{file}: expected just `type: {COMPONENT_TYPE}`")):
        parse_channel(file)


def test_a_home_adds_a_source_to_a_shipped_entity(home):
    (home.sources / "erp.yaml").write_text(
        "channel: crm\nentities: {contacts: [{name: erp, location: erp/*.csv, rename: {contact_id: KUNNR}}]}"
    )
    sources = load_channels(home)["crm"].entities["contacts"].sources
    assert [source.name for source in sources] == ["landing", "erp"]


def test_one_file_maps_an_export_to_several_channels(home):
    (home.sources / "erp.yaml").write_text(
        "channel: crm\nentities: {contacts: [{name: erp, location: a/*}]}\n---\n"
        "channel: orders\nentities: {orders: [{name: erp, location: b/*}]}"
    )
    channels = load_channels(home)
    assert [s.location for s in channels["crm"].entities["contacts"].sources] == [None, "a/*"]
    assert [s.location for s in channels["orders"].entities["orders"].sources] == [None, "b/*"]


def test_a_home_corrects_the_built_in_source(home):
    (home.sources / "crm.yaml").write_text("channel: crm\nentities: {contacts: [{name: landing, rename: {contact_id: id}}]}")
    [source] = load_channels(home)["crm"].entities["contacts"].sources
    assert (source.name, source.location, source.rename) == ("landing", None, {"contact_id": "id"})


def test_the_built_in_source_is_corrected_only_once(home):
    for name in ("a", "b"):
        (home.sources / f"{name}.yaml").write_text("channel: crm\nentities: {contacts: [{name: landing}]}")
    with pytest.raises(OnefoldError, match=r"b\.yaml.*give each its own"):
        load_channels(home)


WRONG_SOURCES = {
    "unknown channel": ("channel: crn\nentities: {contacts: [{name: erp}]}", "channel", "there is no channel 'crn'"),
    "unknown entity": (
        "channel: crm\nentities: {contact: [{name: erp}]}",
        "entities.contact",
        "it has contacts, merges, consents",
    ),
    "unknown column": (
        "channel: crm\nentities: {contacts: [{name: erp, rename: {mail: m}}]}",
        "sources.erp.rename",
        "no column 'mail'",
    ),
    "name taken": (
        "channel: crm\nentities: {contacts: [{name: erp, location: a/*}, {name: erp, location: b/*}]}",
        "sources",
        "give each its own",
    ),
    "no name": ("channel: crm\nentities: {contacts: [{location: erp/*.csv}]}", "contacts", "a source has no name"),
    "location of the built-in source": (
        "channel: crm\nentities: {contacts: [{name: landing, location: erp/*.csv}]}",
        "contacts",
        "give the source another name",
    ),
    "wrong second document": (
        "channel: web\nentities: {events: [{name: erp, location: a/*}]}\n---\nchanel: web",
        "chanel",
        "unknown key",
    ),
    "no location": ("channel: crm\nentities: {contacts: [{name: erp}]}", "sources", "give one a location"),
    "unknown key": (
        "channel: crm\nentities: {contacts: [{name: erp, renames: {}}]}",
        "entities.contacts.0.renames",
        "unknown key",
    ),
    "missing channel": ("entities: {contacts: [{name: erp}]}", "channel", "is missing; add it"),
    "bad syntax": ("channel: [", "erp.yaml", "not valid YAML"),
}


@pytest.mark.parametrize("text, key, remedy", WRONG_SOURCES.values(), ids=WRONG_SOURCES)
def test_a_wrong_sources_file_names_file_key_and_remedy(home, text, key, remedy):
    file = home.sources / "erp.yaml"
    file.write_text(text)
    with pytest.raises(OnefoldError, match=re.escape(key)) as caught:
        load_channels(home)
    assert str(file) in str(caught.value)
    assert remedy in str(caught.value)


def test_the_fingerprint_changes_with_a_mapping_and_not_with_the_words_about_it(tmp_path):
    plain = parse_channel(written(tmp_path / "a", SHOP)).entities["things"].fingerprint
    worded = parse_channel(written(tmp_path / "b", changed("entities.things.description", "Other."))).entities["things"]
    mapped = parse_channel(written(tmp_path / "c", changed(SOURCES, [{"rename": {"colour": "color"}}]))).entities["things"]
    assert worded.fingerprint == plain
    assert mapped.fingerprint != plain
