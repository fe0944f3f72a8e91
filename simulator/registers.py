"""What systems know of a person beside what happened: CRM, loyalty, WeCom contacts, consents, bought-in attributes."""

from dataclasses import dataclass
from datetime import date
from random import Random

from simulator.exports import DAY, HOUR, utc_date, zulu
from simulator.noise import mistype
from simulator.people import Person
from simulator.purchases import spell_phone
from simulator.vocabulary import COUNTRY_SPELLINGS, JOB_TITLES, NICKNAMES, STREETS, WESTERN_STREETS
from simulator.world import World

GENDER_SPELLINGS = {"male": ("M", "male", "男", "1"), "female": ("F", "female", "女", "2")}
LOYALTY_SNAPSHOT_DAYS = 90


@dataclass(frozen=True, slots=True)
class Permission:
    """When a person may get marketing: moments in ms; never granted is `granted_at` None."""

    granted_at: int | None
    withdrawn_at: int | None

    def allows(self, at: int) -> bool:
        return self.granted_at is not None and self.granted_at <= at and (self.withdrawn_at is None or at < self.withdrawn_at)


def _birth_date(value: date, rng: Random) -> str:
    chance = rng.random()
    if chance < 0.55:
        return value.isoformat()
    if chance < 0.75:
        return f"{value.year}/{value.month}/{value.day}"
    return f"{value:%Y%m%d}" if chance < 0.9 else f"{value:%d.%m.%Y}"


def _crm_row(world: World, rng: Random, person: Person, contact_id: str, created_at: int, at: int) -> dict[str, object]:
    """One version of a contact as the CRM would export it at `at`, in the spelling of whoever typed it."""
    email, phone, city = person.email_at_random(rng), person.phone_at(at), person.city
    chinese = person.is_chinese
    number = 1 + person.household * 7 % 300
    street = (STREETS if chinese else WESTERN_STREETS)[person.household % 7]
    full_name = person.full_name
    if not chinese and rng.random() < 0.15:
        full_name = f"{person.family_name.upper()}, {person.given_name}"
    return {
        "contact_id": contact_id,
        "email": (email.upper() if rng.random() < 0.05 else email) if email else None,
        "phone": spell_phone(phone, rng) if phone and rng.random() < 0.85 else None,
        "user_id": person.user_id if rng.random() < 0.4 else None,
        "first_name": person.given_name,
        "last_name": person.family_name,
        "full_name": full_name,
        "gender": rng.choice(GENDER_SPELLINGS[person.gender]) if rng.random() < 0.8 else None,
        "birth_date": _birth_date(person.birth_date, rng) if rng.random() < 0.8 else None,
        "address": f"{street}{number}号" if chinese else f"{number} {street}",
        "city": city.local_name if rng.random() < 0.7 else city.name,
        "region": city.region,
        "postal_code": f"{city.postal_prefix}{person.household % 9}" if city.postal_prefix else None,
        "country": rng.choice(COUNTRY_SPELLINGS[city.country]),
        "company": person.company,
        "job_title": rng.choice(JOB_TITLES) if person.company else None,
        "created_at": zulu(created_at, 0),
    }


def enter_in_crm(world: World, rng: Random, person: Person) -> None:
    """The contact, its later versions (typing errors corrected, a new phone), and for some a second contact."""
    if person.contact_id is None:
        return
    created_at = person.registered_at + HOUR
    first_at = max(created_at, world.start + int(rng.uniform(0, 20) * DAY))
    first = _crm_row(world, rng, person, person.contact_id, created_at, first_at)
    versions = [(first_at, first)]
    if first["email"] and rng.random() < world.noise.typo_rate:
        versions.append((first_at + int(rng.uniform(5, 40) * DAY), dict(first)))
        first["email"] = mistype("email", str(first["email"]), rng)
    if rng.random() < 0.25:
        at = first_at + int(rng.uniform(20, 120) * DAY)
        versions.append((at, _crm_row(world, rng, person, person.contact_id, created_at, at)))
    if rng.random() < world.noise.duplicate_contact_rate:
        at = first_at + int(rng.uniform(1, 90) * DAY)
        versions.append((at, _second_contact(world, rng, person, at)))
    for at, row in versions:
        world.emit("crm/contacts", at, person, **row)


def _second_contact(world: World, rng: Random, person: Person, at: int) -> dict[str, object]:
    """The same person typed in again by somebody else: only name, birth date and address tell that it is the same."""
    row = _crm_row(world, rng, person, f"C{rng.getrandbits(40):010x}", at, at)
    row |= {"email": person.second_email, "phone": None, "user_id": None, "birth_date": person.birth_date.isoformat()}
    given = NICKNAMES.get(person.given_name, person.given_name)
    if person.is_chinese and rng.random() < 0.5:
        family, given = person.latin_name.title().split(".")
        row |= {"first_name": given, "last_name": family, "full_name": f"{given} {family}"}
    elif not person.is_chinese:
        row |= {"first_name": given, "full_name": f"{given} {person.family_name}"}
    return row


