"""What Google Customer Match and Meta Custom Audiences match people by: contact data in each platform's form, hashed.

Every function takes a value as the warehouse has it and gives what the platform wants to receive, or None where nothing is left
of it: such a value is left out of its row. A value that is a SHA-256 in hex already passes through, in lower case, where the
platform wants a hash.

Sources of the rules:
    Google: https://developers.google.com/data-manager/api/devguides/concepts/formatting
    Meta: https://developers.facebook.com/documentation/ads-commerce/marketing-api/audiences/guides/custom-audiences,
        https://developers.facebook.com/docs/marketing-api/conversions-api/parameters/customer-information-parameters
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable
from datetime import date

import phonenumbers

from dagster_project.lib.phones import e164

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_BRITISH = re.compile(r"[a-z]{1,2}[0-9][a-z0-9]?[0-9][a-z]{2}")  # a whole post code, its last two letters the unit
_MOBILE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Meta wants American states by their two letters (ANSI INCITS 38); its own parameter builder maps Canada's provinces, too.
# fmt: off
_STATES = {
    "alabama": "al", "alaska": "ak", "arizona": "az", "arkansas": "ar", "california": "ca", "colorado": "co",
    "connecticut": "ct", "delaware": "de", "districtofcolumbia": "dc", "florida": "fl", "georgia": "ga",
    "hawaii": "hi", "idaho": "id", "illinois": "il", "indiana": "in", "iowa": "ia", "kansas": "ks", "kentucky": "ky",
    "louisiana": "la", "maine": "me", "maryland": "md", "massachusetts": "ma", "michigan": "mi", "minnesota": "mn",
    "mississippi": "ms", "missouri": "mo", "montana": "mt", "nebraska": "ne", "nevada": "nv", "newhampshire": "nh",
    "newjersey": "nj", "newmexico": "nm", "newyork": "ny", "northcarolina": "nc", "northdakota": "nd", "ohio": "oh",
    "oklahoma": "ok", "oregon": "or", "pennsylvania": "pa", "rhodeisland": "ri", "southcarolina": "sc",
    "southdakota": "sd", "tennessee": "tn", "texas": "tx", "utah": "ut", "vermont": "vt", "virginia": "va",
    "washington": "wa", "westvirginia": "wv", "wisconsin": "wi", "wyoming": "wy",
}
_PROVINCES = {
    "alberta": "ab", "britishcolumbia": "bc", "manitoba": "mb", "newbrunswick": "nb",
    "newfoundlandandlabrador": "nl", "northwestterritories": "nt", "novascotia": "ns", "nunavut": "nu",
    "ontario": "on", "princeedwardisland": "pe", "quebec": "qc", "saskatchewan": "sk", "yukon": "yt",
}
# fmt: on


def is_digest(value: object) -> bool:
    """Whether a value is a SHA-256 in hex already."""
    return isinstance(value, str) and _DIGEST.fullmatch(_trimmed(value)) is not None


def hashed(value: object, normal: Callable[[str], str | None]) -> str | None:
    """SHA-256 hex of a value's normal form in UTF-8; a digest passes through, what normalises to nothing is None."""
    if value is None:
        return None
    text = _trimmed(str(value))
    if _DIGEST.fullmatch(text):
        return text.lower()
    form = (normal(text) or "").encode(errors="ignore")  # half a surrogate pair, as broken JSON has, is no character
    return hashlib.sha256(form).hexdigest() if form else None


def all_hashed(values: object, normal: Callable[[str], str | None]) -> list[str]:
    """Hashes of one value or of a list of them, each once, in order, without those that normalise to nothing."""
    given = values if isinstance(values, list | tuple) else [values]
    return list(dict.fromkeys(digest for value in given if (digest := hashed(value, normal))))


# Google


def google_email(value: str) -> str | None:
    """Lower case, no white space; of Gmail addresses no dots and nothing from the + on, as they all reach one mailbox."""
    is_plain = value.isprintable()
    address = value.replace(" ", "") if is_plain else "".join(c for c in value if not _is_blank(c))
    address = address.lower()
    local, at, domain = address.partition("@")
    if domain in ("gmail.com", "googlemail.com"):
        local = local.partition("+")[0].replace(".", "")
    return f"{local}@{domain}" if at and local and domain and "@" not in domain else None


