"""A sample company with known truth: raw exports for every channel, any size, any seed."""

import csv
import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random

from simulator.exports import DAY
from simulator.journeys import browse, visit_as_no_customer
from simulator.landing import Landing
from simulator.messaging import receive_messages
from simulator.noise import Noise
from simulator.people import Person, populate
from simulator.purchases import shop_in_store
from simulator.registers import add_in_wecom, buy_in_attributes, enter_in_crm, give_consents, join_loyalty
from simulator.service import answer_surveys, speak_in_public, talk_to_adviser
from simulator.vocabulary import OFFICE_NETWORK
from simulator.world import World, build_world, write_reference

__all__ = ["NEWSLETTER", "SETTINGS", "Noise", "Simulation", "simulate"]

# What the sample company has to say of itself in its onefold.yaml.
NEWSLETTER = """description: Files for the newsletter tool
kind: files
audiences: [lapsed_buyers, high_value_customers]
columns: {address: email, first_name: first_name, customer: customer_id}
key: customer
"""  # a destination: destinations/newsletter.yaml
SETTINGS = f"staff_traffic:\n  ip_ranges: [{OFFICE_NETWORK}]  # the office\n"

PEOPLE_COLUMNS = (
    "person_id",
    "is_identifiable",
    "full_name",
    "gender",
    "birth_date",
    "country",
    "city",
    "user_id",
    "email",
    "phone",
    "contact_id",
    "member_id",
    "external_user_id",
    "union_id",
    "household_id",
    "lifecycle",
    "favourite_category",
    "preferred_channel",
)


@dataclass(frozen=True)
class Simulation:
    """Counts of one simulation; identifiable people left a usable person identifier, re-sent files count as files."""

    people: int
    identifiable_people: int
    files: int
    rows: int


def simulate(
    landing: Path,
    truth: Path,
    *,
    people: int = 1000,
    days: int = 180,
    seed: int = 7,
    until: date,
    noise: Noise = Noise(),  # noqa: B008 (frozen)
    report: Callable[[str, int, int], None] | None = None,
) -> Simulation:
    """Simulate `people` over the `days` days before `until` (UTC, not included); write landing files and the truth.

    Landing: `<landing>/<channel>/<entity>/…`. Truth: `records.csv` (channel, entity, record_id, person_id) for every
    acceptable record that comes from a person, `traffic.csv` (the same, with bot, staff or test) for every one of the web
    shop that comes from no customer, and `people.csv`. The same arguments give the same bytes.
    `report(step, done, total)` is called with the steps 'people' and 'files'.

    Raises ValueError for sizes below 1 or a truth folder inside `landing`, FileExistsError if files of another
    simulation have the same names.
    """
    if people < 1 or days < 1:
        raise ValueError(f"cannot simulate {people} people over {days} days; both must be at least 1")
    if truth.resolve().is_relative_to(landing.resolve()):
        raise ValueError(f"truth folder {truth} is inside the landing folder {landing}, where the pipeline would read it")
    report = report or (lambda step, done, total: None)
    truth.mkdir(parents=True, exist_ok=True)
    end = int(datetime(until.year, until.month, until.day, tzinfo=UTC).timestamp()) * 1000
    start = end - days * DAY
    with tempfile.TemporaryDirectory(prefix="onefold-simulate-") as spill, _without_cycle_collection():
        population = populate(people, days, seed, start, noise)
        exports = Landing(landing, Path(spill), seed, start, end, noise)
        world = build_world(seed, start, end, noise, exports.emit)
        write_reference(world, people)
        visit_as_no_customer(world)
        step = max(1, people // 100)
        for person in population:
            _live(world, person)
            if (person.index + 1) % step == 0 or person.index + 1 == people:
                report("people", person.index + 1, people)
        exports.write_files(truth, population, report)
    _write_people(truth / "people.csv", population, exports.identifiable)
    return Simulation(people, len(exports.identifiable), exports.files, exports.rows)


@contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Records are many and hold no cycles: looking for some took 23 of 60 s for 20,000 people."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _live(world: World, person: Person) -> None:
    """Everything one person does; drawn from a generator of their own, so that nobody's life depends on the others'."""
    rng = Random(f"{world.seed}/life/{person.index}")
    enter_in_crm(world, rng, person)
    join_loyalty(world, rng, person)
    add_in_wecom(world, rng, person)
    permissions = give_consents(world, rng, person)
    buy_in_attributes(world, rng, person)
    receive_messages(world, rng, person, permissions)
    browse(world, rng, person)
    shop_in_store(world, rng, person)
    speak_in_public(world, rng, person)
    answer_surveys(world, rng, person)
    talk_to_adviser(world, rng, person)


def _write_people(path: Path, population: list[Person], identifiable: set[int]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(PEOPLE_COLUMNS)
        for person in population:
            lines.writerow(
                (
                    person.person_id,
                    str(person.index in identifiable).lower(),
                    person.full_name,
                    person.gender,
                    person.birth_date,
                    person.city.country,
                    person.city.name,
                    person.user_id,
                    person.email,
                    person.phone,
                    person.contact_id,
                    person.member_id,
                    person.external_user_id,
                    person.union_id,
                    f"H{person.household + 1:07d}",
                    person.lifecycle,
                    person.tastes[0],
                    person.channel,
                )
            )
    part.replace(path)
