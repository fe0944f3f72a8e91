"""Files behind S3 and SFTP, on real servers of this machine: loaded once, safely, and again after a failure."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dagster_project.lib.contracts import ChannelContract
from dagster_project.lib.delivery.destination import Unavailable
from dagster_project.lib.delivery.files import Files
from dagster_project.lib.files import landed_files
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.progress import listening
from dagster_project.lib.settings import Settings

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def shop(location: str, *others: dict) -> ChannelContract:
    things = {"description": "Things.", "kind": "record", "key": ["thing_id"], "columns": {"thing_id": {"required": True}}}
    things["sources"] = [{"name": "remote", "location": location}, *others]
    content = {"channel": "shop", "description": "A shop.", "owner": "team:shop", "entities": {"things": things}}
    return ChannelContract.model_validate(content)


def ingest(home, contract: ChannelContract, settle: bool = False, **settings):
    return ingest_channel(home, contract, Settings(**settings), settle)[0]


def query(home, sql: str) -> list[tuple]:
    with home.connect("test") as connection:
        return connection.execute(sql).fetchall()


def loaded(home) -> list[str]:
    return [thing for (thing,) in query(home, "select thing_id from staging.shop_things order by thing_id")]


def told_anywhere(home, caplog, load) -> str:
    """Everything that a run said or kept: the log, the answer, the ledger and the state."""
    kept = query(home, "select source_uri, reason from staging._loads")
    state = b"".join(path.read_bytes() for path in home.path.glob("state.sqlite*")).decode("latin-1")
    return f"{caplog.text} {load} {kept} {state}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# S3


class Bucket:
    """A bucket on an S3 server of this machine."""

    def __init__(self, port: int) -> None:
        import boto3

        self.port, self.endpoint = port, f"http://127.0.0.1:{port}"
        self.client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")
        # moto keeps buckets for as long as the process runs, whichever of its servers made them.
        self.name = f"exports-{port}-{time.monotonic_ns()}"
        self.location = f"s3://{self.name}/shop/*.csv"
        self.start()
        self.client.create_bucket(Bucket=self.name)

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def put(self, name: str, *things: str) -> None:
        body = "".join(f"{line}\n" for line in ("thing_id", *things))
        self.client.put_object(Bucket=self.name, Key=f"shop/{name}", Body=body.encode())


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    bucket = Bucket(port)
    yield bucket
    bucket.stop()


# SFTP


class Server:
    """An OpenSSH server of this machine, with a key and a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.files = folder / "files"
        self.files.mkdir()
        for key in ("host_key", "user_key"):
            self.make_key(key)
        shutil.copyfile(folder / "user_key.pub", folder / "authorized_keys")
        (folder / "config").write_text(
            f"""
            Port {self.port}
            ListenAddress 127.0.0.1
            HostKey {folder}/host_key
            PidFile {folder}/pid
            AuthorizedKeysFile {folder}/authorized_keys
            StrictModes no
            UsePAM no
            PasswordAuthentication no
            Subsystem sftp internal-sftp
            """
        )
        self.know_host()
        self.user = os.environ.get("USER") or os.environ.get("LOGNAME") or "root"
        self.location = f"sftp://127.0.0.1:{self.port}{self.files}/*.csv"
        self.start()

    def make_key(self, name: str) -> None:
        for old in (self.folder / name, self.folder / f"{name}.pub"):
            old.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name]
        subprocess.run(command, check=True, capture_output=True)

    def know_host(self) -> None:
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "config"], stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("sshd does not answer")

    def stop(self) -> None:
        """End the server and the sessions it still has."""
        with contextlib.suppress(FileNotFoundError):
            for session in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                os.kill(int(session), signal.SIGTERM)
        self.process.terminate()
        self.process.wait()

    def put(self, name: str, *things: str) -> Path:
        path = self.files / name
        path.write_text("".join(f"{line}\n" for line in ("thing_id", *things)))
        return path


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    if not Path(SSHD).exists() or not shutil.which("ssh-keygen"):
        pytest.skip("OpenSSH's server is not installed (apt-get install openssh-server)")
    if os.geteuid() != 0:
        pytest.skip("OpenSSH's server needs root here, for its folder /run/sshd")
    folder = tmp_path / "sshd"
    folder.mkdir()
    server = Server(folder)
    configured = {
        "username": server.user,
        "key_filename": str(folder / "user_key"),
        "known_hosts": str(folder / "known_hosts"),
        "look_for_keys": False,
        "allow_agent": False,
    }
    monkeypatch.setitem(fsspec.config.conf, "sftp", configured)
    yield server
    server.stop()