def google_phone(value: str, region: str) -> str | None:
    """E.164 with its plus; a number without country code belongs to the region (ISO 3166-1)."""
    return e164(_trimmed(value), region)


def google_name(value: str) -> str | None:
    """Lower case without white space around it; names in other scripts stay as they are."""
    return _trimmed(unicodedata.normalize("NFC", value.lower())) or None


def google_country(value: object) -> str | None:
    """ISO 3166-1 alpha-2 in capitals; sent unhashed, so that anything else is left out."""
    code = _trimmed(str(value or "")).upper()
    return code if code in phonenumbers.SUPPORTED_REGIONS else None


def google_postal_code(value: object) -> str | None:
    """As it is, trimmed; sent unhashed, so that a digest is left out."""
    code = _trimmed(str(value or ""))
    return None if is_digest(code) else code or None


# Meta


def meta_email(value: str) -> str | None:
    """Lower case without white space around it; dots and plus signs stay."""
    address = _trimmed(value).lower()
    local, _, domain = address.partition("@")
    return address if local and domain and "@" not in domain and not any(map(_is_blank, address)) else None


def meta_phone(value: str, region: str) -> str | None:
    """Digits with the country code, without plus and leading zeros."""
    number = e164(_trimmed(value), region)
    return number and number.removeprefix("+")


def meta_name(value: str) -> str | None:
    """Lower case without punctuation and white space; other scripts than Latin stay, as UTF-8."""
    return _without_punctuation(value) or None


def meta_gender(value: str) -> str | None:
    """`m` or `f`; Meta knows no other."""
    return {"m": "m", "male": "m", "f": "f", "female": "f"}.get(_trimmed(value).lower())


def meta_birth_date(value: object) -> tuple[str, str, str] | None:
    """Year, month and day as YYYY, MM and DD; None unless a day from 1900 to this year."""
    if not isinstance(value, date):
        try:
            value = date.fromisoformat(_trimmed(str(value or ""))[:10])
        except ValueError:
            return None
    return (f"{value:%Y}", f"{value:%m}", f"{value:%d}") if 1900 <= value.year <= date.today().year else None


def meta_city(value: str) -> str | None:
    """Letters a to z; Meta takes names of people in other scripts, but not of places."""
    return _roman(value)


def meta_state(value: str, country: str | None) -> str | None:
    """Two letters for states of the United States and provinces of Canada, elsewhere the name in letters a to z."""
    name = _roman(value)
    tables = {"us": (_STATES,), "ca": (_PROVINCES,), None: (_STATES, _PROVINCES)}.get(country, ())
    return next((table[name] for table in tables if name in table), name)


def meta_zip(value: str, country: str | None) -> str | None:
    """Lower case, no white space, the part before the dash; of American ones five digits, of British ones not the unit."""
    code = _without_punctuation(value.partition("-")[0])
    if country == "us":
        code = code[:5]
    elif country == "gb" and _BRITISH.fullmatch(code):
        code = code[:-2]
    return code or None


def meta_country(value: object) -> str | None:
    """ISO 3166-1 alpha-2 in lower case."""
    code = google_country(value)
    return code and code.lower()


def meta_mobile_id(value: object) -> str | None:
    """Android's or Apple's advertising id, lower case with hyphens; the zeros of somebody who opted out are none."""
    found = _trimmed(str(value or "")).lower()
    return found if _MOBILE_ID.fullmatch(found) and set(found) != {"0", "-"} else None


def _trimmed(text: str) -> str:
    """Text without white space around it, nor the invisible characters that come along with copied addresses."""
    if text.isprintable():  # of what is blank it has the space at most; nearly all text is such
        return text.strip(" ")
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def _without_punctuation(text: str) -> str:
    """Letters, marks and digits of a text, composed and in lower case."""
    kept = (c for c in unicodedata.normalize("NFC", text).lower() if unicodedata.category(c)[0] in "LMN")
    return unicodedata.normalize("NFC", "".join(kept))


def _roman(text: str) -> str | None:
    """A name in the letters a to z alone, accents dropped; None if it has letters that are not of this alphabet."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(character for character in decomposed if unicodedata.category(character)[0] == "L")
    return letters if letters.isascii() and letters else None
