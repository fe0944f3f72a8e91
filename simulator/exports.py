"""The exports the sample company lands: one entry for each entity of the landing contract (docs, "Fixed names").

An entry says how the entity is written (columns, format, how often a file is cut) and which of its columns can go wrong
in which way, so that the writer and the noise need no knowledge of single channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
SHANGHAI_OFFSET = 480


class Traffic(IntEnum):
    """Who visits the web shop beside customers; below 0, where people count from 0."""

    BOT = -2
    STAFF = -3
    TEST = -4


def with_offset(at: int, utc_offset: int) -> str:
    """ISO 8601 with the zone's offset; here and below `at` is in ms since 1970 UTC, `utc_offset` in minutes."""
    if utc_offset == 0:
        return zulu(at, 0)
    sign, minutes = ("+", utc_offset) if utc_offset > 0 else ("-", -utc_offset)
    local = (EPOCH + timedelta(milliseconds=at + utc_offset * MINUTE)).replace(tzinfo=None)
    return f"{local.isoformat(timespec='milliseconds')}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


def zulu(at: int, utc_offset: int) -> str:
    """ISO 8601 in UTC, ending in Z, to the second."""
    return (EPOCH + timedelta(milliseconds=at)).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def shanghai(at: int, utc_offset: int) -> str:
    """A naive 'YYYY-MM-DD HH:MM:SS' that means Asia/Shanghai, wherever the person is."""
    local = EPOCH + timedelta(milliseconds=at + SHANGHAI_OFFSET * MINUTE)
    return local.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")


def epoch_seconds(at: int, utc_offset: int) -> int:
    return at // 1000


def epoch_milliseconds(at: int, utc_offset: int) -> int:
    return at


def utc_date(at: int, utc_offset: int) -> str:
    return (EPOCH + timedelta(milliseconds=at)).date().isoformat()


@dataclass(frozen=True)
class Export:
    """One channel entity: how its files look. Column tuples name a subset of `columns`."""

    name: str  # channel/entity
    required: tuple[str, ...]
    optional: tuple[str, ...]
    key: tuple[str, ...]  # business key; what truth calls record_id
    time_column: str | None
    time_format: Callable[[int, int], str | int] = zulu
    alternate_time_format: Callable[[int, int], str | int] | None = None  # used by every third file
    file_format: str = "csv"  # csv, tsv, jsonl, each with .gz or .zst; parquet
    period_days: int = 30  # a file holds this many days
    identifiers: tuple[str, ...] = ()  # columns that name a person, not a thing people hold
    machine_ids: tuple[str, ...] = ()  # filled by software, hence null, 0, unknown
    typed_by_hand: tuple[str, ...] = ()  # filled by people, hence typing errors and invalid contacts
    may_be_missing: tuple[str, ...] = ()
    enumerations: tuple[str, ...] = ()  # columns in which a value outside the contract is a broken row
    numbers: tuple[str, ...] = ()  # columns in which a word is a broken row
    parquet_types: tuple[tuple[str, str], ...] = ()  # of the columns that are not text
    is_reference: bool = False  # about no person; written without noise
    is_versioned: bool = False  # the same key comes again with newer content

    @property
    def columns(self) -> tuple[str, ...]:
        return self.required + self.optional

    @property
    def channel(self) -> str:
        return self.name.split("/")[0]

    @property
    def entity(self) -> str:
        return self.name.split("/")[1]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_EVENT_OPTIONAL = _words(
    "anonymous_id user_id device_id email phone session_id url title referrer utm_source utm_medium utm_campaign "
    "product_id quantity amount currency search_term duration_seconds user_agent ip country utc_offset type "
    "previous_id group_id traits properties"
)


def _behaviour(channel: str, file_format: str, period_days: int, extra: str = "") -> Export:
    return Export(
        name=f"{channel}/events",
        required=_words("event_id event_name occurred_at"),
        optional=_EVENT_OPTIONAL + _words(extra),
        key=("event_id",),
        time_column="occurred_at",
        time_format=with_offset,
        alternate_time_format=epoch_milliseconds,
        file_format=file_format,
        period_days=period_days,
        identifiers=_words("user_id email phone") + (("union_id",) if extra else ()),
        machine_ids=_words("user_id anonymous_id device_id") + (("union_id",) if extra else ()),
        may_be_missing=_words("title referrer country utc_offset duration_seconds user_agent ip"),
        numbers=("amount",),
    )


def _messages(channel: str, contact: str, file_format: str) -> Export:
    return Export(
        name=f"{channel}/events",
        required=("event_id", "event_name", "occurred_at", contact),
        optional=_words("message_id campaign_id url"),
        key=("event_id",),
        time_column="occurred_at",
        file_format=file_format,
        identifiers=(contact,),
        may_be_missing=_words("url"),
        enumerations=("event_name",),
    )


