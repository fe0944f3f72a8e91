"""`onefold new destination`: files with every key, that are right and lead nowhere."""

import json
import re
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import yaml
from click.testing import CliRunner
from conformance import Conforms, Place
from pydantic import BaseModel

from dagster_project.cli import main
from dagster_project.lib.delivery import calls, configuration, destination
from dagster_project.lib.delivery.configuration import load_destinations, works
from dagster_project.lib.delivery.drafting import KINDS, draft, variables
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home

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


# ------------------------------------------------------------------ what the documentation shows

DOCS = (PROJECT_ROOT / "docs" / "destinations.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(kind: .*?)```", DOCS, re.S)


@pytest.mark.parametrize("text", EXAMPLES, ids=[example.split()[1] for example in EXAMPLES])
def test_files_of_the_documentation_are_right(home: Home, text: str) -> None:
    audiences = {
        name for names in re.findall(r"(?m)^audiences: [\[{](.*?)[\]}]", text) for name in re.findall(r"[a-z_]{3,}", names)
    }
    (home.path / "destinations").mkdir()
    (home.path / "destinations" / "shown.yaml").write_text(text)
    assert load_destinations(home, audiences, COLUMNS)["shown"].audiences


class Server:
    """The loyalty programme that the documentation adds a kind for."""

    def __init__(self) -> None:
        self.members: dict[str, dict] = {}
        self.refused: set[str] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.headers["authorization"] == "Bearer hush"
                errors = []
                for index, row in enumerate(body.get("join", [])):
                    if row["customer_id"] in server.refused:
                        errors.append({"index": index, "code": "BLOCKED"})
                    else:
                        server.members[row["customer_id"]] = row
                for row in body.get("leave", []):
                    server.members.pop(row["customer_id"], None)
                answer = json.dumps({"id": "r-1", "errors": errors}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class TestProgrammeOfTheDocumentation(Conforms):
    @pytest.fixture
    def place(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
        sends, configures = re.findall(r"```python\n(.*?)```", DOCS.partition("## Add a kind")[2], re.S)[:2]
        module = types.ModuleType("dagster_project.lib.delivery.programme")
        known = {**vars(calls), **vars(destination), "httpx": httpx}
        vars(module).update({name: value for name, value in known.items() if not name.startswith("__")})
        exec(compile(sends, "docs/destinations.md", "exec"), vars(module))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        configured = dict(vars(configuration))
        exec(compile(configures, "docs/destinations.md", "exec"), configured)
        server = Server()
        monkeypatch.setenv("TOKEN", "hush")
        given = {
            "kind": "programme",
            "url": f"http://127.0.0.1:{server.http.server_port}",
            "token": {"env": "TOKEN"},
            "audiences": ["regulars"],
            "columns": ["customer_id", "email"],
            "batch_size": 2,
        }
        found = configured["ProgrammeConfigured"].model_validate(given)
        place = Place()
        place.rows = [{"customer_id": name, "email": f"{name}@example.com"} for name in "abc"]
        place.open = lambda: found.open(home, "loyalty", "regulars")
        place.content = lambda: list(server.members)
        place.refuse, place.leave = server.refused.add, server.stop
        yield place
        if server.http.fileno() != -1:
            server.stop()