def join_loyalty(world: World, rng: Random, person: Person) -> None:
    """A row in every snapshot since the person joined; `points` grow."""
    if person.member_id is None:
        return
    points = int(rng.expovariate(1 / 800))
    for first in range(world.start, world.end, LOYALTY_SNAPSHOT_DAYS * DAY):
        taken_at = min(first + LOYALTY_SNAPSHOT_DAYS * DAY, world.end) - HOUR
        if person.registered_at > taken_at:
            continue
        points += int(rng.expovariate(1 / 200)) if person.active_until > first else 0
        phone = person.phone_at(taken_at)
        world.emit(
            "loyalty/members",
            taken_at,
            person,
            member_id=person.member_id,
            phone=spell_phone(phone, rng) if phone else None,
            email=person.email if person.index % 3 == 0 else None,
            tier="gold" if points > 2500 else "silver" if points > 800 else "basic",
            points=points,
            joined_at=utc_date(person.registered_at, 0),
        )


def add_in_wecom(world: World, rng: Random, person: Person) -> None:
    if person.external_user_id is None:
        return
    at = person.registered_at + HOUR
    phone = person.phone_at(at)
    world.emit(
        "wecom/contacts",
        at,
        person,
        external_user_id=person.external_user_id,
        union_id=person.union_id if rng.random() < 0.8 else None,
        phone=spell_phone(phone, rng) if phone and rng.random() < 0.4 else None,
        name=person.given_name if rng.random() < 0.6 else person.full_name,
        remark=f"{person.city.local_name}-{person.full_name}" if rng.random() < 0.5 else None,
    )


def give_consents(world: World, rng: Random, person: Person) -> dict[str, Permission]:
    """Consents for each address, and what they allow by channel: four in five grant, one in twelve withdraws later."""
    if person.lifecycle == "visitor":
        return {}
    chance = rng.random()
    if chance > 0.9:  # never asked
        return {}
    status = "granted" if chance < 0.8 else "denied"
    occurred_at = person.registered_at + HOUR // 2
    withdraws = status == "granted" and rng.random() < 0.08
    withdrawn_at = max(world.start, occurred_at) + int(rng.uniform(10, 150) * DAY) if withdraws else None
    source = rng.choice(("web_form", "store", "app", "preference_centre"))
    takes_all = rng.random() < 0.15  # one tick for every channel
    addresses = [("email", person.email, "email"), ("phone", person.phone_at(occurred_at), "sms")]
    if person.device_id:
        addresses.append(("user_id", person.user_id, "push"))
    if person.external_user_id:
        addresses.append(("phone", person.phone_at(occurred_at), "wecom"))
    permissions = {}
    for identifier_type, value, channel in addresses:
        if value is None:
            continue
        row = {
            "identifier_type": identifier_type, "identifier_value": value, "purpose": "marketing",
            "channel": "any" if takes_all and channel == "email" else channel,
        }  # fmt: skip
        world.emit("crm/consents", occurred_at, person, status=status, source=source, **row)
        if withdrawn_at:
            world.emit("crm/consents", withdrawn_at, person, status="withdrawn", source="unsubscribe_link", **row)
        permissions[channel] = Permission(occurred_at if status == "granted" else None, withdrawn_at)
    if person.user_id:
        for purpose, share in (("analytics", 0.9), ("personalization", 0.75), ("advertising", 0.6)):
            granted = status == "granted" and rng.random() < share
            world.emit(
                "crm/consents",
                occurred_at,
                person,
                identifier_type="user_id",
                identifier_value=person.user_id,
                purpose=purpose,
                channel="any",
                status="granted" if granted else "denied",
                source=source,
            )
    return permissions


def buy_in_attributes(world: World, rng: Random, person: Person) -> None:
    """What a data vendor says of four in ten people, by phone or e-mail."""
    at = max(world.start, person.active_from) + int(rng.uniform(0, 60) * DAY)
    phone = person.phone_at(at)
    value = phone or person.email
    if value is None or rng.random() > 0.4:
        return
    tier = "1" if person.city.weight > 8 else "2" if person.city.weight > 4 else "3"
    facts = {
        "city_tier": tier,
        "income_band": rng.choice(("A", "B", "B", "C")),
        "has_children": str("mother_baby" in person.tastes).lower(),
    }
    for attribute, fact in facts.items():
        if rng.random() < 0.7:
            world.emit(
                "external/attributes",
                at,
                person,
                identifier_type="phone" if phone else "email",
                identifier_value=value,
                attribute=attribute,
                value=fact,
            )
