"""Advertising: hashes by the platforms' published rules, and what is sent, against loopback servers that enforce their limits.

Hashes are literals: published by the platforms where a comment says so, else made with `printf '%s' … | sha256sum`.
"""

import hashlib
import hmac
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest
from conformance import Conforms, Place
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from dagster_project.lib.delivery import google as google_module
from dagster_project.lib.delivery import hashing, meta
from dagster_project.lib.delivery.configuration import load_destinations
from dagster_project.lib.delivery.destination import ACCEPTED, Refused, Unavailable, rejected, try_again
from dagster_project.lib.delivery.google import DataManager, GoogleAds
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.delivery.meta import CustomAudience
from dagster_project.lib.delivery.planning import plan
from dagster_project.lib.delivery.sending import Report, Retries, Sender
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.statements import NewRefusals, Statement, state

SHA = re.compile(r"[0-9a-f]{64}")


# Hashes


@pytest.mark.parametrize(
    ("given", "digest"),
    [
        # Published: googleads/data-manager-python, tests/formatter_test.py.
        ("  ALEXZ@example.com   ", "509e933019bb285a134a9334b8bb679dff79d0ce023d529af4bd744d47b4fd8a"),
        # The address is published (Data Manager API, Format user data); the hash is of cloudysanfrancisco@gmail.com.
        ("cloudy.sanfrancisco+shopping@gmail.com", "223ebda6f6889b1494551ba902d9d381daf2f642bae055888e96343d53e9f9c4"),
        ("Cloudy.San Francisco@GMAIL.com", "223ebda6f6889b1494551ba902d9d381daf2f642bae055888e96343d53e9f9c4"),
        ("Jefferson.LOVES.Hiking+x@googlemail.com", "2824967181c781aced84c32bf8bb51fc6401202eeff88263776f63c99df9314c"),
        # Dots and plus stay elsewhere; published address, hash of user.name+nyc@example.com.
        ("user.name+NYC@Example.com", "f109a2a632fbcea5fc82049f50beed3d8621bf9034399f437fb622222acccdac"),
        (
            "509E933019BB285A134A9334B8BB679DFF79D0CE023D529AF4BD744D47B4FD8A",
            "509e933019bb285a134a9334b8bb679dff79d0ce023d529af4bd744d47b4fd8a",
        ),
        ("quinn", None),
        (" @googlemail.com", None),
        (" ...@gmail.com", None),
        ("+all@gmail.com", None),
        ("a@b@example.com", None),
        ("", None),
        (None, None),
    ],
)
def test_google_hashes_emails(given: str | None, digest: str | None) -> None:
    assert hashing.hashed(given, hashing.google_email) == digest


@pytest.mark.parametrize(
    ("given", "region", "digest"),
    [
        # Published: googleads/data-manager-python, tests/formatter_test.py.
        ("   +1-800-555-0100", "CN", "fb4f73a6ec5fdb7077d564cdd22c3554b43ce49168550c3b12c547b78c517b30"),
        ("(800)555-0100", "US", "fb4f73a6ec5fdb7077d564cdd22c3554b43ce49168550c3b12c547b78c517b30"),
        ("138 0013 8000", "CN", "ec61f3c620a98bdead8c1f1f0ae747abd1b62a0c2dba4fd4bc22cf0d1d8653e5"),  # +8613800138000
        ("0086 13800138000", "US", "ec61f3c620a98bdead8c1f1f0ae747abd1b62a0c2dba4fd4bc22cf0d1d8653e5"),
        ("n/a", "CN", None),
        ("000", "CN", None),
        ("+A BCD EFG", "CN", None),
        ("12345", "US", None),
    ],
)
def test_google_hashes_phones_with_their_plus(given: str, region: str, digest: str | None) -> None:
    assert hashing.hashed(given, lambda value: hashing.google_phone(value, region)) == digest


@pytest.mark.parametrize(
    ("given", "digest"),
    [
        # Published: googleads/data-manager-python, tests/formatter_test.py.
        ("  GivenName  ", "128a07bfe2df877c52076e60d7774cf5baaa046c5a6c48daf30ff43ecca2f814"),
        ("FamilyName ", "77762c287e61ce065bee5c15464012c6fbe088398b8057627d5577249430d574"),
        ("O'Brien", "65b87174be3b1b122e2b0929f0b84888637d31a4a83bb96a860bcff411f5e668"),  # o'brien
        ("　王 ", "3399a0e651ad104cd1f53cd0c44d08b70c6c2e8e1eba56f2d244368264322118"),  # 王, in UTF-8
        ("小明", "df3ea25a4369305a82412d479a21bd5e2d60e256d4160728e21faeb2806cde3f"),
        ("Vale\u0301ry", "08e1996b5dd49e62a4b4c010d44e4345592a863bb9f8e3976219bac29417149c"),  # valéry, composed
        ("   ", None),
    ],
)
def test_google_hashes_names(given: str, digest: str | None) -> None:
    assert hashing.hashed(given, hashing.google_name) == digest


@pytest.mark.parametrize(
    ("given", "digest"),
    [
        # Published: Conversions API, Customer information parameters.
        (" John_Smith@gmail.com", "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f"),
        # Published: Marketing API, Custom Audiences.
        ("mary@example.com", "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79"),
        ("user.name+NYC@Example.com", "f109a2a632fbcea5fc82049f50beed3d8621bf9034399f437fb622222acccdac"),
        (
            "F1904CF1A9D73A55FA5DE0AC823C4403DED71AFD4C3248D00BDCD0866552BB79",
            "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79",
        ),
        ("two words@example.com", None),
        ("nobody", None),
    ],
)
def test_meta_hashes_emails(given: str, digest: str | None) -> None:
    assert hashing.hashed(given, hashing.meta_email) == digest


def test_meta_keeps_the_dots_that_google_drops() -> None:
    assert hashing.google_email("a.b+c@gmail.com") == "ab@gmail.com"
    assert hashing.meta_email("a.b+c@gmail.com") == "a.b+c@gmail.com"


@pytest.mark.parametrize(
    ("given", "region", "digest"),
    [
        # Published: Conversions API, Customer information parameters.
        ("(650)555-1212", "US", "e323ec626319ca94ee8bff2e4c87cf613be6ea19919ed1364124e16807ab3176"),
        ("+86 138-0013-8000", "US", "bf08aacce7f9b2452863cf99373043c3333f0e3127f1f787c4abb46ab6cf2b83"),  # 8613800138000
        ("0086 13800138000", "US", "bf08aacce7f9b2452863cf99373043c3333f0e3127f1f787c4abb46ab6cf2b83"),
        ("unknown", "CN", None),
        ("0", "CN", None),
    ],
)
def test_meta_hashes_phones_as_digits(given: str, region: str, digest: str | None) -> None:
    assert hashing.hashed(given, lambda value: hashing.meta_phone(value, region)) == digest


@pytest.mark.parametrize(
    ("given", "digest"),
    [
        # Published: Conversions API, Customer information parameters.
        ("Mary", "6915771be1c5aa0c886870b6951b03d7eafc121fea0e80a5ea83beb7c449f4ec"),
        ("정", "8fa8cd9c440be61d0151429310034083132b35975c4bea67fdd74158eb51db14"),
        ("Valéry", "08e1996b5dd49e62a4b4c010d44e4345592a863bb9f8e3976219bac29417149c"),
        ("VALE\u0301RY", "08e1996b5dd49e62a4b4c010d44e4345592a863bb9f8e3976219bac29417149c"),
        ("O’Brien", "b4cb6cb33fe4b865868de825023a1e2790dc12ac01ecc8d7c5afe8254071c8ba"),  # obrien
        ("Anne-Marie", "67495eb5715de43c26f7c18b25cc7f62a7540236516bd59d5162a6f743598083"),  # annemarie
        ("小明", "df3ea25a4369305a82412d479a21bd5e2d60e256d4160728e21faeb2806cde3f"),
        ("阿凡提·买买提", "6a4ec0a5b650efbf6002893362a3fbb7fee74c7d66be49ddadd46b9115fcdf29"),  # without its dot
        ("—", None),
    ],
)
def test_meta_hashes_names_without_punctuation(given: str, digest: str | None) -> None:
    assert hashing.hashed(given, hashing.meta_name) == digest


