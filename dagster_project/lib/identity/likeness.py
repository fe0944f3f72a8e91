"""What of two profiles is compared, and the degrees of likeness that are told apart.

Conditions are Splink's, in words that mean the same on all engines, and with DuckDB's functions jaro_winkler_similarity,
damerau_levenshtein, hamming and list_has_any, which another engine's backend has to give it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One degree of likeness.

    Attributes:
        likely: share of true pairs expected at this level before any data are seen.
        by_frequency: column whose common values count for less at this level.
        says_nothing: neither for nor against, since something else that is compared explains it.
        contradicts: two profiles at this level are not merged, whatever else agrees, unless
        identifies: they are at a level that by itself names one person.
    """

    label: str
    condition: str
    likely: float
    by_frequency: str | None = None
    says_nothing: bool = False
    contradicts: bool = False
    identifies: bool = False


@dataclass(frozen=True)
class Comparison:
    """What of two profiles is compared; `unknown` is when it cannot be."""

    name: str
    columns: tuple[str, ...]
    unknown: str
    levels: tuple[Level, ...]

    @property
    def conditions(self) -> str:
        return " ".join([self.unknown, *(level.condition for level in self.levels)])


def _either_null(column: str) -> str:
    return f"{column}_l is null or {column}_r is null"


def _edits(column: str, most: int, at_least: float) -> str:
    """At most so many slips: letters wrong, missing, too many or swapped. Jaro-Winkler, ten times as fast, sorts out the rest.

    Args:
        at_least: Jaro-Winkler likeness that so few slips cannot fall below in values as long as the column's.
    """
    left, right = f"{column}_l", f"{column}_r"
    return f"(jaro_winkler_similarity({left}, {right}) >= {at_least} and damerau_levenshtein({left}, {right}) <= {most})"


def _typed(column: str, likeness: float) -> str:
    """Letters that a slip of the finger explains; not where both are Chinese characters, since there a slip is a homophone."""
    return (
        f"({column}_characters_l is null or {column}_characters_r is null) and ("
        f"jaro_winkler_similarity({column}_l, {column}_r) >= {likeness} "
        f"or (least(length({column}_l), length({column}_r)) >= 5 and {_edits(column, 1, 0.75)}))"
    )


# The given name may stand where the family name should, or be the only one that is known.
_SWAPPED = (
    "(given_l <> given_r and family_l <> family_r and ("
    "given_l = family_r and jaro_winkler_similarity(family_l, given_r) >= 0.8 "
    "or family_l = given_r and jaro_winkler_similarity(given_l, family_r) >= 0.8)) "
    "or (family_l is null and given_l = family_r) or (family_r is null and given_r = family_l)"
)
_SAME_CHARACTERS = "coalesce({0}_characters_l = {0}_characters_r, true)"

# Namesakes have similar mailboxes: what is in a mailbox beside the name may tell them apart, and a rare host may.
_SAME_MAILBOX = (
    "(least(length(mailbox_own_l), length(mailbox_own_r)) >= 5 and mailbox_own_l = mailbox_own_r) "
    f"or (least(length(mailbox_own_l), length(mailbox_own_r)) >= 7 and {_edits('mailbox_own', 1, 0.85)})"
)
_SAME_HOST = f"(host_l = host_r or {_edits('host', 1, 0.85)})"
_LIKE_MAILBOX = f"jaro_winkler_similarity(mailbox_l, mailbox_r) >= 0.88 or {_edits('mailbox', 2, 0.7)}"