# Both


@pytest.fixture(params=["s3", "sftp"])
def store(request) -> "Bucket | Server":
    return request.getfixturevalue("bucket" if request.param == "s3" else "server")


def test_files_of_a_store_are_loaded_and_none_twice(home, store):
    store.put("a.csv", "t1")
    store.put("b.csv", "t2")
    first, again = ingest(home, shop(store.location)), ingest(home, shop(store.location))
    assert (first.refused, first.files, again.files, again.known_files, loaded(home)) == ([], 2, 0, 2, ["t1", "t2"])


def test_a_file_that_came_after_the_first_listing_is_seen(home, store):
    store.put("a.csv", "t1")
    ingest(home, shop(store.location))
    store.put("b.csv", "t2")
    ingest(home, shop(store.location))
    assert loaded(home) == ["t1", "t2"]


def test_a_changed_file_is_loaded_again_and_a_copy_is_not(home, store):
    store.put("a.csv", "t1")
    ingest(home, shop(store.location))
    store.put("a.csv", "t1", "t2")
    store.put("copy.csv", "t1")
    load = ingest(home, shop(store.location))
    assert (load.files, load.known_files, loaded(home)) == (1, 1, ["t1", "t1", "t2"])


def test_a_file_that_two_sources_name_is_loaded_once_for_each(home, store):
    store.put("a.csv", "t1")
    other = {"name": "other", "location": store.location.replace("*.csv", "a.*")}
    ingest(home, shop(store.location, other))
    ingest(home, shop(store.location, other))
    assert query(home, "select source, rows_accepted from staging._loads order by 1") == [("other", 1), ("remote", 1)]


def test_a_server_that_is_down_is_told_and_the_next_run_heals(home, store, land):
    store.put("a.csv", "t1")
    land(home, "shop/things/local.csv", "thing_id\nlocal\n")
    contract = shop(store.location, {})
    ingest(home, contract)
    store.stop()
    ((uri, reason),) = ingest(home, contract).refused
    store.start()
    store.put("b.csv", "t2")
    assert (uri, "cannot be listed" in reason, "check the address and the credentials" in reason) == (
        store.location,
        True,
        True,
    )
    assert (ingest(home, contract).refused, loaded(home)) == ([], ["local", "t1", "t2"])


def test_a_server_that_goes_down_between_two_files_costs_only_the_second(home, store):
    store.put("a.csv", "t1")
    store.put("b.csv", "t2")
    stopped = []
    with listening(lambda *_: stopped or stopped.append(store.stop())):  # once the first is loaded
        load = ingest(home, shop(store.location))
    store.start()
    assert [(uri.rsplit("/", 1)[-1], "cannot be fetched" in reason) for uri, reason in load.refused] == [("b.csv", True)]
    ingest(home, shop(store.location))
    assert loaded(home) == ["t1", "t2"]


def test_a_file_that_changes_while_it_is_fetched_is_left_for_the_next_run(home, store):
    store.put("a.csv", "t1")
    (file,) = landed_files(home, shop(store.location), "things", shop(store.location).entities["things"].sources[0])
    store.put("a.csv", "t1", "t2")
    with pytest.raises(Exception, match=r"a\.csv: changed while it was fetched"), file.local(home):
        pass
    assert list(home.temporary.iterdir()) == []


def test_a_file_that_was_written_just_now_is_left_until_it_settled(home, store):
    store.put("a.csv", "t1")
    load = ingest(home, shop(store.location), settle=True, landing_settle_seconds=3600)
    assert (load.files, load.refused) == (0, [])
    assert ingest(home, shop(store.location), settle=True, landing_settle_seconds=0).files == 1


@pytest.mark.parametrize("name", ["b.csv.part", "b.csv.filepart", ".b.csv", "_b.csv"])
def test_a_file_that_is_still_uploaded_is_left_alone(home, store, name):
    store.put("a.csv", "t1")
    store.put(name, "t2")
    load = ingest(home, shop(store.location.replace("*.csv", "*")))
    assert (load.files, load.refused, loaded(home)) == (1, [], ["t1"])