@pytest.mark.parametrize(
    ("form", "given", "normal"),
    [
        (hashing.meta_gender, "female", "f"),
        (hashing.meta_gender, "M", "m"),
        (hashing.meta_gender, "other", None),
        # Examples of the Conversions API's page: Paris, London, New York.
        (hashing.meta_city, "Paris", "paris"),
        (hashing.meta_city, "New York", "newyork"),
        (hashing.meta_city, "St. Gallen 9000", "stgallen"),
        (hashing.meta_city, "São Paulo", "saopaulo"),
        (hashing.meta_city, "Gießen", "giessen"),
        (hashing.meta_city, "北京", None),  # only names of people may be in another alphabet
        (hashing.meta_city, "Beijing 北京", None),
        (hashing.meta_country, "CN", "cn"),
        (hashing.meta_country, "Narnia", None),
        (hashing.meta_country, "ZZ", None),
        (hashing.google_country, " us", "US"),
        (hashing.google_country, "79adb2a2fce5c6ba215fe5f27f532d4e7edbac4b6a5e09e1ef3a08084a904621", None),
        (hashing.google_postal_code, " 1229-076  ", "1229-076"),  # Google's test
        (hashing.google_postal_code, "1794327a4d443904421f5ca1f3d72d0a62ba2f0770d80755ec2220fc0efb052e", None),
        (hashing.meta_mobile_id, " AECE52E7-03EE-455A-B3C4-E57283966239", "aece52e7-03ee-455a-b3c4-e57283966239"),
        (hashing.meta_mobile_id, "00000000-0000-0000-0000-000000000000", None),
        (hashing.meta_mobile_id, "aece52e7", None),
        (hashing.meta_birth_date, date(1990, 2, 9), ("1990", "02", "09")),
        (hashing.meta_birth_date, "1990-02-09", ("1990", "02", "09")),
        (hashing.meta_birth_date, "1990-02-30", None),
        (hashing.meta_birth_date, "1899-12-31", None),
        (hashing.meta_birth_date, date.today() + timedelta(days=400), None),
        (hashing.meta_birth_date, None, None),
    ],
)
def test_other_fields_take_their_form(form: Callable, given: object, normal: object) -> None:
    assert form(given) == normal


@pytest.mark.parametrize(
    ("given", "country", "normal"),
    [
        ("CA", "us", "ca"),
        ("California", "us", "ca"),
        ("District of Columbia", "us", "dc"),
        ("new  york", None, "ny"),
        ("Québec", "ca", "qc"),
        ("British Columbia", "ca", "bc"),
        ("Washington", "gb", "washington"),  # a town near Sunderland
        ("广东", "cn", None),
        ("Guangdong", "cn", "guangdong"),
        ("Baden-Württemberg", "de", "badenwurttemberg"),
        ("...", "us", None),
    ],
)
def test_states_are_two_letters_where_they_have_them(given: str, country: str | None, normal: str | None) -> None:
    assert hashing.meta_state(given, country) == normal


@pytest.mark.parametrize(
    ("given", "country", "normal"),
    [
        ("94035-1234", "us", "94035"),
        ("940351234", "us", "94035"),
        ("SW1A 1AA", "gb", "sw1a1"),
        ("M1 1AE", "gb", "m11"),
        ("SW1A", "gb", "sw1a"),
        ("100000", "cn", "100000"),
        ("-", None, None),
    ],
)
def test_postal_codes_end_at_the_dash(given: str, country: str | None, normal: str | None) -> None:
    assert hashing.meta_zip(given, country) == normal


FORMS: list[Callable[[str], str | None]] = [
    hashing.google_email,
    hashing.google_name,
    hashing.meta_email,
    hashing.meta_name,
    hashing.meta_city,
    lambda value: hashing.google_phone(value, "CN"),
    lambda value: hashing.meta_phone(value, "CN"),
    lambda value: hashing.meta_state(value, "us"),
    lambda value: hashing.meta_zip(value, "us"),
]
ADDRESSES = st.from_regex(r"[a-zA-Z0-9.+_-]{1,12}@(gmail|googlemail|example)\.com", fullmatch=True)
PHONES = st.from_regex(r"1[358][0-9]{9}", fullmatch=True)
TEXTS = st.one_of(st.text(), ADDRESSES, PHONES, st.from_regex(r"[A-Za-z '-]{1,20}", fullmatch=True))
FORM = st.sampled_from(FORMS)


@given(TEXTS, FORM)
def test_hashing_a_hash_changes_nothing(text: str, form: Callable[[str], str | None]) -> None:
    digest = hashing.hashed(text, form)
    if digest is not None:
        assert SHA.fullmatch(digest)
        assert hashing.hashed(digest, form) == digest == hashing.hashed(f" {digest.upper()}\n", form)


def test_half_a_character_does_not_fail_the_batch() -> None:
    assert (
        hashing.hashed("Mary\ud83d", hashing.google_name) == "6915771be1c5aa0c886870b6951b03d7eafc121fea0e80a5ea83beb7c449f4ec"
    )
    assert hashing.hashed("\ud83d", hashing.google_name) is None


@given(TEXTS, FORM)
def test_a_normal_form_is_its_own_normal_form(text: str, form: Callable[[str], str | None]) -> None:
    normal = form(text)
    if normal and form is not FORMS[6]:  # Meta's digits have lost the plus that says that they begin with a country code
        assert form(normal) == normal


@given(
    st.one_of(ADDRESSES, st.from_regex(r"[A-Za-z0-9 '-]{1,20}", fullmatch=True)),
    FORM,
    st.sampled_from([" ", "\t", "　", "\u200b", "\ufeff"]),
)
def test_case_and_space_around_a_value_do_not_matter(text: str, form: Callable[[str], str | None], space: str) -> None:
    assert form(text) == form(text.upper()) == form(text.lower()) == form(f"{space}{text}{space}")


# Loopback servers


