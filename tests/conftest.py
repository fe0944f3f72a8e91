"""What the tests share: a home of their own, a fixed key, files landed in it."""

import gzip
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import settings
from receiver import Receiver

from dagster_project.lib.home import Home

# Slow shared cores: a slow example is no defect.
settings.register_profile("onefold", deadline=None, print_blob=True)
settings.load_profile("onefold")

KEY = "a key that only tests use"


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the developer's home or key."""
    with pytest.MonkeyPatch.context() as patch:
        nowhere = tmp_path_factory.mktemp("no_home")
        patch.setenv("ONEFOLD_HOME", str(nowhere))
        patch.setenv("DAGSTER_HOME", str(nowhere / "dagster"))
        patch.setenv("ONEFOLD_KEY", KEY)
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A prepared home that the environment names."""
    path = tmp_path / "home"
    monkeypatch.setenv("ONEFOLD_HOME", str(path))
    monkeypatch.setenv("DAGSTER_HOME", str(path / "dagster"))
    return Home(path).prepare()


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Home]:
    """Makes a prepared home for each call; for property tests, whose examples must not share one."""
    return lambda: Home(tmp_path_factory.mktemp("home")).prepare()


@pytest.fixture(scope="session")
def sample_company(new_home: Callable[[], Home]) -> Home:
    """A sample company after six refreshes; tests that change it take a copy."""
    from company import build_company

    home = new_home()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(home.path))
        build_company(home)
    return home


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running loopback HTTP server."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield receiver
    if receiver.server.fileno() != -1:  # a test may have ended it
        receiver.server.shutdown()
        receiver.server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def land() -> Callable[[Home, str, str | bytes], Path]:
    """Writes a file below a home's landing/, packed as its ending says; returns its path."""

    def write(home: Home, name: str, content: str | bytes) -> Path:
        path = home.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(data))
        elif path.suffix == ".zst":
            _write_zstandard(path, data.decode())
        else:
            path.write_bytes(data)
        return path

    return write


def _write_zstandard(path: Path, text: str) -> None:
    # Python 3.11 has no Zstandard; DuckDB writes the lines as they are.
    duckdb.connect().execute(
        f"""
        copy (select unnest(string_split(?, chr(10))) as line)
        to '{path}' (format csv, header false, delimiter '\x01', quote '', escape '', compression zstd)
        """,
        [text.removesuffix("\n")],
    )