def test_the_write_lock_is_free_while_a_file_is_fetched(home, store, monkeypatch):
    store.put("a.csv", "t1")
    contract = shop(store.location)
    (file,) = landed_files(home, contract, "things", contract.entities["things"].sources[0])
    opened, seen = type(file.store).open, []

    def watched(self, *given, **settings):
        command = ["flock", "--nonblock", "--exclusive", str(home.path / ".lock"), "true"]
        seen.append(subprocess.run(command, check=False).returncode)
        return opened(self, *given, **settings)

    monkeypatch.setattr(type(file.store), "open", watched)
    ingest(home, contract)
    assert (seen, loaded(home)) == ([0], ["t1"])


# Credentials


def test_a_key_that_s3_does_not_know_is_told_and_other_sources_go_on(home, bucket, land, monkeypatch, caplog):
    import requests

    bucket.put("a.csv", "t1")
    land(home, "shop/things/local.csv", "thing_id\nlocal\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong secret")
    requests.post(f"{bucket.endpoint}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
    try:
        load = ingest(home, shop(bucket.location, {}))
    finally:
        requests.post(f"{bucket.endpoint}/moto-api/reset-auth", data=b"inf", timeout=10)
    ((uri, reason),) = load.refused
    assert (uri, "check the address and the credentials" in reason, loaded(home)) == (bucket.location, True, ["local"])
    assert "wrong secret" not in told_anywhere(home, caplog, load)


def test_a_key_that_sftp_does_not_know_is_told_and_other_sources_go_on(home, server, land):
    server.put("a.csv", "t1")
    land(home, "shop/things/local.csv", "thing_id\nlocal\n")
    server.make_key("user_key")
    ((uri, reason),) = ingest(home, shop(server.location, {})).refused
    assert (uri, "Authentication failed" in reason, loaded(home)) == (server.location, True, ["local"])


@pytest.mark.parametrize("known", ["nothing", "another key"])
def test_a_server_whose_host_key_is_not_the_known_one_is_not_talked_to(home, server, known):
    server.put("a.csv", "t1")
    if known == "another key":
        server.make_key("host_key")
        server.know_host()
        server.stop()
        server.make_key("host_key")
        server.start()
    else:
        (server.folder / "known_hosts").write_text("")
    ((_, reason),) = ingest(home, shop(server.location)).refused
    assert ("not found in known_hosts" if known == "nothing" else "does not match") in reason
    assert loaded(home) == []


def test_a_password_in_a_url_is_neither_logged_nor_kept(home, server, caplog):
    server.put("a.csv", "t1")
    secret = server.location.replace("sftp://", f"sftp://{server.user}:opensesame@")
    load = ingest(home, shop(secret))
    assert (load.files, query(home, "select source_uri from staging._loads")) == (1, [(server.location.replace("*", "a"),)])
    server.stop()
    refused = ingest(home, shop(secret))
    server.start()
    assert len(refused.refused) == 1
    assert "opensesame" not in told_anywhere(home, caplog, (load, refused))


def test_the_ledger_names_the_server_of_a_file(home, server):
    server.put("a.csv", "t1")
    ingest(home, shop(server.location))
    assert query(home, "select source_uri from staging._loads") == [(f"sftp://127.0.0.1:{server.port}{server.files}/a.csv",)]


# Delivered to


def test_batches_are_delivered_as_whole_files_and_once_each(store):
    url = f"{store.location.rpartition('/')[0]}/out/regulars"
    for row in ("a", "a", "b"):  # the first is sent twice
        Files(url, "csv", ("id",), ("id",), 10).send("add", [{"id": row}], f"regulars-{row}")
    system, folder = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    content = {name.rpartition("/")[2]: system.cat_file(name).decode() for name in system.ls(folder, detail=False)}
    assert content == {f"regulars-{row}.csv": f"operation,id\nadd,{row}\n" for row in "ab"}


def test_a_store_that_is_down_is_unavailable_and_gets_the_batch_later(store):
    url = f"{store.location.rpartition('/')[0]}/out"
    files = Files(url, "csv", ("id",), ("id",), 10)
    files.send("add", [{"id": "a"}], "k1")
    store.stop()
    with pytest.raises(Unavailable):
        files.send("add", [{"id": "b"}], "k2")
    store.start()
    assert [result.status for result in files.send("add", [{"id": "b"}], "k2").results] == ["accepted"]
