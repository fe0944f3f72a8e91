"""What a user adds: a channel, a tag and an audience, without a line of Python."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Several commands in one process: its start costs more than what they do here.
RUN = """
import sys
from dagster_project.cli import main
for command in sys.argv[1:]:
    main(command.split(), standalone_mode=False)
"""

KIOSK = """
type: dagster_project.components.channel.Channel
attributes:
  channel: kiosk
  description: Touch screens in the stores.
  owner: team:retail
  entities:
    visits:
      description: One row for each visit to a kiosk.
      kind: event
      key: [visit_id]
      event_time: visited_at
      identifiers: {phone: phone, badge_id: badge_id}
      columns:
        visit_id: {required: true}
        visited_at: {type: timestamp, required: true}
        phone: {format: phone}
        badge_id: {description: 'An identifier type that only this channel declares.'}
        topic: {}
"""
CLEANED_KIOSK = """
-- Grain: one visit to a kiosk. Fed by kiosk/visits; read by cleaned.events and identity.

with staged as ({{ staged('kiosk_visits') }})

select
    {{ carried() }},
    {{ event('kiosk_visits', event_name="'kiosk_visited'", occurred_at='visited_at', text='topic') }},
    visit_id,
    visited_at,
    {{ contact('phone', 'phone') }},
    badge_id,
    trim(topic) as topic
from staged
"""
TAG = """
-- Grain: one customer who visited a kiosk; the number is their visits.

select {{ tag('kiosk_visitor', value="'yes'", number_value='count(*)') }}
from {{ ref('unified_customer_events') }}
where customer_id is not null and event_name = 'kiosk_visited'
group by customer_id
"""
TAG_YAML = """
models:
  - name: tags_kiosk_visitor
    description: Visited a kiosk in a store.
    config: {meta: {owner: team:retail, kind: event metric, display_name_en: Kiosk visitor, display_name_zh: 自助屏访客}}
"""
AUDIENCE = """
-- Grain: one customer who visited a kiosk.

select customer_id from {{ ref('tags_customer_tags') }} where tag = 'kiosk_visitor'
"""
AUDIENCE_YAML = """
models:
  - name: audiences_kiosk_visitors
    description: Visited a kiosk.

exposures:
  - name: kiosk_visitors
    label: Kiosk visitors
    type: application
    description: Visited a kiosk.
    owner: {name: retail, email: retail@example.com}
    depends_on: [ref('audiences_kiosk_visitors')]
    config: {meta: {purpose: marketing}}
