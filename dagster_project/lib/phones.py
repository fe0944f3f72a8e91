"""Phones to E.164: the numbering plan's knowledge, kept as a table that SQL joins.

The common case needs no lookup: dbt's macro `phone` rewrites what is certain by its form (`+` and digits of a known form,
mainland Chinese mobiles). Every other spelling is parsed here once, when it is first ingested.
"""

import re

import duckdb
import phonenumbers

# What the SQL macro `phone` takes as certain; keep the two alike (tests/test_phones.py compares both with libphonenumber).
_CHINESE_MOBILE = r"(13[0-9]|15[0-35-9]|18[0-9]|19[0-35-9])[0-9]{8}"
_CERTAIN = re.compile("[+]86" + _CHINESE_MOBILE)


def e164(given: str, region: str) -> str | None:
    """A phone as E.164, or None where it is not a possible, valid number.

    Args:
        given: as a person or system wrote it.
        region: ISO 3166-1 region of numbers that carry no country code.

    Source of the rules: Google's libphonenumber metadata.
    """
    text = given.strip()
    if _CERTAIN.fullmatch(text):  # a hundred times as fast, and most of what comes here
        return text
    if text.startswith("00"):
        text = "+" + text[2:]
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number) or number.extension:
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def learn_phones(connection: duckdb.DuckDBPyConnection, relation: str, columns: list[str], region: str) -> int:
    """Add the spellings in a relation's columns that `staging._phones` does not know yet; returns how many."""
    spellings = " union ".join(f"select {column} as given from {relation}" for column in columns)
    common = (r"([+]86|86)?" if region == "CN" else "[+]86") + _CHINESE_MOBILE
    unknown = connection.execute(
        f"""
        select distinct s.given from ({spellings}) as s
        anti join (select given from staging._phones where region = ?) as known using (given)
        where regexp_full_match(s.given, '[^\\p{{L}}@]{{6,40}}') and not regexp_full_match(s.given, '{common}')
        """,
        [region],
    ).fetchall()
    if unknown:
        rows = {"given": [g for (g,) in unknown], "e164": [e164(g, region) for (g,) in unknown]}
        connection.execute(
            """
            insert into staging._phones
            select unnest(cast($given as varchar[])), $region, unnest(cast($e164 as varchar[]))
            """,
            {**rows, "region": region},
        )
    return len(unknown)