class Server:
    """A platform on loopback: `answer` gets method, path, headers and body; what it was sent is kept."""

    def __init__(self, answer: Callable[..., tuple[int, dict, object]]) -> None:
        self.requests: list[tuple[str, str, dict[str, str], object]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                body: object = raw.decode()
                if self.headers.get("content-type", "").startswith("application/json"):
                    body = json.loads(raw)
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((self.command, self.path, headers, body))
                answered = answer(self.command, self.path, headers, body)
                if answered is None:  # hang up without a word
                    self.close_connection = True
                    return
                status, extra, content = answered
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **extra, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[..., tuple[int, dict, object]]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def person(number: int, **other: object) -> dict[str, object]:
    """A customer with everything."""
    return {
        "customer_id": f"c{number}",
        "email": f"person{number}@example.com",
        "phone": f"+86138{number:08d}",
        "first_name": "小明",
        "last_name": "王",
        "gender": "female",
        "birth_date": "1990-02-09",
        "city": "北京",
        "region": "北京",
        "postal_code": "100000",
        "country": "CN",
    } | other


PERSONAL = re.compile(r"person\d|@example|\+?86138|小明|王|\b1990")  # a port may end in these digits


class Google:
    """What Google's servers do: tokens, the Data Manager API with its fail-fast model, the Google Ads API with its jobs."""

    def __init__(self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
        self.members: set[str] = set()  # e-mail hashes in the audience
        self.jobs: dict[str, dict] = {}
        self.bad: dict[str, str] = {}  # what Google says of the member with this e-mail hash
        self.next: list[tuple[int, dict, object] | None] = []  # answers to the next calls, before it behaves as usual
        self.token = "ya29.test"
        self.token_answer: tuple[int, dict, object] | None = None
        self.server = serve(self._answer)
        credentials = {
            "type": "authorized_user",
            "client_id": "id",
            "client_secret": "hush",
            "refresh_token": "1//test",
            "token_uri": f"{self.server.url}/token",
            "quota_project_id": "our-project",
        }
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", json.dumps(credentials))
        monkeypatch.setenv("GOOGLE_ADS_DEVELOPER_TOKEN", "developer")

    @property
    def calls(self) -> list[tuple[str, str, dict[str, str], dict]]:
        return [request for request in self.server.requests if request[1] != "/token"]

    def _answer(self, method: str, path: str, headers: dict[str, str], body: object) -> tuple[int, dict, object] | None:
        if path == "/token":
            return self.token_answer or (200, {}, {"access_token": self.token, "expires_in": 3600, "token_type": "Bearer"})
        if self.next:
            return self.next.pop(0)
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {}, {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "no"}}
        if path.startswith("/v1/audienceMembers:"):
            return self._data_manager(path.rpartition(":")[2], body)
        if path.startswith("/v26/customers/"):
            return self._ads(path, headers, body)
        return 404, {}, {"error": {"code": 404, "status": "NOT_FOUND"}}

    def _data_manager(self, verb: str, body: dict) -> tuple[int, dict, object]:
        members = body["audienceMembers"]
        violations = []
        if len(members) > 10_000:
            violations.append({"field": "audience_members", "reason": "TOO_MANY_AUDIENCE_MEMBERS"})
        if verb == "ingest" and body.get("consent") != {
            "adUserData": "CONSENT_GRANTED",
            "adPersonalization": "CONSENT_GRANTED",
        }:
            violations.append({"field": "consent", "reason": "REQUIRED_FIELD_MISSING"})
        if verb == "remove" and set(body) - {"destinations", "audienceMembers", "encoding", "validateOnly"}:
            violations.append({"field": "remove", "reason": "INVALID_ARGUMENT"})
        for i, member in enumerate(members):
            field = f"audience_members.audience_members[{i}]"
            identifiers = member["userData"]["userIdentifiers"]
            if not 1 <= len(identifiers) <= 10:
                violations.append({"field": field, "reason": "TOO_MANY_USER_IDENTIFIERS"})
            for identifier in identifiers:
                reason = self._fault(identifier)
                if reason:
                    text = f"{json.dumps(identifier)} of person1@example.com is not accepted"  # a careless platform
                    field = f"{field}.user_data.user_identifiers"
                    violations.append({"field": field, "description": text, "reason": reason})
                    break
        if violations:
            details = [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "INVALID_ARGUMENT"},
                {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "t-failed"},
                {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations[:20]},
            ]
            return 400, {}, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": details}}
        self._apply(verb == "ingest", [i.get("emailAddress") for m in members for i in m["userData"]["userIdentifiers"]])
        return 200, {}, {"requestId": f"t-{len(self.calls)}"}

    def _fault(self, identifier: dict) -> str | None:
        (kind, value), *more = identifier.items()
        if more:
            return "INVALID_ARGUMENT"
        if kind == "address":
            return None if set(value) == {"givenName", "familyName", "regionCode", "postalCode"} else "REQUIRED_FIELD_MISSING"
        return self.bad.get(value) if SHA.fullmatch(value) else "INVALID_SHA256_FORMAT"

    def _apply(self, is_added: bool, emails: list[str | None]) -> None:
        found = {email for email in emails if email}
        self.members = self.members | found if is_added else self.members - found

    def _ads(self, path: str, headers: dict[str, str], body: dict) -> tuple[int, dict, object]:
        if headers.get("developer-token") != "developer":
            return 401, {}, {"error": {"code": 401, "status": "UNAUTHENTICATED"}}
        if path.endswith("offlineUserDataJobs:create"):
            name = f"customers/1234567890/offlineUserDataJobs/{len(self.jobs) + 1}"
            self.jobs[name] = {"job": body["job"], "operations": [], "is_run": False}
            return 200, {}, {"resourceName": name}
        name, _, verb = path.removeprefix("/v26/").rpartition(":")
        job = self.jobs[name]
        if verb == "run":
            job["is_run"] = True
            for operation in job["operations"]:
                (kind, data) = next(iter(operation.items()))
                self._apply(kind == "create", [i.get("hashedEmail") for i in data["userIdentifiers"]])
            return 200, {}, {"name": f"{name}/operations/1"}
        if body.get("enablePartialFailure") is not True:
            return self._ads_error(400, {"partialFailureError": "PARTIAL_FAILURE_MODE_REQUIRED"}, None)
        operations = body["operations"]
        identifiers = [next(iter(operation.values()))["userIdentifiers"] for operation in operations]
        if sum(map(len, identifiers)) > 100_000 or max(map(len, identifiers)) > 20:
            return self._ads_error(400, {"offlineUserDataJobError": "TOO_MANY_USER_IDENTIFIERS"}, None)
        errors = [
            self._ads_failure({"offlineUserDataJobError": self.bad[identifier["hashedEmail"]]}, i)
            for i, found in enumerate(identifiers)
            for identifier in found
            if identifier.get("hashedEmail") in self.bad
        ]
        at_fault = {error["location"]["fieldPathElements"][0]["index"] for error in errors}
        job["operations"] += [operation for i, operation in enumerate(operations) if i not in at_fault]
        if not errors:
            return 200, {}, {}
        detail = {"@type": "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure", "errors": errors}
        return 200, {}, {"partialFailureError": {"code": 3, "message": "person1@example.com", "details": [detail]}}

    @staticmethod
    def _ads_failure(code: dict, index: int) -> dict:
        path = [{"fieldName": "operations", "index": index}, {"fieldName": "create"}]
        return {"errorCode": code, "message": "person1@example.com", "location": {"fieldPathElements": path}}

    @classmethod
    def _ads_error(cls, status: int, code: dict, details: dict | None) -> tuple[int, dict, object]:
        failure = {"errorCode": code, "message": "person1@example.com"} | ({"details": details} if details else {})
        detail = {"@type": "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure", "errors": [failure]}
        return status, {}, {"error": {"code": status, "details": [detail]}}


