"""What is usual, what is said when it is not, and the pages that show it; on a small sample company."""

import csv
import json
import logging
import re
import shutil
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from company import CHAIN, QUALITY, UNTIL, ingest_all, run_refresh

from dagster_project.cli import main
from dagster_project.jobs import problems, run_job, warnings
from dagster_project.lib import answers, dbt, metrics, quality, quality_pages
from dagster_project.lib.home import Home
from dagster_project.lib.state import State


@pytest.fixture(scope="module")
def company(sample_company: Home) -> Iterator[Home]:
    """A sample company after six refreshes in which nothing happened; tests that change it take a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(sample_company.path))
        yield sample_company


@pytest.fixture
def copy(company: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copytree(company.path, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("dbt", ".lock", "quality"))
    monkeypatch.setenv("ONEFOLD_HOME", str(tmp_path / "copy"))
    return Home(tmp_path / "copy").prepare()


def _rows(home: Home, query: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(query).fetchall()


def _land_orders(home: Home, rows: list[dict], name: str = "broken.csv") -> None:
    file = home.landing / "orders" / "orders" / name
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _people(home: Home) -> list[dict[str, str]]:
    with (answers.truth(home) / "people.csv").open() as handle:
        return list(csv.DictReader(handle))


def _order(n: int, **fields: object) -> dict:
    row = {"order_id": f"q{n}", "ordered_at": "2026-10-30T10:00:00Z", "status": "paid", "email": "", "phone": "", "user_id": ""}
    return {**row, "amount": 10, "currency": "CNY", **fields}


# Bands --------------------------------------------------------------------------------------------------------------


def test_every_metric_is_judged_by_a_suite_and_defined_in_the_docs(company: Home) -> None:
    named = {metric for suite in quality.suites() for metric in suite.metrics}
    measured = {metric.split(":")[0] for (metric,) in _rows(company, "select distinct metric from quality.metrics")}
    assert measured == named - {"tag_drift"}  # which needs a day a week before
    docs = (Path(__file__).parents[1] / "docs" / "quality.md").read_text()
    assert not [metric for metric in named if f"| `{metric}" not in docs]


def test_a_company_in_which_nothing_happens_raises_no_alarm_but_for_its_days(company: Home) -> None:
    """Same data, six refreshes: only what is compared with other days may be outside."""
    outside = _rows(company, "select distinct metric from quality.metrics where is_anomaly and metric <> 'volume'")
    assert outside == []
    counted = "select count(*) from quality.metrics where refresh = 6 and samples >= 5 and metric not like 'freshness%'"
    assert _rows(company, counted)[0][0] > 200


def test_a_column_that_comes_empty_warns_and_blocks_nothing(copy: Home) -> None:
    _land_orders(copy, [_order(n, user_id=f"new-{n}") for n in range(300)])
    ingest_all(copy)
    run_refresh(copy, 7, *CHAIN)
    failed = _rows(copy, "select distinct suite from quality.results where refresh = 7 and not success order by 1")
    assert ("channels",) in failed
    assert not {("ingestion",), ("customers",), ("tags",)} & set(failed)
    [(value, usual, lower, since)] = _rows(
        copy,
        "select value, usual, lower, anomalous_since from quality.metrics "
        "where refresh = 7 and metric = 'completeness:orders_orders.email'",
    )
    assert value < lower < usual and since == (UNTIL + timedelta(hours=7)).replace(tzinfo=None)
    said = _rows(copy, "select changed from quality.results where refresh = 7 and starts_with(expectation, 'completeness')")
    line = next(line for line in said[0][0].splitlines() if "orders_orders.email" in line)
    assert re.fullmatch(
        r"completeness:orders_orders\.email of orders is 0\.\d+, usual 0\.\d+, band from 0\.\d+, since 2026-10-31 07:00", line
    )


def test_a_break_stays_visible_until_it_is_approved(copy: Home) -> None:
    _land_orders(copy, [_order(n, user_id=f"new-{n}") for n in range(300)])
    ingest_all(copy)
    broken = "select is_anomaly, anomalous_since from quality.metrics where refresh = {} and metric = {!r}"
    since = (UNTIL + timedelta(hours=7)).replace(tzinfo=None)
    run_refresh(copy, 7, *CHAIN)
    for number in range(8, 11):
        run_refresh(copy, number, *QUALITY)
        assert _rows(copy, broken.format(number, "completeness:orders_orders.email")) == [(True, since)]
    done = CliRunner().invoke(main, ["--home", str(copy.path), "approve", "channels", "--reason", "a shop without log-in"])
    assert done.exit_code == 0, done.output
    run_refresh(copy, 11, *QUALITY)
    assert _rows(copy, broken.format(11, "completeness:orders_orders.email")) == [(False, None)]


def test_refreshes_that_did_not_finish_are_not_usual(copy: Home) -> None:
    before = _rows(copy, "select usual from quality.metrics where refresh = 6 and metric = 'match_rate' and channel = '*'")
    with copy.connect("test") as connection:
        connection.execute("update quality.record_metrics set value = 0.01 where metric = 'match_rate' and refresh > 1")
    with State(copy)._transaction() as state:
        state.execute("update refreshes set finished_at = null where refresh > 1")
    run_refresh(copy, 7, *QUALITY)
    assert _rows(
        copy, "select usual, samples from quality.metrics where refresh = 7 and metric = 'match_rate' and channel = '*'"
    ) == [(before[0][0], 1)]


# Cost and history ---------------------------------------------------------------------------------------------------


def test_metrics_kept_up_to_date_equal_those_of_a_rebuild(copy: Home) -> None:
    """New customers, a merge by a shared phone and a corrected record; then everything anew."""
    phone = {"phone": "13812345678"}
    _land_orders(copy, [_order(1, user_id="new-1"), _order(2, **phone), _order(3, user_id="new-3")], "first.csv")
    (copy.landing / "crm" / "contacts" / "q.csv").write_text("contact_id,user_id,updated_at\nk1,new-1,2026-10-01\n")
    ingest_all(copy)
    run_refresh(copy, 7, *CHAIN)
    second = [_order(3, user_id="new-4"), _order(4, user_id="new-1", **phone)]
    _land_orders(copy, [{**row, "updated_at": "2026-10-30"} for row in second], "second.csv")
    (copy.landing / "crm" / "contacts" / "r.csv").write_text("contact_id,user_id,updated_at\nk1,,2026-10-02\n")
    ingest_all(copy)
    run_refresh(copy, 8, *CHAIN)
    kept = (
        "select named_id, channel, identifier_type, identifier_value, is_usable, customer_id "
        "from quality.record_identifiers where is_current order by all"
    )
    metrics = (
        "select metric, channel, identifier_type, value, numerator, denominator from quality.metrics "
        "where refresh = {} and metric not like 'id_churn%' and metric not like 'freshness%' order by all"
    )
    identifiers, values = _rows(copy, kept), _rows(copy, metrics.format(8))
    assert ("new-4",) in [row[3:4] for row in identifiers] and ("new-3",) not in [row[3:4] for row in identifiers]
    moved = _rows(copy, "select numerator from quality.metrics where refresh = 8 and metric = 'id_churn:identifiers'")
    assert moved[0][0] > 0
    run_refresh(copy, 9, *CHAIN, "--full-refresh")
    assert _rows(copy, kept) == identifiers
    assert _rows(copy, metrics.format(9)) == values
    assert _rows(copy, "select min(refresh), max(refresh) from quality.metrics") == [(1, 9)]  # history survives a rebuild


def test_history_is_thinned_to_a_value_a_day_after_a_hundred_refreshes(copy: Home) -> None:
    with copy.connect("test") as connection:
        connection.execute("delete from quality.record_metrics where metric <> 'match_rate' or channel <> '*'")
        connection.execute(
            """
            insert into quality.record_metrics by name
            select m.* exclude (metric_key, refresh, measured_at), concat(n, '|match_rate|*|*') as metric_key, n as refresh,
                timestamp '2026-10-31 00:00:00' - to_hours(cast(8 * (179 - n) as int)) as measured_at
            from quality.record_metrics as m cross join range(7, 180) as numbers (n) where m.refresh = 6
            """
        )
    variables = {"refresh": 180}
    result = dbt.run(copy, [*QUALITY], as_of=datetime(2026, 10, 31, 8), variables=variables)
    assert result.success, dbt.failures(result)
    kept = _rows(copy, "select refresh, measured_at from quality.record_metrics where metric = 'match_rate' and channel = '*'")
    old = [(refresh, at.date()) for refresh, at in kept if refresh <= 80]
    assert len([refresh for refresh, _ in kept if refresh > 80]) == 100
    assert len(old) == len({day for _, day in old})


# What is said -------------------------------------------------------------------------------------------------------


def test_alerts_say_what_changed_and_show_no_contact_value(copy: Home, caplog: pytest.LogCaptureFixture) -> None:
    """A file that breaks several suites at once, whose refused rows are full of contact data, through Dagster's job."""
    people = _people(copy)
    lost = [_order(n, email=p["email"], phone=p["phone"], amount="none") for n, p in enumerate(people[:80])]
    _land_orders(copy, [*lost, *(_order(n, user_id=f"new-{n}") for n in range(100, 400))], "li.lei@example.com.csv")
    ingest_all(copy)
    with caplog.at_level(logging.INFO, logger="onefold"):
        result = run_job(copy, "refresh", tags={"onefold/as_of": (UNTIL + timedelta(hours=7)).isoformat()})
    assert not result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations() if check.metadata.get("what_changed")}
    assert "reject_rate of orders is 0.211" in checks["ingestion"].description
    assert not checks["ingestion"].passed and checks["ingestion"].severity == dg.AssetCheckSeverity.ERROR
    assert not checks["channels"].passed and checks["channels"].severity == dg.AssetCheckSeverity.WARN
    assert any("check ingestion failed on cleaned/events: reject_rate" in line for line in problems(result))
    assert any("check channels warns on cleaned/events: " in line for line in warnings(result))
    assert not any("check channels" in line for line in problems(result))

    pages = {Path(check.metadata["pages"].value.removeprefix("file://")) for check in checks.values()}
    assert copy.quality / "ingestion.html" in pages
    shown = [json.dumps({k: str(v.value) for k, v in check.metadata.items()}, ensure_ascii=False) for check in checks.values()]
    shown += [check.description or "" for check in checks.values()]
    shown += [page.read_text() for page in copy.quality.glob("*.html")]
    shown += [str(row) for row in _rows(copy, "select * from quality.results")]
    shown += [record.getMessage() for record in caplog.records]
    shown += [event.message or "" for event in result.all_events]
    with copy.connect("test") as connection:  # also the rows to look at of the suites that passed
        for suite in quality.suites():
            shown += [str(row) for row in quality._records(connection.execute(metrics.filled_in(copy, suite.look_at)).df())]
    text = "\n".join(shown)
    assert "orders" in text and len(text) > 50_000
    secrets = {p[field] for p in people for field in ("email", "phone", "full_name") if p[field]}
    assert len(secrets) > 200
    assert not [secret for secret in secrets if secret in text]
    assert "li.lei@example.com" not in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("row of li.lei+x@example.com here", "row of … here"),
        ("call +86 138-1234-5678 now", "call … now"),
        ("13812345678", "…"),
        ("order_id 100234567890, u13812345678x", "order_id 100234567890, u13812345678x"),
    ],
)
def test_contact_values_are_struck_out(given: str, shown: str) -> None:
    assert quality.without_contacts(given) == shown


