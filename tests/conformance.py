"""What every destination has to do, whatever its kind: tests to inherit from, with a fixture `place` of one's own."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from dagster_project.lib.delivery.destination import Destination, Unavailable, keyed_by
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.delivery.planning import plan
from dagster_project.lib.delivery.sending import Report, Retries, Sender
from dagster_project.lib.home import Home


class Place:
    """A destination of some kind, how it looks from the other side, and how it misbehaves.

    `rows` are of the customers a, b and c and have the destination's columns; what `refuse` and `leave` cannot do there, a
    place says by `None` in their stead.
    """

    rows: list[dict]
    removes = True  # whether who leaves is taken away there
    is_certain = True  # whether it can tell that nobody got anything when nobody was there

    def open(self) -> Destination:
        """The destination, as another process would open it."""
        raise NotImplementedError

    def content(self) -> list[str]:
        """Customers who are there; of a place that appends, of all that ever arrived."""
        raise NotImplementedError

    def refuse(self, customer_id: str) -> None:
        """From now on, say no to one customer's row."""

    def leave(self) -> None:
        """From now on, be away: nobody answers."""


class People:
    """An audience whose members are these rows; they are compared whole each time."""

    shape, position = "people", "1"

    def __init__(self, rows: list[dict]) -> None:
        self._rows = rows

    def is_empty(self) -> bool:
        return not self._rows

    def everyone(self) -> Iterator[tuple[str, dict]]:
        return zip("abc", self._rows, strict=False)

    def changed(self, since: str, besides: list[str]) -> None:
        return None


class Killed(BaseException):
    """The process that this is raised in does nothing any more."""


class Killing:
    """A destination whose sender is killed when the first batch has arrived."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def __getattr__(self, name: str) -> object:
        return getattr(self._destination, name)

    def send(self, *given: object) -> None:
        self._destination.send(*given)
        raise Killed


def deliver(home: Home, destination: Destination, rows: list[dict]) -> Report:
    """Send what is open, then plan and send."""
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "there")
        sender = Sender(ledger, destination, retries=Retries(first_wait_seconds=1e-6), sleep=lambda _: None)
        report = sender.send(target)
        if ledger.open_version(target) is None and plan(ledger, target, destination, People(rows)):
            report = sender.send(target)
        return report


def prepared(destination: Destination, rows: list[dict]) -> list[dict]:
    """Rows as the ledger hands them over."""
    prepare = getattr(destination, "prepare", lambda row: row)
    return [json.loads(json.dumps(prepare(row))) for row in rows]


class Conforms:
    """Promises of every destination."""

    def test_each_row_is_answered_for_and_there(self, place: Place) -> None:
        destination = place.open()
        for number, row in enumerate(prepared(destination, place.rows)):
            outcome = destination.send("add", [row], f"regulars-{number}")
            assert [result.status for result in outcome.results] == ["accepted"]
            assert outcome.request_id is None or isinstance(outcome.request_id, str)
        assert sorted(place.content()) == ["a", "b", "c"]

    def test_a_batch_sent_twice_does_what_its_semantics_say(self, place: Place) -> None:
        rows = prepared(place.open(), place.rows)[: place.open().batch_size]
        for _ in range(2):
            destination = place.open()
            destination.send("add", rows, "regulars-1")
        times = 2 if destination.semantics == "appends" else 1
        assert set(Counter(place.content()).values()) == {times}

    def test_it_ends_with_what_the_audience_says(self, home: Home, place: Place) -> None:
        assert deliver(home, place.open(), place.rows).is_finished
        assert deliver(home, place.open(), place.rows).requests == 0
        assert deliver(home, place.open(), place.rows[:1]).is_finished
        assert sorted(place.content()) == (["a"] if place.removes else ["a", "b", "c"])

    def test_who_changed_is_there_once(self, home: Home, place: Place) -> None:
        if len(place.rows[0]) == 1:
            pytest.skip("this kind gets nothing that could change")
        assert deliver(home, place.open(), place.rows).is_finished
        column = list(place.rows[0])[-1]
        changed = [{**place.rows[0], column: "another"}, *place.rows[1:]]
        assert deliver(home, place.open(), changed).is_finished
        assert sorted(place.content()) == ["a", "b", "c"]

    def test_who_is_refused_is_a_dead_letter_and_the_others_are_there(self, home: Home, place: Place) -> None:
        if place.refuse is None:
            pytest.skip("this kind takes whatever it is given")
        place.refuse("b")
        report = deliver(home, place.open(), place.rows)
        assert (report.is_finished, report.accepted, report.rejected) == (True, 2, 1)
        assert sorted(place.content()) == ["a", "c"]
        with Ledger(home) as ledger:
            letters = ledger.letters(ledger.target("regulars", "there"))
            dump = "\n".join(str(letter) for letter in letters)
        assert [letter.customer_id for letter in letters] == ["b"]
        secrets = {str(value) for name, value in place.rows[1].items() if name != "customer_id" and value}
        assert not [value for value in secrets if value in dump]

    def test_killed_after_sending_nothing_is_lost_and_nothing_unlisted_is_twice(self, home: Home, place: Place) -> None:
        with pytest.raises(Killed):
            deliver(home, Killing(place.open()), place.rows)
        report = deliver(home, place.open(), place.rows)
        if place.open().semantics == "appends":
            with Ledger(home) as ledger:
                target = ledger.target("regulars", "there")
                (doubtful,) = ledger.uncertain(target)
                assert doubtful.row_count <= place.open().batch_size
                ledger.settle(target, doubtful.key, was_sent=True)
            report = deliver(home, place.open(), place.rows)
        assert report.stopped is None
        assert sorted(place.content()) == ["a", "b", "c"]

    def test_one_that_is_away_has_certainly_taken_nothing(self, home: Home, place: Place) -> None:
        if place.leave is None:
            pytest.skip("this kind is never away")
        destination = place.open()
        rows = prepared(destination, place.rows)[: destination.batch_size]
        place.leave()
        with pytest.raises(Unavailable) as raised:
            place.open().send("add", rows, "regulars-1")
        assert raised.value.is_certain == place.is_certain
        told = str(raised.value)
        assert not [
            value for row in rows for value in row.values() if isinstance(value, str) and len(value) > 3 and value in told
        ]

    def test_a_removal_needs_no_more_than_the_key(self, home: Home, place: Place) -> None:
        destination = place.open()
        (row,) = prepared(destination, place.rows[:1])
        destination.send("add", [row], "regulars-1")
        named = {name: row[name] for name in keyed_by(destination)}
        assert [result.status for result in destination.send("remove", [named], "regulars-2").results] == ["accepted"]
        assert place.content() == ([] if place.removes else ["a"])