"""
MAPPING = """
channel: kiosk
entities:
  visits:
    - name: supplier
      location: supplier/*.tsv
      rename: {visit_id: Nr, visited_at: Zeit, phone: Telefon}
      constant: {topic: supplier}
      time_format: '%d.%m.%Y %H:%M'
      time_zone: Asia/Shanghai
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project that a test may change."""
    folder = tmp_path / "project"
    for part in ("dagster_project", "dbt", "expectations", "simulator"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "target", "staging", "made"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _onefold(project: Path, *commands: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(project), "ONEFOLD_HOME": str(project / "home"), "ONEFOLD_KEY": "test"}
    return subprocess.run(
        [sys.executable, "-c", RUN, *commands], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def _documents(text: str) -> list[dict]:
    """Several JSON documents, one after the other."""
    found = []
    while text := text.lstrip():
        document, end = json.JSONDecoder().raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.lstrip("\n"), encoding="utf-8")


def test_a_channel_a_tag_and_an_audience_are_yaml_and_sql(project: Path) -> None:
    home = project / "home"
    _write(project / "dagster_project/defs/channels/kiosk/defs.yaml", KIOSK)
    _write(project / "dbt/models/cleaned/cleaned_kiosk_visits.sql", CLEANED_KIOSK)
    _write(project / "dbt/models/tags/tags_kiosk_visitor.sql", TAG)
    _write(project / "dbt/models/tags/kiosk_visitor.yml", TAG_YAML)
    _write(project / "dbt/models/audiences/audiences_kiosk_visitors.sql", AUDIENCE)
    _write(project / "dbt/models/audiences/kiosk_visitors.yml", AUDIENCE_YAML)
    _write(home / "sources/supplier.yaml", MAPPING)
    _write(
        home / "landing/kiosk/visits/a.csv",
        "visit_id,visited_at,phone,badge_id,topic,firmware\nv1,2026-10-01T10:00:00+08:00,13812345678,B7,shoes,2.1\n",
    )
    # The supplier's own form: other names, tabs, day first; the same phone without its country code in another spelling.
    _write(home / "landing/supplier/b.tsv", "Nr\tZeit\tTelefon\nv2\t02.10.2026 09:30\t+86 138 1234 5678\n")
    _write(
        home / "landing/crm/contacts/c.csv", "contact_id,phone,full_name,updated_at\nc1,(+86)138-1234-5678,李 雷,2026-09-01\n"
    )
    _write(
        home / "landing/crm/consents/d.csv",
        "identifier_type,identifier_value,purpose,channel,status,occurred_at\n"
        "phone,+8613812345678,marketing,sms,granted,2026-09-01T00:00:00Z\n",
    )
    done = _onefold(project, "ingest", "refresh", "publish")
    assert done.returncode == 0, done.stdout + done.stderr
    with duckdb.connect(str(home / "onefold.duckdb")) as warehouse:
        events = warehouse.execute(
            "select record_id, event_name, occurred_at::varchar, phone from cleaned.events order by 1"
        ).fetchall()
        assert events == [
            ("v1", "kiosk_visited", "2026-10-01 02:00:00", "+8613812345678"),
            ("v2", "kiosk_visited", "2026-10-02 01:30:00", "+8613812345678"),
        ]
        people = warehouse.execute("select customer_id, full_name, channels, event_count from unified.customers").fetchall()
        assert [row[1:] for row in people] == [("李雷", "kiosk", 2)]
        held = warehouse.execute("select identifier_type from identity.assignments order by 1").fetchall()
        assert [kind for (kind,) in held] == ["badge_id", "contact_id", "phone"]
        catalog = warehouse.execute("select display_name_zh, coverage from tags.catalog where tag = 'kiosk_visitor'").fetchall()
        assert catalog == [("自助屏访客", 1.0)]
        members = warehouse.execute(
            "select customer_id from audiences.memberships where audience = 'kiosk_visitors'"
        ).fetchall()
        assert members == [(people[0][0],)]
        extra = warehouse.execute("select _extra from staging.kiosk_visits where visit_id = 'v1'").fetchone()
        assert extra == ('{"firmware":"2.1"}',)
    assert (home / "deliveries/kiosk_visitors/v000001.csv").exists()


def test_tags_are_tried_adopted_worked_out_daily_and_retired(project: Path) -> None:
    home = project / "home"

    def land_scores(name: str, rows: str) -> None:
        header = "identifier_type,identifier_value,attribute,value,as_of\n"
        _write(home / f"landing/external/attributes/{name}.csv", header + rows)

    def asked(query: str) -> list[tuple]:
        with duckdb.connect(str(home / "onefold.duckdb")) as warehouse:
            return warehouse.execute(query).fetchall()

    _write(
        home / "landing/web/events/a.csv",
        "event_id,event_name,occurred_at,user_id\n"
        + "".join(f"e{n},searched,2026-10-0{n + 1}T10:00:00Z,u{n % 2}\n" for n in range(5))
        + "".join(f"f{n},searched,2026-10-01T10:00:00Z,v{n}\n" for n in range(5)),
    )
    # Of two scores of one customer the later counts; one below all tiers, an old one and no number give none.
    land_scores(
        "1",
        "user_id,v0,churn_model,0.9,2026-10-01\nuser_id,v0,churn_model,0.25,2026-10-08\nuser_id,v1,churn_model,5e-1,2026-10-08\n"
        "user_id,v2,churn_model,0.1,2026-10-08\nuser_id,v3,churn_model,0.9,2026-09-01\nuser_id,v4,churn_model,high,2026-10-08\n",
    )
    assert _onefold(project, "ingest", "refresh --as-of 2026-10-10").returncode == 0
    model = project / "dbt/models/tags/tags_searcher.sql"
    _write(
        model,
        "-- Grain: one customer who searched.\n\n{{ event_metric_tag('searcher', events=['searched'], tiers={'often': 3}) }}",
    )
    described = "{owner: team:us, kind: event metric, display_name_en: Searcher, display_name_zh: 搜索者}"
    _write(
        model.with_suffix(".yml"),
        f"models:\n  - name: tags_searcher\n    description: Searched.\n    config: {{meta: {described}}}\n",
    )
    tried = _onefold(project, "tag preview searcher --json", "tag preview unheard_of")
    assert "tags_unheard_of.sql" in tried.stderr, tried.stdout + tried.stderr
    (found,) = _documents(tried.stdout)
    assert found["summary"]["known_customers_with_it"] == found["summary"]["gain_it"] == 1
    assert found["summary"]["coverage"] == pytest.approx(1 / 7, abs=1e-4)
    assert [(row["value"], row["mean_number"]) for row in found["values"]] == [("often", 3.0)]

    history = (
        "select value, previous_value, cast(valid_from as date)::varchar, valid_to is null from tags.history "
        "where tag = 'searcher' order by all"
    )
    built = "select 1 from duckdb_tables() where schema_name = 'tags' and table_name = 'searcher'"
    assert asked(history) == [] and asked(built) == []  # nothing was written

    churn = project / "dbt/models/tags/tags_churn.sql"
    _write(
        churn,
        "-- Grain: one customer with a churn score.\n\n"
        "{{ predicted_tag('churn', score='churn_model', tiers={'likely': 0.5, 'possible': 0.2}, days=30) }}",
    )
    daily = "{owner: team:us, kind: predicted, display_name_en: Churn, display_name_zh: 流失, refresh: hourly}"
    said = churn.with_suffix(".yml")
    _write(said, f"models:\n  - name: tags_churn\n    description: Churn.\n    config: {{meta: {daily}}}\n")
    refused = _onefold(project, "refresh --as-of 2026-10-11")
    assert refused.returncode != 0
    assert "config.meta.refresh is continuous or daily, not hourly" in refused.stderr.replace("\n", "")
    _write(said, said.read_text().replace("hourly", "daily"))
    assert _onefold(project, "refresh --as-of 2026-10-11").returncode == 0
    assert asked(history) == [("often", None, "2026-10-11", True)] and asked(built) == [(1,)]
    scores = "select value, number_value from tags.customer_tags where tag = 'churn' order by number_value"
    first = [("possible", 0.25), ("likely", 0.5)]
    assert asked(scores) == first and asked("select cadence from tags.catalog where tag = 'churn'") == [("daily",)]
    land_scores("2", "user_id,v2,churn_model,0.7,2026-10-09\n")
    assert _onefold(project, "ingest", "refresh --as-of 2026-10-11T18:00:00").returncode == 0
    assert asked(scores) == first  # that day it was worked out

    _write(
        model,
        "-- Grain: one customer who searched.\n\n{{ event_metric_tag('searcher', events=['searched'], tiers={'ever': 3}) }}",
    )
    assert _onefold(project, "refresh --as-of 2026-10-12").returncode == 0
    assert asked(history) == [("ever", "often", "2026-10-12", True), ("often", None, "2026-10-11", False)]
    assert asked(scores) == [*first, ("likely", 0.7)]
    model.unlink()
    model.with_suffix(".yml").unlink()
    done = _onefold(project, "refresh --as-of 2026-10-14")
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked(built) == [] and asked("select 1 from tags.customer_tags where tag = 'searcher'") == []
    assert {is_open for *_, is_open in asked(history)} == {False}


def test_a_wrong_channel_is_refused_before_anything_runs(project: Path) -> None:
    _write(project / "dagster_project/defs/channels/kiosk/defs.yaml", KIOSK.replace("kind: event", "kind: evnt"))
    _write(project / "home/landing/crm/contacts/c.csv", "contact_id,updated_at\nc1,2026-09-01\n")
    done = _onefold(project, "ingest")
    assert done.returncode != 0
    assert "kiosk/defs.yaml: attributes.entities.visits.kind: 'evnt' is not one of" in done.stderr.replace("\n", "")
    assert not (project / "home/onefold.duckdb").exists()


SEARCHERS = """
label: Searchers
label_zh: 搜索者
owner: {name: retail, email: retail@example.com}
purpose: marketing
control: {share: 0.4}
who: {event: {name: searched, at_least: 2, within_days: 30}}
"""
ALL_KINDS = """
label: All kinds
owner: {name: retail, email: retail@example.com}
purpose: service
exclusive_group: everything
priority: 1
who:
  any:
    - tag: {name: lifecycle, is: prospect, confidence: 0.9}
    - tag: {name: lifecycle, became: active, from: new, within_days: 7}
    - tag: {name: lifecycle, was: new, within_days: 7}
    - tag: {name: sensitive_skin, at_least: 10}
    - event: {name: searched, where: {channel: web, category: tea}, amount_at_least: 9.5, within_days: 30}
    - event: {name: searched, at_most: 2, within_days: 30}
    - event: {name: searched, not_followed_by: order_placed, within_days: 30}
    - funnel: {name: purchase, reached: put into the cart, not_reached: ordered}
    - trait: {name: age, at_least: 18, at_most: 30}
    - trait: {name: last_event_at, older_than_days: 3}
    - trait: {name: is_over_merge_suspect, is: false}
    - place: {city: 上海, region: Illinois, country: CN}
    - consent: {purpose: marketing, channel: sms}
    - not: {audience: {in: cart_abandoners}}
"""
FIRST = """
label: First
owner: {name: retail, email: retail@example.com}
purpose: care
exclusive_group: everything
priority: 2
who: {audience: {in: searchers}}
"""


def test_an_audience_in_yaml_is_previewed_built_published_and_retired(project: Path) -> None:
    home = project / "home"
    _write(project / "dbt/audiences/searchers.yaml", SEARCHERS)
    _write(project / "dbt/audiences/all_kinds.yaml", ALL_KINDS)
    _write(project / "dbt/audiences/first.yaml", FIRST)
    people = range(30)
    _write(
        home / "landing/web/events/a.csv",
        "event_id,event_name,occurred_at,user_id\n"
        + "".join(f"e{n}-{m},search,2026-10-0{m + 1}T10:00:00Z,u{n}\n" for n in people for m in range(n % 3 + 1)),
    )
    _write(
        home / "landing/crm/consents/d.csv",
        "identifier_type,identifier_value,purpose,channel,status,occurred_at\n"
        + "".join(f"user_id,u{n},marketing,any,granted,2026-09-01T00:00:00Z\n" for n in people if n != 2),
    )
    done = _onefold(project, "check", "ingest", "refresh --as-of 2026-10-10")
    assert done.returncode == 0, done.stdout + done.stderr
    names = ("searchers", "all_kinds", "first", "dbt/audiences/searchers.yaml", "cart_abandoners")
    asks = [f"audience preview {name} --json" for name in names]
    told = _onefold(project, *asks, "audience explain searchers user_id:u0 --json")
    assert told.returncode == 0, told.stdout + told.stderr
    *answers, explained = _documents(told.stdout)
    previews = dict(zip(names, answers, strict=True))
    assert [c["holds"] for c in explained["conditions"]] == [False]
    assert _onefold(project, "publish").returncode == 0

    def asked(query: str) -> list[tuple]:
        with duckdb.connect(str(home / "onefold.duckdb")) as warehouse:
            return warehouse.execute(query).fetchall()

    counts = {name: asked(f"select count(*) from audiences.{name}")[0][0] for name in ("searchers", "all_kinds", "first")}
    assert counts == {"searchers": 20, "all_kinds": 10, "first": 20}  # two of three searched twice or more
    assert {name: previews[name]["summary"]["members"] for name in counts} == counts
    assert previews["dbt/audiences/searchers.yaml"] == {**previews["searchers"], "as_of": "2026-10-10 00:00:00"}
    held = asked("select count(*) from audiences.searchers where is_control")[0][0]
    assert 0 < held < 20 and previews["searchers"]["summary"]["control_group"] == held
    reasons = dict(asked("select reason, count(*) from audiences.exclusions where audience = 'searchers' group by 1"))
    consenting = asked(
        "select count(*) from audiences.searchers semi join unified.consents using (customer_id) where is_control"
    )
    assert reasons["control group"] == consenting[0][0] and set(reasons) <= {"control group", "no consent"}
    controls = "select count(*) from audiences.control_memberships where audience = 'searchers' and left_at is null"
    assert asked(controls) == [(reasons["control group"],)]
    why = "select distinct entered_kind, entered_reason from audiences.memberships where audience = 'searchers'"
    assert asked(why) == [("first", "first version: searched at least 2 times in the last 30 days")]
    delivered = (
        "select count(*) from audiences.memberships semi join (from audiences.searchers where is_control) as held "
        "using (customer_id) where audience = 'searchers'"
    )
    assert asked(delivered) == [(0,)]

    for name in ("first", "all_kinds"):
        (project / f"dbt/audiences/{name}.yaml").unlink()
    done = _onefold(project, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((project / "dbt/models/audiences/made").glob("*all_kinds*"))
    _write(project / "dbt/audiences/first.yaml", FIRST.replace("in: searchers", "in: serchers"))
    refused = _onefold(project, "refresh --as-of 2026-10-11")
    assert refused.returncode != 0
    assert "first.yaml: who.audience.in: there is no audience 'serchers': did you mean 'searchers'?" in refused.stderr.replace(
        "\n", ""
    )
