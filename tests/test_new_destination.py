"""`onefold new destination`: files with every key, that are right and lead nowhere."""

import json
import re

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from dagster_project.cli import main
from dagster_project.lib.delivery.configuration import load_destinations, works
from dagster_project.lib.delivery.drafting import KINDS, draft, variables
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

COLUMNS = {
    *("email", "phone", "first_name", "last_name", "gender", "birth_date", "city", "region", "postal_code", "country"),
}


def run(home: Home, *arguments: str):
    return CliRunner().invoke(main, ["--home", str(home.path), "new", "destination", *arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_file_is_right_sends_nothing_and_has_every_key(home: Home, kind: str) -> None:
    assert run(home, "new_one", "--kind", kind).exit_code == 0
    found = load_destinations(home, {"regulars"}, COLUMNS)
    assert type(found["new_one"]) is KINDS[kind]
    assert works(home, found) == []
    text = (home.path / "destinations" / "new_one.yaml").read_text()
    for name, field in KINDS[kind].model_fields.items():
        if name == "key" and kind in ("google", "meta"):
            continue
        assert re.search(rf"(?m)^(# )?{field.alias or name}:", text), name
        assert not field.description or f"# {field.description}\n" in text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_commented_out_is_what_holds_without_it(kind: str) -> None:
    keys = {field.alias or name: field for name, field in KINDS[kind].model_fields.items()}
    commented = re.findall(r"(?m)^# ([a-z_]+):(.*)$", draft(kind, "new_one"))
    assert commented
    for name, value in commented:
        default = keys[name].get_default(call_default_factory=True)
        default = default.model_dump() if isinstance(default, BaseModel) else default
        assert yaml.safe_load(value) == json.loads(json.dumps(default)), name


@pytest.mark.parametrize("kind", ["files", "webhook", "postgres", "warehouse", "smtp", "drt"])
def test_with_an_audience_and_its_environment_it_opens(home: Home, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    text = draft(kind, "new_one", ["regulars"])
    (home.path / "destinations").mkdir()
    (home.path / "destinations" / "new_one.yaml").write_text(text)
    (work,) = works(home, load_destinations(home, {"regulars"}, COLUMNS))
    if variables(text):
        with pytest.raises(OnefoldError, match=r"NEW_ONE_[A-Z]+ is not set"):
            work.open()
    for name in variables(text):
        monkeypatch.setenv(name, "secret")
    assert work.open().columns


def test_what_to_do_next_is_said(home: Home) -> None:
    result = run(home, "newsletter", "--kind", "smtp", "--json")
    assert json.loads(result.output) == {
        "file": str(home.path / "destinations" / "newsletter.yaml"),
        "kind": "smtp",
        "environment": ["NEWSLETTER_USER", "NEWSLETTER_PASSWORD"],
    }
    assert "Name its audiences there; until then nothing is sent" in " ".join(run(home, "crm", "--kind", "drt").output.split())


def test_nothing_is_overwritten(home: Home) -> None:
    (home.path / "destinations").mkdir()
    file = home.path / "destinations" / "crm.yml"
    file.write_text("kind: warehouse")
    result = run(home, "crm", "--kind", "files")
    assert (result.exit_code, file.read_text()) == (1, "kind: warehouse")
    assert "is there already" in " ".join(result.output.split())
    assert not file.with_suffix(".yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("crm", "--kind", "fax"), "there is no kind 'fax'; there are files, webhook, postgres"),
        (("../crm", "--kind", "files"), "'../crm' is no name of a destination"),
        (("CRM", "--kind", "files"), "write it in lower case"),
        (("crm", "--kind", "files", "--audience", "nobody"), "there is no audience 'nobody'; there are "),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(home: Home, arguments: tuple[str, ...], words: str) -> None:
    result = run(home, *arguments)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
    assert not list(home.path.glob("destinations/*"))


def test_an_advertising_audience_needs_the_number_of_its_list() -> None:
    with pytest.raises(OnefoldError, match="needs the number of its list there"):
        draft("google", "ads", ["regulars"])