# Pages --------------------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects what a page loads, links and draws, and checks that its elements are closed."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.plots = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        values = dict(attributes)
        if tag in ("script", "link", "img", "iframe"):
            self.loads.append(tag)
        if tag == "a":
            self.links.append(values["href"] or "")
        self.plots += tag == "svg" and values.get("class") != "strip"

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_pages_work_offline_and_show_every_suite_and_metric(company: Home) -> None:
    done = CliRunner().invoke(main, ["--home", str(company.path), "quality", "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["pages"] == str(company.quality / "index.html")
    assert {row["suite"] for row in content["suites"]} == {suite.name for suite in quality.suites()}
    pages = {}
    for file in company.quality.glob("*.html"):
        text = file.read_text(encoding="utf-8")
        page = _Page(text)
        assert text.startswith("<!DOCTYPE html>") and page.open == [] and page.loads == []
        assert all((company.quality / link).exists() for link in page.links)
        assert "url(" not in text and "http" not in text
        pages[file.name] = (page, text)
    assert set(pages) == {"index.html", *(f"{suite.name}.html" for suite in quality.suites())}
    assert len(pages["index.html"][0].links) == len(quality.suites())
    for suite in quality.suites():
        page, text = pages[f"{suite.name}.html"]
        named = " or ".join(f"metric = '{m}' or metric like '{m}:%'" for m in suite.metrics) or "false"
        measured = (
            f"select distinct metric, channel, identifier_type from quality.metrics where value is not null and ({named})"
        )
        assert page.plots == len(_rows(company, measured))
        assert all(expectation["reason"].split(".")[0][:40] in text.replace("&#39;", "'") for expectation in suite.expectations)


def test_a_plot_draws_the_band_and_marks_what_is_outside() -> None:
    def point(value: float, lower: float | None, upper: float | None, outside: bool = False) -> dict:
        moment = datetime(2026, 1, 1)
        return {"value": value, "usual": 0.5, "lower": lower, "upper": upper, "is_anomaly": outside, "measured_at": moment}

    drawn = quality_pages.plot([point(0.5, None, None), point(0.51, 0.4, 0.6), point(0.2, 0.4, 0.6, True)])
    assert drawn.count('class="outside"') == 1 and "2026-01-01 00:00: 0.200, usual 0.500, band from 0.400 to 0.600" in drawn
    [corners] = re.findall(r'class="band" points="([^"]+)"', drawn)
    assert len(corners.split()) == 4
    flat = quality_pages.plot([point(0.5, None, None)])
    assert "nan" not in flat and "inf" not in flat


def test_a_suite_of_plain_numbers_says_what_was_expected(company: Home) -> None:
    reason = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "share", "max_value": 0.2},
        "reason": "because",
    }
    suite = quality.Suite("own", "unified/customers", False, "select 0.3 as share", "select 1 as one", (reason,))
    with company.connect("test") as connection:
        verdict = quality.judge(company, connection, suite, 6)
        connection.execute("delete from quality.results where suite = 'own'")
    assert verdict.changed == ['share is 0.300, expected share {"max_value": 0.2}']
    assert not suite.can_be_approved


def test_today_is_never_read_from_the_clock(company: Home) -> None:
    at = _rows(company, "select max(measured_at), max(anomalous_since) <= max(measured_at) from quality.metrics")
    assert at[0][0].date() == date(2026, 10, 31)