COMPARISONS = (
    Comparison(
        "given",
        ("given",),
        _either_null("given"),
        (
            Level("same given name", f"given_l = given_r and {_SAME_CHARACTERS.format('given')}", 0.78, by_frequency="given"),
            Level("given name sounds the same", "given_l = given_r", 0.03, by_frequency="given"),
            Level("given and family name swapped", _SWAPPED, 0.02),
            Level(
                "given name nearly the same",
                f"list_has_any(given_forms_l, given_forms_r) or ({_typed('given', 0.92)})",
                0.09,
            ),
            Level(
                "part of the given name",
                "(least(length(given_l), length(given_r)) = 1 and substring(given_l, 1, 1) = substring(given_r, 1, 1)) "
                f"or contains(given_characters_l, given_characters_r) or contains(given_characters_r, given_characters_l) "
                f"or ({_typed('given', 0.8)})",
                0.04,
            ),
            Level("other given name", "else", 0.04, contradicts=True),
        ),
    ),
    Comparison(
        "family",
        ("family",),
        f"{_either_null('family')} or {_SWAPPED}",
        (
            Level(
                "same family name", f"family_l = family_r and {_SAME_CHARACTERS.format('family')}", 0.84, by_frequency="family"
            ),
            Level("family name sounds the same", "family_l = family_r", 0.02, by_frequency="family"),
            Level("family name nearly the same", _typed("family", 0.92), 0.08),
            Level("family name similar", _typed("family", 0.8), 0.03),
            Level("other family name", "else", 0.03),
        ),
    ),
    Comparison(
        "birth_date",
        ("birth_date",),
        _either_null("birth_date"),
        (
            Level("same birth date", "birth_date_l = birth_date_r", 0.85, by_frequency="birth_date"),
            Level(
                "birth date with one slip",
                "(hamming(birth_date_l, birth_date_r) <= 2 and damerau_levenshtein(birth_date_l, birth_date_r) <= 1) "
                "or (substring(birth_date_l, 1, 4) = substring(birth_date_r, 1, 4) "
                "and substring(birth_date_l, 5, 2) = substring(birth_date_r, 7, 2) "
                "and substring(birth_date_l, 7, 2) = substring(birth_date_r, 5, 2))",
                0.09,
            ),
            Level("birth date with two slips", "hamming(birth_date_l, birth_date_r) <= 2", 0.03),
            Level("other birth date", "else", 0.03, contradicts=True),
        ),
    ),
    Comparison(
        "document",
        ("document",),
        _either_null("document"),
        (
            Level("same document", "document_l = document_r", 0.9, by_frequency="document", identifies=True),
            Level("document with slips", _edits("document", 2, 0.7), 0.07),
            Level("other document", "else", 0.03, contradicts=True),
        ),
    ),
    Comparison(
        "email",
        ("email",),
        _either_null("email"),
        (
            Level("same e-mail", "email_l = email_r", 0.6, by_frequency="email"),
            Level("same mailbox beyond the name", _SAME_MAILBOX, 0.06),
            Level("similar mailbox at the same host", f"{_SAME_HOST} and ({_LIKE_MAILBOX})", 0.06, by_frequency="host"),
            Level("similar mailbox at another host", _LIKE_MAILBOX, 0.08, says_nothing=True),
            Level("other e-mail", "else", 0.2),
        ),
    ),
    Comparison(
        "phone",
        ("phone",),
        _either_null("phone"),
        (
            Level("same phone", "phone_l = phone_r", 0.6, by_frequency="phone"),
            Level("phone with one slip", _edits("phone", 1, 0.9), 0.05),
            Level("other phone", "else", 0.35),
        ),
    ),
    Comparison(
        "address",
        ("address",),
        _either_null("address"),
        (
            Level("same address", "address_l = address_r", 0.65, by_frequency="address"),
            Level(
                "address nearly the same",
                "house_l = house_r and (jaro_winkler_similarity(street_l, street_r) >= 0.85 "
                "or contains(street_l, street_r) or contains(street_r, street_l))",
                0.15,
            ),
            Level("same street", "jaro_winkler_similarity(street_l, street_r) >= 0.92", 0.05),
            Level("same house number", "house_l = house_r", 0.05),
            Level("other address", "else", 0.1),
        ),
    ),
    Comparison(
        "place",
        ("postal_code", "city"),
        "(postal_code_l is null or postal_code_r is null) and (city_l is null or city_r is null)",
        (
            Level(
                "same postcode",
                "postal_code_l = postal_code_r and (city_l = city_r or city_l is null or city_r is null)",
                0.7,
                by_frequency="place",
            ),
            Level(
                "same city",
                "city_l = city_r and (postal_code_l is null or postal_code_r is null)",
                0.08,
                by_frequency="city",
            ),
            Level("same postcode, other city", "postal_code_l = postal_code_r", 0.05, by_frequency="postal_code"),
            Level("same city, other postcode", "city_l = city_r", 0.07, by_frequency="city"),
            Level(
                "place nearly the same",
                f"{_edits('postal_code', 1, 0.75)} or jaro_winkler_similarity(city_l, city_r) >= 0.88",
                0.07,
            ),
            Level("other place", "else", 0.05),
        ),
    ),
    Comparison(
        "gender",
        ("gender",),
        _either_null("gender"),
        (Level("same gender", "gender_l = gender_r", 0.98), Level("other gender", "else", 0.02)),
    ),
)
