"""Who the customers are: names, homes, contact points, tastes, and who shares a phone, a browser or a mailbox."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from math import ceil
from random import Random

from simulator.exports import DAY
from simulator.noise import Noise
from simulator.products import CATEGORIES
from simulator.vocabulary import (
    CHINESE_MAIL_HOSTS,
    CITIES,
    FAMILY_NAMES,
    FIRMS,
    GIVEN_NAMES,
    PHONE_PLANS,
    WESTERN_MAIL_HOSTS,
    WESTERN_NAMES,
    City,
)

# Share of people in each stage of life with the company; what the stages mean is in `_live_within`.
LIFECYCLES = {"visitor": 0.18, "steady": 0.40, "loyal": 0.05, "lapsed": 0.15, "new": 0.12, "searcher": 0.10}
LIFECYCLES_SHARE = tuple(LIFECYCLES.values())
LAPSED_DAYS = 95  # lapsed people do nothing for at least this long, where the history is long enough
COOKIE_LIFE = 75 * DAY  # then the browser forgets its anonymous_id


@dataclass(slots=True)
class Person:
    """One true person. Moments in milliseconds since 1970 UTC; `sessions` for the whole history."""

    index: int
    household: int
    city: City
    gender: str
    family_name: str
    given_name: str
    latin_name: str  # family and given name in letters, as e-mail addresses are made of them
    birth_date: date
    lifecycle: str
    active_from: int
    active_until: int
    registered_at: int
    sessions: int
    buying: float  # chance that a session ends in an order
    basket: float  # typical number of lines in an order
    coupon: float  # chance to use one
    mood: float  # 0 unhappy to 1 happy with the company
    hour: float  # of the day at home at which the person is usually online
    tastes: tuple[str, str]
    channel: str
    cookies: list[str] = field(default_factory=list)
    device_id: str | None = None
    email: str | None = None
    second_email: str | None = None
    office_email: str | None = None
    phone: str | None = None
    previous_phone: str | None = None
    phone_since: int = 0
    user_id: str | None = None
    contact_id: str | None = None
    member_id: str | None = None
    external_user_id: str | None = None
    union_id: str | None = None
    open_id: str | None = None
    handle: str = ""
    platform: str = ""
    company: str | None = None
    shares_device: bool = False

    @property
    def person_id(self) -> str:
        return f"P{self.index + 1:07d}"

    @property
    def is_chinese(self) -> bool:
        return self.city.speaks_chinese

    @property
    def full_name(self) -> str:
        return self.family_name + self.given_name if self.is_chinese else f"{self.given_name} {self.family_name}"

    def phone_at(self, at: int) -> str | None:
        return self.previous_phone if at < self.phone_since else self.phone

    def email_at_random(self, rng: Random) -> str | None:
        """The address the person types this time: mostly the main one."""
        chance = rng.random()
        if self.office_email and chance < 0.6:
            return self.office_email
        return self.second_email if self.second_email and chance > 0.88 else self.email

    def is_registered_at(self, at: int) -> bool:
        return self.user_id is not None and at >= self.registered_at


def populate(people: int, days: int, seed: int, start: int, noise: Noise) -> list[Person]:
    """Everybody who meets the company in the `days` after `start`, sharing what the rates of `noise` say."""
    phones: set[str] = set()
    emails: set[str] = set()
    population = [_person(index, days, seed, start, phones, emails) for index in range(people)]
    known = [person for person in population if person.lifecycle != "visitor"]
    rng = Random(f"{seed}/relations")
    rng.shuffle(known)
    _found_families(known, noise, people)
    _recycle_phones(known, noise, people, start + days * DAY // 5, rng, phones)
    _open_office_mailboxes(known, noise, people, rng)
    return population


def _person(index: int, days: int, seed: int, start: int, phones: set[str], emails: set[str]) -> Person:
    rng = Random(f"{seed}/person/{index}")
    city = rng.choices(CITIES, [city.weight for city in CITIES])[0]
    gender = "female" if rng.random() < 0.58 else "male"
    family_name, given_name, latin_name = _name(city.country, gender, rng)
    lifecycle = rng.choices(tuple(LIFECYCLES), LIFECYCLES_SHARE)[0]
    active_from, active_until = _live_within(lifecycle, start, days, rng)
    person = Person(
        index=index,
        household=index,
        city=city,
        gender=gender,
        family_name=family_name,
        given_name=given_name,
        latin_name=latin_name,
        birth_date=date(1955, 1, 1) + timedelta(days=int(rng.triangular(0, 19_000, 13_000))),
        lifecycle=lifecycle,
        active_from=active_from,
        active_until=active_until,
        registered_at=_registered_at(lifecycle, start, active_from, active_until, rng),
        sessions=_session_count(lifecycle, active_until - active_from, rng),
        buying={"visitor": 0.0, "searcher": 0.02, "loyal": 0.4}.get(lifecycle, rng.betavariate(2, 7)),
        basket=rng.uniform(2, 4) if lifecycle == "loyal" else rng.uniform(1, 2.5),
        coupon=rng.betavariate(1, 3),
        mood=rng.betavariate(5, 2) if lifecycle != "lapsed" else rng.betavariate(2, 3),
        hour=rng.choice((8.0, 12.5, 18.5, 20.5, 21.5, 22.5)),
        tastes=_tastes(gender, rng),
        channel=_preferred_channel(city, rng),
        cookies=[f"{rng.getrandbits(96):024x}" for _ in range(days // 75 + 2)],
        platform=rng.choice(("weibo", "xiaohongshu", "douyin") if city.speaks_chinese else ("instagram", "x")),
        handle=f"{latin_name.replace('.', '_')}_{rng.getrandbits(24):06x}",
    )
    if lifecycle != "visitor":
        _give_contact_points(person, rng, phones, emails)
    return person


def _name(country: str, gender: str, rng: Random) -> tuple[str, str, str]:
    if country in ("CN", "HK"):
        family, family_latin = rng.choice(FAMILY_NAMES)
        given, given_latin = rng.choice(GIVEN_NAMES[gender])
        if rng.random() < 0.3 and len(given) == 1:  # a second character: 张伟杰
            second, second_latin = rng.choice(GIVEN_NAMES[gender][:10])
            given, given_latin = given + second, given_latin + second_latin
        return family, given, f"{family_latin}.{given_latin}"
    male, female, families = WESTERN_NAMES[country]
    given, family = rng.choice(male if gender == "male" else female), rng.choice(families)
    folded = f"{given}.{family}".lower().translate(str.maketrans("äöüßéèçëàô", "aouseeceao"))
    return family, given, "".join(character for character in folded if character.isascii() and character not in " '")


def _live_within(lifecycle: str, start: int, days: int, rng: Random) -> tuple[int, int]:
    """First and last moment of activity: the lapsed stop LAPSED_DAYS before the end, the new begin late."""
    end = start + days * DAY
    if lifecycle == "lapsed":
        latest = days - LAPSED_DAYS if days > LAPSED_DAYS * 1.3 else days * 0.4
        return start, start + int(rng.uniform(0.4, 1) * latest * DAY)
    if lifecycle == "new":
        return start + int(rng.uniform(0.8, 0.97) * days * DAY), end
    if lifecycle == "visitor":
        first = start + int(rng.random() * days * DAY)
        return first, min(end, first + int(rng.expovariate(1 / 14) * DAY) + DAY // 4)
    return start, end


def _registered_at(lifecycle: str, start: int, active_from: int, active_until: int, rng: Random) -> int:
    """Most registered long ago; one in four does so at some visit of the history, and was anonymous before."""
    if lifecycle == "new":
        return active_from
    if rng.random() < 0.25:
        return active_from + int(rng.uniform(0.02, 0.6) * (active_until - active_from))
    return start - int(rng.uniform(1, 700) * DAY)


def _session_count(lifecycle: str, span: int, rng: Random) -> int:
    """Heavy-tailed: most people come a few times in half a year, some every other day."""
    if lifecycle == "visitor":
        return 1 + min(5, int(rng.expovariate(1.2)))
    half_years = span / (180 * DAY)
    median = {"loyal": 14, "searcher": 6, "new": 12, "lapsed": 6}.get(lifecycle, 5)
    return max(1, min(round(120 * half_years) + 2, round(rng.lognormvariate(0, 0.8) * median * half_years)))


def _tastes(gender: str, rng: Random) -> tuple[str, str]:
    categories = tuple(CATEGORIES)
    weights = (5, 4, 3, 2, 3, 3, 2, 1) if gender == "female" else (1, 0.3, 1, 2, 2, 3, 5, 6)
    first, second = rng.choices(categories, weights, k=2)
    return first, second


def _preferred_channel(city: City, rng: Random) -> str:
    if city.speaks_chinese:
        return rng.choices(("web", "app", "mini_program", "store"), (3, 3, 3, 2))[0]
    return rng.choices(("web", "app"), (7, 3))[0]


def _give_contact_points(person: Person, rng: Random, phones: set[str], emails: set[str]) -> None:
    chinese, tag = person.is_chinese, f"{rng.getrandbits(40):010x}"
    person.phone = _new_phone(person.city.country, rng, phones) if rng.random() < (0.95 if chinese else 0.6) else None
    if person.phone is None or rng.random() < (0.7 if chinese else 0.97):
        person.email = _new_email(person, rng, emails)
        person.second_email = _new_email(person, rng, emails) if rng.random() < 0.15 else None
    if rng.random() < 0.75 or person.channel in ("app", "web"):
        person.user_id = f"U{person.index + 10_001}"
    if rng.random() < 0.35 or person.channel == "app":
        person.device_id = f"{rng.getrandbits(64):016X}"
    if rng.random() < 0.55:
        person.contact_id = f"C{tag}"
    if chinese:
        if rng.random() < 0.5 or person.channel == "store":
            person.member_id = f"M{person.index + 800_001}"
        if rng.random() < 0.6 or person.channel == "mini_program":
            person.union_id, person.open_id = f"un_{tag}", f"op_{rng.getrandbits(40):010x}"
            if rng.random() < 0.5:
                person.external_user_id = f"wm{tag}"
    if rng.random() < 0.12:
        person.company = rng.choice(FIRMS)


def _new_phone(country: str, rng: Random, taken: set[str]) -> str:
    """A number in E.164 that nobody has yet."""
    code, prefixes, length = PHONE_PLANS[country]
    while True:
        phone = code + rng.choice(prefixes) + f"{rng.randrange(10**length):0{length}d}"
        if phone not in taken:
            taken.add(phone)
            return phone


def _new_email(person: Person, rng: Random, taken: set[str]) -> str:
    hosts = CHINESE_MAIL_HOSTS if person.is_chinese else WESTERN_MAIL_HOSTS
    year = person.birth_date.year
    while True:
        local = person.latin_name.replace(".", rng.choice((".", "", "_"))) + rng.choice(
            ("", str(year), str(rng.randrange(1000)))
        )
        if person.is_chinese and rng.random() < 0.3:
            local = str(rng.randrange(10_000_000, 3_000_000_000))  # a QQ number
        email = f"{local}@{rng.choice(hosts)}"
        if email not in taken:
            taken.add(email)
            return email


def _found_families(known: list[Person], noise: Noise, people: int) -> None:
    """Pairs under one roof use one browser and one device; every second pair has one phone number as well."""
    candidates = [person for person in known if person.user_id and person.city.country == "CN"]
    wanted = ceil(noise.shared_device_rate * people)
    for number, (owner, other) in enumerate(zip(candidates[0 : 2 * wanted : 2], candidates[1 : 2 * wanted : 2], strict=False)):
        owner.device_id = other.device_id = owner.device_id or other.device_id
        other.cookies, other.household, other.city = owner.cookies, owner.household, owner.city
        owner.shares_device = other.shares_device = True
        owner.sessions, other.sessions = max(owner.sessions, 6), max(other.sessions, 6)  # enough to meet on the device
        other.family_name = owner.family_name
        if number % 2 and other.email and owner.phone:
            other.phone = owner.phone


def _recycle_phones(known: list[Person], noise: Noise, people: int, given_up_at: int, rng: Random, phones: set[str]) -> None:
    """The old owner gives the number up after a fifth of the history; somebody new in its last fifth has it then."""
    candidates = [person for person in known if person.phone and person.city.country == "CN" and not person.shares_device]
    old_owners = [person for person in candidates if person.lifecycle in ("steady", "lapsed", "loyal")]
    new_owners = [person for person in candidates if person.lifecycle == "new"]
    wanted = ceil(noise.recycled_phone_rate * people)
    for old, new in list(zip(old_owners, new_owners, strict=False))[:wanted]:
        new.phone = old.phone
        old.previous_phone, old.phone_since, old.phone = old.phone, given_up_at, _new_phone("CN", rng, phones)


def _open_office_mailboxes(known: list[Person], noise: Noise, people: int, rng: Random) -> None:
    """Three or more colleagues, in a very small sample two, each write from one mailbox."""
    if noise.office_email_rate == 0:
        return
    wanted = max(2, ceil(noise.office_email_rate * people))
    mailboxes = max(1, wanted // 3)
    staff = [person for person in known if person.user_id and person.contact_id]
    for number, person in enumerate(rng.sample(staff, min(wanted, len(staff)))):
        mailbox = number % mailboxes
        firm, repetition = FIRMS[mailbox % len(FIRMS)], mailbox // len(FIRMS)
        person.company = firm
        person.office_email = f"info@{firm}{repetition or ''}.com"