EXPORTS: dict[str, Export] = {
    export.name: export
    for export in (
        _behaviour("web", "jsonl.gz", 7),
        _behaviour("app", "jsonl.zst", 14),
        _behaviour("mini_program", "jsonl", 14, "open_id union_id"),
        _messages("email", "email", "csv.gz"),
        _messages("sms", "phone", "tsv"),
        Export(
            "social/interactions", _words("interaction_id platform kind occurred_at"),
            _words("handle user_id author_name text url campaign_id"), ("interaction_id",), "occurred_at",
            file_format="jsonl", identifiers=("user_id",), machine_ids=("user_id",),
            may_be_missing=_words("author_name url"), enumerations=("kind",),
        ),
        Export(
            "chat/messages", _words("message_id conversation_id occurred_at direction"),
            _words("user_id anonymous_id email phone agent_id text status csat_score"), ("message_id",), "occurred_at",
            with_offset, file_format="jsonl.gz", identifiers=_words("user_id email phone"),
            machine_ids=_words("user_id anonymous_id"), typed_by_hand=_words("email phone"),
            may_be_missing=_words("text agent_id"), enumerations=("direction",),
        ),
        Export(
            "call/calls", _words("call_id started_at direction phone"),
            _words("duration_seconds agent_id outcome transcript"), ("call_id",), "started_at", shanghai,
            identifiers=("phone",), may_be_missing=_words("transcript outcome agent_id"), enumerations=("direction",),
            numbers=("duration_seconds",),
        ),
        Export(
            "wecom/contacts", ("external_user_id",), _words("union_id phone name remark added_at"),
            ("external_user_id",), "added_at", with_offset, identifiers=_words("external_user_id union_id phone"),
            machine_ids=("union_id",), typed_by_hand=("phone",), may_be_missing=("remark",), is_versioned=True,
        ),
        Export(
            "wecom/messages", _words("message_id external_user_id occurred_at direction"), ("text",), ("message_id",),
            "occurred_at", epoch_seconds, file_format="jsonl", identifiers=("external_user_id",),
            enumerations=("direction",),
        ),
        Export(
            "crm/contacts", _words("contact_id updated_at"),
            _words(
                "email phone user_id first_name last_name full_name gender birth_date address city region postal_code "
                "country company job_title created_at"
            ),
            ("contact_id",), "updated_at", zulu, identifiers=_words("contact_id email phone user_id"),
            machine_ids=("user_id",), typed_by_hand=_words("email phone full_name"),
            may_be_missing=_words("gender birth_date address postal_code country city job_title"), is_versioned=True,
        ),
        Export(
            "crm/consents", _words("identifier_type identifier_value purpose status occurred_at"),
            _words("channel source"),
            _words("identifier_type identifier_value purpose channel occurred_at"), "occurred_at", zulu,
            identifiers=("identifier_value",), may_be_missing=("source",), enumerations=("status",),
        ),
        Export(
            "orders/orders", _words("order_id ordered_at status amount currency"),
            _words("user_id email phone discount coupon shipping_city shipping_country"), ("order_id",), "ordered_at",
            with_offset, file_format="csv.gz", identifiers=_words("user_id email phone"), machine_ids=("user_id",),
            typed_by_hand=_words("email phone"), may_be_missing=_words("coupon shipping_city shipping_country"),
            numbers=("amount",),
        ),
        Export(
            "orders/order_items", _words("order_id line_number product_id quantity unit_price"), (),
            ("order_id", "line_number"), None, file_format="parquet",
            parquet_types=(("line_number", "INTEGER"), ("quantity", "INTEGER"), ("unit_price", "DECIMAL(18, 2)")),
        ),
        Export(
            "orders/refunds", _words("refund_id refunded_at amount currency"),
            _words("order_id user_id product_id quantity"), ("refund_id",), "refunded_at", with_offset,
            identifiers=("user_id",), machine_ids=("user_id",), numbers=("amount",),
        ),
        Export(
            "pos/receipts", _words("receipt_id store_id sold_at amount currency"), _words("kind member_id phone"),
            ("receipt_id",), "sold_at", shanghai, identifiers=_words("member_id phone"), machine_ids=("member_id",),
            typed_by_hand=("phone",), enumerations=("kind",), numbers=("amount",),
        ),
        Export(
            "pos/receipt_items", _words("receipt_id line_number product_id quantity unit_price"), (),
            ("receipt_id", "line_number"), None, file_format="parquet",
            parquet_types=(("line_number", "INTEGER"), ("quantity", "INTEGER"), ("unit_price", "DECIMAL(18, 2)")),
        ),
        Export(
            "survey/responses", _words("response_id survey_id answered_at question"),
            _words("answer score user_id email phone"), ("response_id",), "answered_at", epoch_seconds,
            file_format="csv.zst", identifiers=_words("user_id email phone"), machine_ids=("user_id",),
            typed_by_hand=_words("email phone"), numbers=("score",),
        ),
        Export(
            "ads/spend", _words("date platform campaign_id cost currency"), _words("impressions clicks"),
            _words("date platform campaign_id"), "date", utc_date, file_format="tsv", is_reference=True,
        ),
        Export(
            "loyalty/members", ("member_id",), _words("phone email tier points joined_at"), ("member_id",), None,
            period_days=90, identifiers=_words("member_id phone email"), typed_by_hand=_words("phone email"),
            may_be_missing=("tier",), is_versioned=True,
        ),
        Export(
            "catalog/products", _words("product_id name"), _words("category brand price cost currency"),
            ("product_id",), None, period_days=3650, is_reference=True,
        ),
        Export(
            "external/fx_rates", _words("date currency rate_to_base"), (), _words("date currency"), "date", utc_date,
            file_format="parquet", period_days=3650, is_reference=True,
            parquet_types=(("date", "DATE"), ("rate_to_base", "DOUBLE")),
        ),
        Export(
            "external/attributes", _words("identifier_type identifier_value attribute value as_of"), (),
            _words("identifier_type identifier_value attribute as_of"), "as_of", utc_date, file_format="csv.gz",
            period_days=90, identifiers=("identifier_value",), is_versioned=True,
        ),
    )
}  # fmt: skip