@pytest.fixture
def google(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Google:
    return Google(serve, monkeypatch)


CONSENTED = {"region": "CN", "ad_user_data": "granted", "ad_personalization": "granted"}


@pytest.fixture
def data_manager(google: Google) -> Iterator[DataManager]:
    destination = DataManager(
        account_id="123-456-7890", audience_id="77", terms_accepted=True, endpoint=google.server.url, **CONSENTED
    )
    yield destination
    destination.close()


@pytest.fixture
def google_ads(google: Google) -> Iterator[GoogleAds]:
    destination = GoogleAds(
        account_id="1234567890", audience_id="77", login_account_id="999-999-9999", endpoint=google.server.url, **CONSENTED
    )
    yield destination
    destination.close()


def email_hash(number: int) -> str:
    return hashlib.sha256(f"person{number}@example.com".encode()).hexdigest()


def test_google_is_sent_the_documented_request(google: Google, data_manager: DataManager) -> None:
    row = person(1, email="mary@example.com", phone="138 0013 8000", first_name="Valéry", last_name="O'Brien", country="US")
    outcome = data_manager.send("add", [row], "k")
    assert (outcome.request_id, outcome.results) == ("t-1", (ACCEPTED,))
    method, path, headers, body = google.calls[0]
    assert (method, path, headers["x-goog-user-project"]) == ("POST", "/v1/audienceMembers:ingest", "our-project")
    assert body == {
        "destinations": [
            {"operatingAccount": {"accountType": "GOOGLE_ADS", "accountId": "1234567890"}, "productDestinationId": "77"}
        ],
        "audienceMembers": [
            {
                "userData": {
                    "userIdentifiers": [
                        {"emailAddress": "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79"},
                        {"phoneNumber": "ec61f3c620a98bdead8c1f1f0ae747abd1b62a0c2dba4fd4bc22cf0d1d8653e5"},
                        {
                            "address": {
                                "givenName": "08e1996b5dd49e62a4b4c010d44e4345592a863bb9f8e3976219bac29417149c",
                                "familyName": "65b87174be3b1b122e2b0929f0b84888637d31a4a83bb96a860bcff411f5e668",
                                "regionCode": "US",
                                "postalCode": "100000",
                            }
                        },
                    ]
                }
            }
        ],
        "encoding": "HEX",
        "consent": {"adUserData": "CONSENT_GRANTED", "adPersonalization": "CONSENT_GRANTED"},
        "termsOfService": {"customerMatchTermsOfServiceStatus": "ACCEPTED"},
    }


def test_a_phone_that_normalises_to_nothing_is_left_out_of_its_row_only(google: Google, data_manager: DataManager) -> None:
    rows = [person(1, phone="n/a", postal_code=None), person(2), person(3, phone="?", email="none", country=None)]
    assert data_manager.send("add", rows, "k").results == (ACCEPTED, ACCEPTED, rejected("no usable identifier"))
    first, second = google.calls[0][3]["audienceMembers"]
    assert [list(i) for i in first["userData"]["userIdentifiers"]] == [["emailAddress"]]
    assert [list(i) for i in second["userData"]["userIdentifiers"]] == [["emailAddress"], ["phoneNumber"], ["address"]]


def test_rows_without_any_identifier_make_no_request(google: Google, data_manager: DataManager, google_ads: GoogleAds) -> None:
    rows = [person(1, email=None, phone=None, first_name=None)] * 2
    for destination in (data_manager, google_ads):
        assert destination.send("add", rows, "k").results == (rejected("no usable identifier"),) * 2
    assert google.calls == []


def test_a_member_has_ten_identifiers_at_most_and_each_once(google: Google, data_manager: DataManager) -> None:
    emails = [f"person{i}@example.com" for i in range(12)] + ["PERSON0@example.com"]
    assert data_manager.send("add", [person(1, email=emails)], "k").results == (ACCEPTED,)
    assert len(google.members) == 10


def test_the_same_row_twice_and_a_removal_leave_the_audience_right(google: Google, data_manager: DataManager) -> None:
    for _ in range(2):
        data_manager.send("add", [person(1), person(2)], "k")
    assert google.members == {email_hash(1), email_hash(2)}
    assert data_manager.send("remove", [person(1)], "l").results == (ACCEPTED,)
    assert google.members == {email_hash(2)}
    assert google.calls[-1][1] == "/v1/audienceMembers:remove"


def test_google_rejects_rows_it_names_and_gets_the_others_again(
    google: Google, data_manager: DataManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    google.bad = {email_hash(i): "INVALID_AUDIENCE_MEMBER" for i in range(0, 60, 2)}  # more than one answer names
    outcome = data_manager.send("add", [person(i) for i in range(60)], "k")
    assert outcome.results == tuple(ACCEPTED if i % 2 else rejected("INVALID_AUDIENCE_MEMBER") for i in range(60))
    assert google.members == {email_hash(i) for i in range(1, 60, 2)}
    assert len(google.calls) == 3
    assert not PERSONAL.search(caplog.text + repr(outcome))


def test_what_a_platform_says_beyond_its_code_words_is_not_repeated(google: Google, data_manager: DataManager) -> None:
    google.bad = {email_hash(1): "person1@example.com"}
    assert data_manager.send("add", [person(1), person(2)], "k").results == (rejected("INVALID_ARGUMENT"), ACCEPTED)


def test_what_google_did_not_settle_in_ten_answers_is_asked_for_again(google: Google, data_manager: DataManager) -> None:
    google.bad = {email_hash(i): "INVALID_AUDIENCE_MEMBER" for i in range(210)}
    results = data_manager.send("add", [person(i) for i in range(215)], "k").results
    assert results[:200] == (rejected("INVALID_AUDIENCE_MEMBER"),) * 200
    assert results[200:] == (try_again("more rows at fault than Google named in ten answers", 0),) * 15
    assert google.members == set()


def test_ten_thousand_members_are_one_request(google: Google, data_manager: DataManager) -> None:
    rows = [person(i, phone=None) for i in range(data_manager.batch_size)]
    assert set(data_manager.send("add", rows, "k").results) == {ACCEPTED}
    assert (len(google.calls), len(google.members)) == (1, 10_000)


def google_error(status: int, headers: dict | None = None, **details: dict) -> tuple[int, dict, object]:
    """An error as Google's APIs answer it, with details by their kind."""
    found = [{"@type": f"type.googleapis.com/google.rpc.{kind}", **detail} for kind, detail in details.items()]
    return status, headers or {}, {"error": {"code": status, "message": "person1@example.com", "details": found}}


PER_DAY = {"reason": "RESOURCE_EXHAUSTED", "metadata": {"quota_limit": "IngestionMutateRequestsPerDayPerProject"}}


@pytest.mark.parametrize(
    ("answer", "after", "is_certain"),
    [
        (google_error(429, {"retry-after": "17"}), 17, True),
        (google_error(429), None, True),
        (google_error(429, RetryInfo={"retryDelay": "3.5s"}), 3.5, True),
        (google_error(429, {"retry-after": "1"}, ErrorInfo=PER_DAY), 3600, True),
        (google_error(503), None, False),
        ((503, {}, "<html>person1@example.com</html>"), None, False),
        ((200, {}, "<html>person1@example.com</html>"), None, False),
        (None, None, False),
    ],
)
def test_google_saying_later_is_no_verdict_on_a_row(
    google: Google, data_manager: DataManager, answer: tuple | None, after: float | None, is_certain: bool
) -> None:
    google.next = [answer]
    with pytest.raises(Unavailable) as raised:
        data_manager.send("add", [person(1)], "k")
    assert (raised.value.after, raised.value.is_certain) == (after, is_certain)
    assert not PERSONAL.search(str(raised.value))
    assert data_manager.send("add", [person(1)], "k").results == (ACCEPTED,)


def test_retry_after_may_be_a_date(google: Google, data_manager: DataManager) -> None:
    google.next = [(429, {"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)}, {})]
    with pytest.raises(Unavailable) as raised:
        data_manager.send("add", [person(1)], "k")
    assert 90 < raised.value.after <= 100


def test_an_unreachable_google_took_nothing(google: Google, data_manager: DataManager) -> None:
    data_manager.send("add", [person(1)], "k")
    google.server.close()
    data_manager._google._client.close()  # an idle connection would still be answered
    data_manager._google._client = type(data_manager._google._client)()
    with pytest.raises(Unavailable) as raised:
        data_manager.send("add", [person(2)], "k")
    assert raised.value.is_certain


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (google_error(401), "credentials"),
        (google_error(403, ErrorInfo={"reason": "PERMISSION_DENIED"}), "PERMISSION_DENIED"),
        (google_error(400, ErrorInfo={"reason": "TERMS_AND_CONDITIONS_NOT_SIGNED"}), "accept the Customer Match terms"),
        (google_error(400, BadRequest={"fieldViolations": [{"field": "destinations[0]", "reason": "BAD_LIST"}]}), "BAD_LIST"),
        ((400, {}, {"error": {"details": "person1@example.com"}}), "HTTP 400"),
    ],
)
def test_google_refusing_the_destination_is_no_verdict_on_a_row(
    google: Google, data_manager: DataManager, answer: tuple, words: str
) -> None:
    google.next = [answer]
    with pytest.raises(Refused, match=words) as raised:
        data_manager.send("add", [person(1)], "k")
    assert not PERSONAL.search(str(raised.value))


def test_credentials_that_google_revoked_are_named(google: Google, data_manager: DataManager) -> None:
    google.token_answer = (400, {}, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
    with pytest.raises(Refused, match="GOOGLE_APPLICATION_CREDENTIALS") as raised:
        data_manager.send("add", [person(1)], "k")
    assert "1//test" not in str(raised.value)
    google.token_answer = (503, {}, {})
    with pytest.raises(Unavailable):
        data_manager.send("add", [person(1)], "k")


@pytest.mark.parametrize(
    "text", ["", "/no/such/file.json", '{"type": "authorized_user", "refresh_token": "1//test"}', "{}", "{"]
)
def test_missing_or_broken_credentials_say_where_they_belong(
    google: Google, data_manager: DataManager, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", text)
    with pytest.raises(Refused, match="GOOGLE_APPLICATION_CREDENTIALS") as raised:
        data_manager.send("add", [person(1)], "k")
    assert "1//test" not in str(raised.value)


def test_a_service_account_signs_for_its_token(google: Google, data_manager: DataManager, monkeypatch, tmp_path) -> None:
    import base64

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    key = {
        "type": "service_account",
        "client_email": "cdp@our-project.iam.gserviceaccount.com",
        "private_key": pem,
        "private_key_id": "1",
        "project_id": "our-project",
        "token_uri": f"{google.server.url}/token",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    assert data_manager.send("add", [person(1)], "k").results == (ACCEPTED,)

    (asked,) = (parse_qs(body) for _, path, _, body in google.server.requests if path == "/token")
    head, claims, signature = asked["assertion"][0].split(".")

    def plain(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    from cryptography.hazmat.primitives import hashes

    private.public_key().verify(plain(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
    assert json.loads(plain(claims))["scope"] == "https://www.googleapis.com/auth/datamanager"


def test_an_access_token_is_used_until_it_expires(google: Google, data_manager: DataManager) -> None:
    for _ in range(3):
        data_manager.send("add", [person(1)], "k")
    assert len(google.server.requests) - len(google.calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"ad_user_data": "denied"},
        {"ad_personalization": "yes"},
        {"terms_accepted": False},
        {"account_id": "our account"},
        {"login_account_id": "x"},
        {"columns": ["email", "gender"]},
    ],
)
def test_google_is_not_fed_against_its_terms(other: dict) -> None:
    settings = {"account_id": "1", "audience_id": "77", "terms_accepted": True, **CONSENTED} | other
    with pytest.raises(OnefoldError):
        DataManager(**settings)


def test_consent_flags_are_told_as_configured(google: Google) -> None:
    consent = CONSENTED | {"ad_personalization": "denied"}
    destination = DataManager(account_id="1", audience_id="77", terms_accepted=True, endpoint=google.server.url, **consent)
    with pytest.raises(Refused):  # the server wants both
        destination.send("add", [person(1)], "k")
    assert google.calls[0][3]["consent"] == {"adUserData": "CONSENT_GRANTED", "adPersonalization": "CONSENT_DENIED"}


def test_the_later_fate_of_a_request_can_be_asked_for(google: Google, data_manager: DataManager) -> None:
    received = {"recordCount": "10", "userIdentifierCount": "20", "uploadMatchRateRange": "MATCH_RATE_RANGE_31_TO_40"}
    found = {
        "requestStatus": "PARTIAL_SUCCESS",
        "errorInfo": {"errorCounts": [{"recordCount": "2", "reason": "PROCESSING_ERROR_REASON_OTHER"}]},
        "audienceMembersIngestionStatus": {"userDataIngestionStatus": received},
    }
    google.next = [(200, {}, {"requestStatusPerDestination": [found]}), (200, {}, {})]
    assert data_manager.status("t-1") == {
        "status": "PARTIAL_SUCCESS",
        "records": 10,
        "match_rate": "MATCH_RATE_RANGE_31_TO_40",
        "errors": {"PROCESSING_ERROR_REASON_OTHER": 2},
        "warnings": {},
    }
    assert google.calls[0][:2] == ("GET", "/v1/requestStatus:retrieve?requestId=t-1")
    assert data_manager.status("t-1")["status"] == "PROCESSING"


def test_a_google_ads_job_is_made_filled_and_started(google: Google, google_ads: GoogleAds) -> None:
    outcome = google_ads.send("add", [person(1), person(2)], "a key")
    assert outcome.results == (ACCEPTED, ACCEPTED)
    assert outcome.request_id == "customers/1234567890/offlineUserDataJobs/1"
    assert [path.rpartition(":")[2] for _, path, _, _ in google.calls] == ["create", "addOperations", "run"]
    job = google.jobs[outcome.request_id]
    assert job["job"].pop("externalId").isdigit()
    assert job["job"] == {
        "type": "CUSTOMER_MATCH_USER_LIST",
        "customerMatchUserListMetadata": {
            "userList": "customers/1234567890/userLists/77",
            "consent": {"adUserData": "GRANTED", "adPersonalization": "GRANTED"},
        },
    }
    kinds = [[next(iter(i)) for i in o["create"]["userIdentifiers"]] for o in job["operations"]]
    assert kinds == [["hashedEmail", "hashedPhoneNumber", "addressInfo"]] * 2
    assert job["operations"][0]["create"]["userIdentifiers"][2]["addressInfo"] == {
        "hashedFirstName": "df3ea25a4369305a82412d479a21bd5e2d60e256d4160728e21faeb2806cde3f",
        "hashedLastName": "3399a0e651ad104cd1f53cd0c44d08b70c6c2e8e1eba56f2d244368264322118",
        "countryCode": "CN",
        "postalCode": "100000",
    }
    assert google.calls[0][2]["login-customer-id"] == "9999999999"
    assert google.members == {email_hash(1), email_hash(2)}
    google_ads.send("remove", [person(1)], "b key")
    assert google.members == {email_hash(2)}


def test_a_retry_of_a_google_ads_job_has_the_same_external_id(google: Google, google_ads: GoogleAds) -> None:
    for key in ("one", "one", "two"):
        google_ads.send("add", [person(1)], key)
    first, again, other = (job["job"]["externalId"] for job in google.jobs.values())
    assert first == again != other
    assert int(first) < 2**63


def test_a_partial_failure_rejects_the_rows_it_names(google: Google, google_ads: GoogleAds) -> None:
    google.bad = {email_hash(2): "INVALID_SHA256_FORMAT"}
    outcome = google_ads.send("add", [person(0, email=None, phone=None, country=None), person(1), person(2), person(3)], "k")
    assert outcome.results == (
        rejected("no usable identifier"),
        ACCEPTED,
        rejected("offlineUserDataJobError.INVALID_SHA256_FORMAT"),
        ACCEPTED,
    )
    assert google.members == {email_hash(1), email_hash(3)}


def test_a_job_without_a_good_row_is_not_started(google: Google, google_ads: GoogleAds) -> None:
    google.bad = {email_hash(1): "INVALID_SHA256_FORMAT"}
    google_ads.send("add", [person(1)], "k")
    assert not next(iter(google.jobs.values()))["is_run"]


def test_the_most_identifiers_a_batch_can_have_fit_a_google_ads_request(google: Google, google_ads: GoogleAds) -> None:
    row = person(1, email=[f"person{i}@example.com" for i in range(25)])
    member = google_ads.member(row)
    assert len(member["userIdentifiers"]) * google_ads.batch_size == 100_000


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_failure_at_any_step_of_a_job_is_made_good_by_a_retry(google: Google, google_ads: GoogleAds, step: int) -> None:
    passing = [
        (200, {}, {"resourceName": "customers/1234567890/offlineUserDataJobs/5"}),
        (200, {}, {}),
    ]
    google.next = [*passing[:step], Google._ads_error(503, {"internalError": "TRANSIENT_ERROR"}, None)]
    with pytest.raises(Unavailable, match=r"internalError\.TRANSIENT_ERROR"):
        google_ads.send("add", [person(1)], "k")
    assert google_ads.send("add", [person(1)], "k").results == (ACCEPTED,)
    assert google.members == {email_hash(1)}


def test_the_google_ads_quota_says_how_long_to_wait(google: Google, google_ads: GoogleAds) -> None:
    google.next = [Google._ads_error(429, {"quotaError": "RESOURCE_EXHAUSTED"}, {"quotaErrorDetails": {"retryDelay": "30s"}})]
    with pytest.raises(Unavailable, match=r"quotaError\.RESOURCE_EXHAUSTED") as raised:
        google_ads.send("add", [person(1)], "k")
    assert raised.value.after == 30


def test_a_new_developer_token_is_sent_to_the_data_manager_api(google: Google, google_ads: GoogleAds) -> None:
    google.next = [Google._ads_error(403, {"notAllowlistedError": "CUSTOMER_NOT_ALLOWLISTED_FOR_THIS_FEATURE"}, None)]
    with pytest.raises(Refused, match="use the Data Manager API"):
        google_ads.send("add", [person(1)], "k")


class Meta:
    """What Meta's servers do at an audience's users edge."""

    def __init__(self, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
        self.members: set[str] = set()  # EXTERN_ID
        self.invalid: set[str] = set()  # EXTERN_ID of entries that Meta does not like
        self.samples: object = {}
        self.next: list[tuple[int, dict, object] | None] = []
        self.sessions: list[int] = []
        self.server = serve(self._answer)
        monkeypatch.setenv("META_ACCESS_TOKEN", "EAAB.test")

    @property
    def calls(self) -> list[tuple[str, str, dict[str, str], dict]]:
        return self.server.requests

    def _answer(self, method: str, path: str, headers: dict[str, str], body: dict) -> tuple[int, dict, object] | None:
        if self.next and (answer := self.next.pop(0)) != "usual":
            return answer
        if urlsplit(path).query or path != "/v25.0/2300/users":
            return self.error(400, 100)
        if headers.get("authorization") != "Bearer EAAB.test":
            return self.error(400, 190)
        schema, data = body["payload"]["schema"], body["payload"]["data"]
        session = body["session"]
        if len(data) > 10_000 or any(len(entry) != len(schema) for entry in data):
            return self.error(400, 100)
        if session["batch_seq"] != 1 or session["last_batch_flag"] is not True or not 0 < session["session_id"] < 2**63:
            return self.error(400, 100)
        if session["session_id"] in self.sessions:  # its last batch has come
            return self.error(400, 2650, error_subcode=1870159)
        unhashed = {"EXTERN_ID", "MADID"}
        for entry in data:
            for key, value in zip(schema, entry, strict=True):
                if key == "DATA_PROCESSING_OPTIONS":
                    assert value == ["LDU"]
                elif value and key not in unhashed and not SHA.fullmatch(value):
                    return self.error(400, 100)
        ids = [dict(zip(schema, entry, strict=True))["EXTERN_ID"] for entry in data]
        good = {i for i in ids if i not in self.invalid}
        self.members = self.members | good if method == "POST" else self.members - good
        self.sessions.append(session["session_id"])
        answer = {
            "audience_id": "2300",
            "session_id": str(session["session_id"]),
            "num_received": len(data),
            "num_invalid_entries": sum(i in self.invalid for i in ids),
            "invalid_entry_samples": self.samples,
        }
        return 200, {}, answer

    @staticmethod
    def error(status: int, code: int, headers: dict | None = None, **other: object) -> tuple[int, dict, object]:
        text = {"message": "Data does not match: person1@example.com", "type": "OAuthException", "code": code, **other}
        return status, headers or {}, {"error": text}


@pytest.fixture
def platform(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Meta:
    return Meta(serve, monkeypatch)


@pytest.fixture
def audience(platform: Meta) -> Iterator[CustomAudience]:
    destination = CustomAudience(audience_id="2300", region="CN", endpoint=platform.server.url)
    yield destination
    destination.close()


def test_meta_is_sent_the_documented_request(platform: Meta, audience: CustomAudience) -> None:
    row = person(
        1, email="mary@example.com", phone="138 0013 8000", birth_date=date(1990, 2, 9), region="California", country="US"
    )
    outcome = audience.send("add", [row | {"postal_code": "94035-1234", "city": "New York"}], "k")
    assert outcome.results == (ACCEPTED,)
    method, _, _, body = platform.calls[0]
    assert method == "POST"
    assert body["payload"] == {
        "schema": ["EXTERN_ID", "EMAIL", "PHONE", "FN", "LN", "GEN", "DOBY", "DOBM", "DOBD", "CT", "ST", "ZIP", "COUNTRY"],
        "is_raw": True,
        "data": [
            [
                "c1",
                "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79",
                "bf08aacce7f9b2452863cf99373043c3333f0e3127f1f787c4abb46ab6cf2b83",
                "df3ea25a4369305a82412d479a21bd5e2d60e256d4160728e21faeb2806cde3f",
                "3399a0e651ad104cd1f53cd0c44d08b70c6c2e8e1eba56f2d244368264322118",
                "252f10c83610ebca1a059c0bae8255eba2f95be4d1d7bcfa89d7248a82d9f111",
                "a7be8e1fe282a37cd666e0632b17d933fa13f21addf4798fc0455bc166e2488c",
                "a953f09a1b6b6725b81956e9ad0b1eb49e3ad40004c04307ef8af6246a054116",
                "3514acf61732f662da19625f7fe781c3e483f2dce8506012f3bb393f5003e105",
                "350c754ba4d38897693aa077ef43072a859d23f613443133fecbbd90a3512ca5",
                "6959097001d10501ac7d54c0bdb8db61420f658f2922cc26e46d536119a31126",
                "1794327a4d443904421f5ca1f3d72d0a62ba2f0770d80755ec2220fc0efb052e",
                "79adb2a2fce5c6ba215fe5f27f532d4e7edbac4b6a5e09e1ef3a08084a904621",
            ]
        ],
    }
    assert outcome.request_id == str(body["session"]["session_id"])
    assert body["session"] | {"session_id": 0} == {
        "session_id": 0,
        "batch_seq": 1,
        "last_batch_flag": True,
        "estimated_num_total": 1,
    }


def test_what_normalises_to_nothing_is_blank(platform: Meta, audience: CustomAudience) -> None:
    row = person(1, phone="n/a", gender="other", birth_date="?", city="—", region=None, postal_code=None, country="Narnia")
    assert audience.send("add", [row], "k").results == (ACCEPTED,)
    entry = platform.calls[0][3]["payload"]["data"][0]
    assert [i for i, value in enumerate(entry) if value] == [0, 1, 3, 4]  # EXTERN_ID, EMAIL, FN, LN


@pytest.mark.parametrize(
    ("known", "operation", "is_sent"),
    [
        ({"email": "person1@example.com"}, "add", True),
        ({"phone": "13800138000"}, "add", True),
        ({"first_name": "小明", "last_name": "王", "postal_code": "100000"}, "add", True),
        ({"first_name": "小明", "last_name": "王", "country": "CN"}, "add", False),
        ({"first_name": "小明", "city": "北京"}, "add", False),
        ({"gender": "female", "country": "CN"}, "add", False),
        ({}, "remove", True),  # by EXTERN_ID
    ],
)
def test_only_who_meta_could_find_is_sent(
    platform: Meta, audience: CustomAudience, known: dict, operation: str, is_sent: bool
) -> None:
    outcome = audience.send(operation, [{"customer_id": "c1", **known}], "k")
    assert outcome.results == ((ACCEPTED if is_sent else rejected("no usable identifier")),)
    assert len(platform.calls) == is_sent


def test_adding_twice_and_removing_leaves_the_audience_right(platform: Meta, audience: CustomAudience) -> None:
    for _ in range(2):
        audience.send("add", [person(1), person(2)], "k")
    audience.send("remove", [person(1)], "l")
    assert platform.calls[-1][0] == "DELETE"
    assert platform.members == {"c2"}


def test_several_addresses_are_several_entries_of_one_row(platform: Meta, audience: CustomAudience) -> None:
    row = person(1, email=["a@example.com", "b@example.com", "A@example.com", "none"], phone=["13800138000"])
    assert audience.send("add", [row], "k").results == (ACCEPTED,)
    data = platform.calls[0][3]["payload"]["data"]
    assert [[bool(entry[1]), bool(entry[2])] for entry in data] == [[True, True], [True, False]]
    assert len({entry[1] for entry in data}) == 2


def test_a_row_is_in_once_one_of_its_entries_is_and_unsettled_while_one_is(
    platform: Meta, audience: CustomAudience, monkeypatch
) -> None:
    monkeypatch.setattr(meta, "_LIMIT", 2)
    rows = [
        person(1, email=["person1@example.com", "a@example.com"]),
        person(2),
        person(3, email=["b@example.com", "c@example.com"]),
    ]
    platform.invalid, platform.samples = {"c1"}, [email_hash(1)]
    platform.next = [
        (200, {}, {"num_received": 2, "num_invalid_entries": 1, "invalid_entry_samples": [email_hash(1)]}),
        "usual",
    ]
    platform.next += [Meta.error(500, 2)]
    assert audience.send("add", rows, "k").results == (ACCEPTED, ACCEPTED, try_again("HTTP 500, code 2"))


def test_more_entries_than_a_request_takes_are_split(platform: Meta, audience: CustomAudience, monkeypatch) -> None:
    monkeypatch.setattr(meta, "_LIMIT", 7)
    outcome = audience.send("add", [person(i, email=["a@example.com", "b@example.com"]) for i in range(10)], "k")
    assert outcome.results == (ACCEPTED,) * 10
    assert [len(body["payload"]["data"]) for _, _, _, body in platform.calls] == [7, 7, 6]
    assert len(set(platform.sessions)) == 3


def test_ten_thousand_rows_are_one_request_to_meta(platform: Meta, audience: CustomAudience) -> None:
    rows = [{"customer_id": f"c{i}", "email": f"person{i}@example.com"} for i in range(audience.batch_size)]
    assert set(audience.send("add", rows, "k").results) == {ACCEPTED}
    assert len(platform.calls) == 1


@pytest.mark.parametrize(
    "shape", [list, lambda names: {"0": names[0], "1": names[1]}, lambda names: dict.fromkeys(names, "bad")]
)
def test_entries_that_meta_names_are_rejected(platform: Meta, audience: CustomAudience, caplog, shape: Callable) -> None:
    caplog.set_level(logging.DEBUG)
    platform.invalid = {"c2", "c5"}
    platform.samples = shape([email_hash(2), email_hash(5)])
    outcome = audience.send("add", [person(i) for i in range(8)], "k")
    assert [i for i, result in enumerate(outcome.results) if result == rejected("invalid entry")] == [2, 5]
    assert outcome.results.count(ACCEPTED) == 6
    assert not PERSONAL.search(caplog.text + repr(outcome))


def test_entries_that_meta_only_counts_are_told_and_stay_removable(platform: Meta, audience: CustomAudience, caplog) -> None:
    platform.invalid = {"c2", "c5"}
    platform.samples = ["ff2082aa78aea80a27cb4fb91f0350153702c16dce790a77f0bb0bfbf6899977", "", 2, None]  # all live in cn
    assert audience.send("add", [person(i, phone=None) for i in range(8)], "k").results == (ACCEPTED,) * 8
    assert "about 2 of 8 entries for audience 2300 invalid" in caplog.text
    assert not PERSONAL.search(caplog.text)


def test_entries_are_rejected_where_meta_calls_all_invalid(platform: Meta, audience: CustomAudience) -> None:
    platform.invalid = {"c1", "c2"}
    assert audience.send("add", [person(1), person(2)], "k").results == (rejected("invalid entry"),) * 2


def test_rows_that_meta_did_not_receive_are_sent_again(platform: Meta, audience: CustomAudience) -> None:
    platform.next = [(200, {}, {"num_received": 1, "num_invalid_entries": 0})]
    assert audience.send("add", [person(1), person(2)], "k").results == (try_again("Meta received 1 of 2 entries"),) * 2


BUSINESS_USE = json.dumps({"55": [{"type": "ads_management", "estimated_time_to_regain_access": 3}]})


@pytest.mark.parametrize(
    ("answer", "after", "is_certain"),
    [
        (Meta.error(400, 80003, {"x-business-use-case-usage": BUSINESS_USE}), 180, True),
        (Meta.error(400, 80003, {"x-business-use-case-usage": "?"}), None, True),
        (Meta.error(400, 17, error_subcode=2446079), None, True),
        (Meta.error(403, 4), None, True),
        (Meta.error(429, 613, {"retry-after": "5"}), 5, True),
        ((429, {"retry-after": "9"}, "slow down"), 9, True),
        (Meta.error(500, 2), None, False),
        (Meta.error(400, 1, is_transient=True), None, False),
        (Meta.error(400, 2650), None, False),
        ((502, {}, "<html>"), None, False),
        ((200, {}, "<html>"), None, False),
        (None, None, False),
    ],
)
def test_meta_saying_later_is_no_verdict_on_a_row(
    platform: Meta, audience: CustomAudience, answer: tuple | None, after: float | None, is_certain: bool
) -> None:
    platform.next = [answer]
    with pytest.raises(Unavailable) as raised:
        audience.send("add", [person(1)], "k")
    assert (raised.value.after, raised.value.is_certain) == (after, is_certain)
    assert not PERSONAL.search(str(raised.value))
    assert audience.send("add", [person(1)], "k").results == (ACCEPTED,)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Meta.error(401, 190, error_subcode=463), "code 190/463.*new access token"),
        (Meta.error(403, 200), "ads_management"),
        (Meta.error(403, 275), "ads_management"),
        (Meta.error(400, 100, error_subcode=1713230), "Audience Manager"),
        (Meta.error(400, 200, error_subcode=1870090), "accept the Custom Audience terms"),
        (Meta.error(400, 100), "subtype CUSTOM"),
        (Meta.error(400, 999), "code 999"),
        ((404, {}, "person1@example.com"), "HTTP 404"),
    ],
)
def test_meta_refusing_the_audience_is_no_verdict_on_a_row(
    platform: Meta, audience: CustomAudience, answer: tuple, words: str
) -> None:
    platform.next = [answer]
    with pytest.raises(Refused, match=words) as raised:
        audience.send("add", [person(1)], "k")
    assert not PERSONAL.search(str(raised.value))


@pytest.mark.parametrize("error", [Meta.error(400, 80003, {"retry-after": "8"}), Meta.error(400, 190)])
def test_what_was_taken_before_a_failure_counts(platform: Meta, audience: CustomAudience, monkeypatch, error: tuple) -> None:
    monkeypatch.setattr(meta, "_LIMIT", 2)
    platform.next = ["usual", error]
    results = audience.send("add", [person(i) for i in range(4)], "k").results
    assert results[:2] == (ACCEPTED, ACCEPTED)
    assert [(result.status, result.after) for result in results[2:]] == [("try again", 8 if error[1] else None)] * 2
    assert not PERSONAL.search(repr(results))


def test_a_call_proves_that_it_knows_the_app_secret(platform: Meta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_APP_SECRET", "hush")
    destination = CustomAudience(audience_id="2300", region="CN", app_secret_env="OUR_APP_SECRET", endpoint=platform.server.url)
    destination.send("add", [person(1)], "k")
    assert platform.calls[0][3]["appsecret_proof"] == hmac.new(b"hush", b"EAAB.test", hashlib.sha256).hexdigest()


def test_a_missing_token_is_asked_for_by_name(platform: Meta, audience: CustomAudience, monkeypatch) -> None:
    monkeypatch.delenv("META_ACCESS_TOKEN")
    with pytest.raises(Refused, match="META_ACCESS_TOKEN"):
        audience.send("add", [person(1)], "k")
    assert platform.calls == []


def test_the_token_is_in_no_address_and_no_log(platform: Meta, audience: CustomAudience, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    audience.send("add", [person(1)], "k")
    assert "EAAB" not in platform.calls[0][1] + caplog.text
    assert "127.0.0.1" in caplog.text  # the log was looking


def test_less_may_be_sent_and_columns_follow(platform: Meta) -> None:
    destination = CustomAudience(
        audience_id="2300", region="CN", columns=["customer_id", "email", "madid"], endpoint=platform.server.url
    )
    assert destination.columns == ("customer_id", "email", "madid")
    row = {"customer_id": "c1", "madid": "AECE52E7-03EE-455A-B3C4-E57283966239"}
    assert destination.send("add", [row], "k").results == (ACCEPTED,)
    assert platform.calls[0][3]["payload"]["data"] == [["c1", "", "aece52e7-03ee-455a-b3c4-e57283966239"]]
    with pytest.raises(OnefoldError, match="shoe_size"):
        CustomAudience(audience_id="2300", region="CN", columns=["shoe_size"])


# A home's configuration, and the ledger


GOOGLE_YAML = """
kind: google
account: 123-456-7890
audiences: {regulars: 77}
ad_user_data: granted
ad_personalization: granted
terms_accepted: true
"""
META_YAML = "kind: meta\naudiences: {regulars: 2300}\n"
CUSTOMERS = set(person(1)) | {"_seq"}


def configured(home: Home, text: str) -> dict:
    folder = home.path / "destinations"
    folder.mkdir(exist_ok=True)
    (folder / "ads.yaml").write_text(text)
    return load_destinations(home, {"regulars", "lapsed"}, CUSTOMERS)


class Members:
    """An audience whose members are what is set."""

    shape = "regulars"

    def __init__(self, *numbers: int) -> None:
        self.people = {f"c{i}": person(i, birth_date=date(1990, 2, 9)) for i in numbers}
        self.position = "1"

    def is_empty(self) -> bool:
        return not self.people

    def everyone(self) -> Iterator[tuple[str, dict]]:
        yield from sorted(self.people.items())

    def changed(self, since: str, besides: list[str]) -> None:
        return None  # nothing is known: everybody is compared


def bring_up(home: Home, destination: object, members: Members) -> Report:
    columns = destination.columns
    for customer, row in members.people.items():
        members.people[customer] = {column: row[column] for column in columns}
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "ads")
        plan(ledger, target, destination, members)
        return Sender(ledger, destination, retries=Retries(first_wait_seconds=1e-6), sleep=lambda _: None).send(target)


class AdsPlace(Place):
    """A list of a platform that knows members by the hash of their e-mail address."""

    def __init__(self, platform: Google | Meta, opened: Callable[[], object]) -> None:
        self.platform = platform
        rows = [person(i, customer_id=name, phone=f"+8613800138{i:03}") for i, name in enumerate("abc")]
        columns = opened().columns
        self.rows = [{name: row[name] for name in columns} for row in rows]
        self.open, self.leave = opened, platform.server.close
        self.names = {name: email_hash(i) for i, name in enumerate("abc")}

    def content(self) -> list[str]:
        return [name for name, digest in self.names.items() if {name, digest} & self.platform.members]

    def refuse(self, customer_id: str) -> None:
        if isinstance(self.platform, Google):
            self.platform.bad = {self.names[customer_id]: "INVALID_AUDIENCE_MEMBER"}
        else:
            self.platform.invalid, self.platform.samples = {customer_id}, [self.names[customer_id]]


LIST = {"account_id": "123-456-7890", "audience_id": "77", **CONSENTED}


class TestDataManager(Conforms):
    @pytest.fixture
    def place(self, google: Google) -> AdsPlace:
        return AdsPlace(google, lambda: DataManager(**LIST, terms_accepted=True, endpoint=google.server.url))


class TestGoogleAds(Conforms):
    @pytest.fixture
    def place(self, google: Google) -> AdsPlace:
        return AdsPlace(google, lambda: GoogleAds(**LIST, login_account_id="999-999-9999", endpoint=google.server.url))


class TestCustomAudience(Conforms):
    @pytest.fixture
    def place(self, platform: Meta) -> AdsPlace:
        return AdsPlace(platform, lambda: CustomAudience(audience_id="2300", region="CN", endpoint=platform.server.url))


@pytest.mark.parametrize("api", ["data_manager", "google_ads"])
def test_google_of_a_home_ends_with_what_the_audience_says(home: Home, google: Google, monkeypatch, api: str) -> None:
    for name in ("DataManager", "GoogleAds"):
        monkeypatch.setattr(google_module, name, partial(getattr(google_module, name), endpoint=google.server.url))
    ads = configured(home, f"{GOOGLE_YAML}api: {api}\nbatch_size: 10\n")["ads"]
    google.next = [(429, {"retry-after": "3"}, {}), None]
    google.bad = {email_hash(5): "INVALID_AUDIENCE_MEMBER"}
    report = bring_up(home, ads.open(home, "ads", "regulars"), Members(*range(25)))
    assert (report.is_finished, report.accepted, report.rejected) == (True, 24, 1)
    assert google.members == {email_hash(i) for i in range(25) if i != 5}
    members = Members(*range(4, 26))
    members.people["c6"]["email"] = "person99@example.com"
    assert bring_up(home, ads.open(home, "ads", "regulars"), members).is_finished
    assert google.members == {email_hash(i) for i in [4, *range(7, 26), 99]}


def test_meta_of_a_home_ends_with_what_the_audience_says(home: Home, platform: Meta, monkeypatch) -> None:
    monkeypatch.setattr(meta, "CustomAudience", partial(CustomAudience, endpoint=platform.server.url))
    ads = configured(home, f"{META_YAML}batch_size: 10\nversion: v25.0\n")["ads"]
    platform.next = [Meta.error(400, 80003), "usual", Meta.error(500, 2), None]
    assert bring_up(home, ads.open(home, "ads", "regulars"), Members(*range(25))).accepted == 25
    assert platform.members == {f"c{i}" for i in range(25)}
    members = Members(*range(4, 26))
    members.people["c6"]["email"] = "person99@example.com"
    assert bring_up(home, ads.open(home, "ads", "regulars"), members).is_finished
    assert platform.members == {f"c{i}" for i in range(4, 26)}


VALUES = {
    "email": st.one_of(st.none(), ADDRESSES, st.just("none"), st.lists(ADDRESSES, max_size=3)),
    "phone": st.one_of(st.none(), PHONES, st.just("n/a"), st.lists(PHONES, max_size=2)),
    "first_name": st.one_of(st.none(), st.text(max_size=5), st.just("小明")),
    "last_name": st.one_of(st.none(), st.text(max_size=5), st.just("王")),
    "gender": st.sampled_from([None, "female", "other"]),
    "birth_date": st.sampled_from([None, "1990-02-09", "?", date(1987, 12, 1)]),
    "city": st.sampled_from([None, "北京", "New York"]),
    "region": st.sampled_from([None, "California", "广东"]),
    "postal_code": st.sampled_from([None, "94035-1234", "100000", "SW1A 1AA", "-"]),
    "country": st.sampled_from([None, "US", "GB", "cn", "Narnia"]),
    "madid": st.sampled_from([None, "AECE52E7-03EE-455A-B3C4-E57283966239", "?"]),
}


@given(st.fixed_dictionaries({"customer_id": st.just("c1"), **VALUES}))
def test_a_prepared_row_is_sent_as_the_row_itself_would_be(row: dict) -> None:
    both = {"account_id": "1", "audience_id": "2", "region": "CN", "ad_user_data": "granted", "ad_personalization": "granted"}
    for google in (DataManager(**both, terms_accepted=True), GoogleAds(**both)):
        prepared = google.prepare(row)
        assert (google.member(prepared) if prepared else None) == google.member(row)
        assert prepared is None or google.prepare(json.loads(json.dumps(prepared))) == prepared
        assert prepared is None or tuple(prepared) == google.columns
    ours = CustomAudience(audience_id="2", region="CN", columns=meta.COLUMNS)
    prepared = ours.prepare(row)
    assert (ours.entries(prepared) if prepared else []) == ours.entries(row)
    assert prepared is None or ours.prepare(json.loads(json.dumps(prepared))) == prepared
    contact = {str(row[name]) for name in ("email", "phone", "first_name", "last_name", "birth_date") if row[name]}
    assert prepared is None or not contact & {str(value) for value in prepared.values()}


@pytest.mark.parametrize("kind", ["google", "meta"])
def test_the_ledger_never_has_contact_data_that_are_sent_as_hashes(
    home: Home, google: Google, platform: Meta, monkeypatch, kind: str
) -> None:
    monkeypatch.setattr(google_module, "DataManager", partial(DataManager, endpoint=google.server.url))
    monkeypatch.setattr(meta, "CustomAudience", partial(CustomAudience, endpoint=platform.server.url))
    destination = configured(home, GOOGLE_YAML if kind == "google" else META_YAML)["ads"].open(home, "ads", "regulars")
    members = Members(*range(5))
    members.people["c3"] |= {"email": "none", "phone": "n/a", "first_name": None}
    for customer, row in members.people.items():
        members.people[customer] = {column: row[column] for column in destination.columns}
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "ads")
        assert plan(ledger, target, destination, members).adds == 4
        planned = "\n".join(ledger.connection.iterdump())
        assert Sender(ledger, destination).send(target).accepted == 4
        assert not PERSONAL.search(planned + "\n".join(ledger.connection.iterdump()))
        assert email_hash(1) in planned  # the dump was looking at the rows


def test_who_refuses_after_the_plan_is_known_by_an_address_that_the_row_does_not_show(
    home: Home, platform: Meta, monkeypatch
) -> None:
    monkeypatch.setattr(meta, "CustomAudience", partial(CustomAudience, endpoint=platform.server.url))
    ads = configured(home, META_YAML)["ads"]
    destination, members = ads.open(home, "ads", "regulars"), Members(1, 2, 3)
    members.columns = ads.columns
    for customer, row in members.people.items():
        members.people[customer] = {column: row[column] for column in destination.columns}
    with duckdb.connect() as warehouse, Ledger(home) as ledger:
        warehouse.execute("create schema reference")
        warehouse.execute("create schema unified")
        warehouse.execute(
            "create table reference.contact_channels as select * from (values ('email', 'email', true), "
            "('phone', 'sms', true)) as t(identifier_type, channel, is_usual)"
        )
        warehouse.execute(
            "create table unified.customer_identifiers (customer_id text, identifier_token text, valid_to timestamp)"
        )
        refusals = NewRefusals(home, warehouse)
        target = ledger.target("regulars", "ads")
        plan(ledger, target, destination, members)
        said = datetime.now(UTC)
        for kind, value, channel in (("email", "Person1@example.com", "any"), ("phone", "+86 138 0000 0002", "ads")):
            state(home, Statement(kind, value, "marketing", channel, "withdrawn", said, "on the phone"))
        withhold = refusals.of("marketing", ads.columns, "ads")
        report = Sender(ledger, destination, withhold=withhold).send(target)
    assert (report.accepted, report.withheld) == (1, 2)
    assert platform.members == {"c3"}
    ((_, _, _, body),) = platform.calls
    assert "_tokens" not in json.dumps(body)


def test_whom_nothing_identifies_is_a_letter_with_that_reason_until_something_does(
    home: Home, platform: Meta, monkeypatch
) -> None:
    monkeypatch.setattr(meta, "CustomAudience", partial(CustomAudience, endpoint=platform.server.url))
    destination = configured(home, META_YAML)["ads"].open(home, "ads", "regulars")
    blank = {"email": "none", "phone": None, "first_name": None}

    def letters() -> list[tuple[str, str, str]]:
        with Ledger(home) as ledger:
            return [(one.customer_id, one.operation, one.reason) for one in ledger.letters(ledger.target("regulars", "ads"))]

    members = Members(1, 2, 3)
    members.people["c2"] |= blank
    bring_up(home, destination, members)
    assert platform.members == {"c1", "c3"}
    assert letters() == [("c2", "add", "no usable identifier")]
    members = Members(1, 2, 3)
    members.people["c1"] |= blank  # was there: what was sent is removed
    bring_up(home, destination, members)
    assert platform.members == {"c2", "c3"}
    assert letters() == [("c1", "add", "no usable identifier")]
    with Ledger(home) as ledger:
        ledger.replay(ledger.target("regulars", "ads"))
    bring_up(home, destination, members)
    assert letters() == [("c1", "add", "no usable identifier")]
    bring_up(home, destination, Members(1, 2, 3))
    assert (platform.members, letters()) == ({"c1", "c2", "c3"}, [])


def test_limited_data_use_is_told_with_each_addition(home: Home, platform: Meta, monkeypatch) -> None:
    monkeypatch.setattr(meta, "CustomAudience", partial(CustomAudience, endpoint=platform.server.url))
    destination = configured(home, META_YAML + "limited_data_use: true\n")["ads"].open(home, "ads", "regulars")
    destination.send("add", [person(1)], "k")
    payload = platform.calls[0][3]["payload"]
    assert payload["schema"] == [*destination.keys, "DATA_PROCESSING_OPTIONS"]
    assert payload["data"][0][-1] == ["LDU"]
    destination.send("remove", [person(1)], "k")
    assert platform.calls[1][3]["payload"]["schema"] == list(destination.keys)


def test_only_what_shows_advertisements_is_advertising(home: Home) -> None:
    assert configured(home, GOOGLE_YAML)["ads"].is_advertising
    assert configured(home, META_YAML)["ads"].is_advertising
    files = "kind: files\naudiences: regulars\ncolumns: [customer_id]\n"
    assert not configured(home, files)["ads"].is_advertising


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOGLE_YAML.replace("ad_user_data: granted", "ad_user_data: denied"), "ad_user_data"),
        (GOOGLE_YAML.replace("ad_personalization: granted\n", ""), "ad_personalization"),
        (GOOGLE_YAML.replace("true", "false"), "terms_accepted"),
        (GOOGLE_YAML + "key: email\n", "key"),
        (GOOGLE_YAML + "credentials: ya29\n", "credentials"),
        (META_YAML + "batch_size: 10001\n", "batch_size"),
        (META_YAML + "version: 25\n", "version"),
        (META_YAML.replace("2300", "2300, lapsed: 2300"), "same list"),
        (META_YAML.replace("regulars", "nobody"), "no audience 'nobody'"),
        (META_YAML + "columns: {madid: device}\n", "no column 'device'"),
    ],
)
def test_a_wrong_file_says_which_key_is_wrong(home: Home, text: str, words: str) -> None:
    with pytest.raises(OnefoldError, match=words):
        configured(home, text)
