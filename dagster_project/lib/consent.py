"""Who may be contacted: the rules of dbt/macros/consent.sql, asked of the warehouse without dbt."""

import csv
import functools
from collections.abc import Collection
from functools import partial

from dagster_project.lib.audiences.rendering import rendered, table_of
from dagster_project.lib.home import PROJECT_ROOT, quoted

_PROJECT = PROJECT_ROOT / "dbt"


def address_permissions(purpose: str, channel: str | None, identifiers: str, legitimate_interest: Collection[str]) -> str:
    """The query of whether addresses may be contacted: a row for each that serves the channel, with `is_allowed` and `reason`.

    Args:
        channel: where; None: on the usual channel of each type.
        identifiers: table like unified.customer_identifiers.
        legitimate_interest: purposes for which who said nothing may be contacted, of the home's settings.
    """
    return _asked("address_permissions", purpose, channel, identifiers, legitimate_interest)


def customer_permissions(purpose: str, channel: str | None, customers: str, legitimate_interest: Collection[str]) -> str:
    """The query of whether customers may be contacted anywhere or on a channel: one row each, with `is_allowed` and `reason`.

    Args:
        customers: table with a column customer_id.
        legitimate_interest: as above.
    """
    return _asked("customer_permissions", purpose, channel, customers, legitimate_interest)


@functools.cache
def contact_channels() -> frozenset[str]:
    """The channels that some address serves."""
    with (_PROJECT / "seeds" / "contact_channels.csv").open(encoding="utf-8") as file:
        return frozenset(row["channel"] for row in csv.DictReader(file))


def _asked(macro: str, purpose: str, channel: str | None, among: str, legitimate_interest: Collection[str]) -> str:
    variables = {
        "purpose": quoted(purpose),
        "channel": channel and quoted(channel),
        "among": among,
        "legitimate_interest": list(legitimate_interest),
    }
    text = f"{{{{ {macro}(var('purpose'), var('channel'), var('among')) }}}}"
    return rendered(_PROJECT, text, variables, partial(table_of, _PROJECT))
