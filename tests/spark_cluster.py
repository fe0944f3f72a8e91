"""A stand-alone Spark cluster on loopback: a master, its workers and a Spark Connect server, from PySpark's own jars."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# The guard of a JVM: leads a group of processes, which goes when the JVM's starter closes the pipe, or is killed itself.
_GUARD = 'exec 3<&0; "$@" </dev/null & jvm=$!; (read -r _ <&3; kill -KILL 0) & wait $jvm'
_START_SECONDS = 180  # slow shared cores: waiting long is no defect
_STOP_SECONDS = 30
_ROOT = Path(__file__).resolve().parents[1]


class ClusterError(RuntimeError):
    """A part of the cluster does not start."""


@dataclass(frozen=True)
class Part:
    """One JVM with all that it starts: a worker with its executors."""

    name: str
    process: subprocess.Popen
    log: Path

    def wait_for(self, said: str, seconds: float = _START_SECONDS) -> re.Match[str]:
        """The first match of a regular expression in what the part logs.

        Raises:
            ClusterError: it ended, or has not said so in time; with the end of its log.
        """
        until = time.monotonic() + seconds
        while True:
            ended = self.process.poll()
            text = self.log.read_text(encoding="utf-8", errors="replace")
            if found := re.search(said, text):
                return found
            if ended is not None or time.monotonic() > until:
                what = f"ended with {ended}" if ended is not None else f"has not said '{said}' in {seconds:.0f} s"
                tail = "\n".join(text.splitlines()[-30:])
                raise ClusterError(f"Spark's {self.name} {what}; the end of {self.log}:\n{tail}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it now, with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()


@dataclass
class Cluster:
    """What runs."""

    folder: Path
    master_url: str = ""  # spark://127.0.0.1:port
    url: str = ""  # sc://127.0.0.1:port
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def event_log(self) -> Path:
        """Folder of the server's event log, which is complete once the cluster has stopped."""
        return self.folder / "events"

    @property
    def warehouse(self) -> Path:
        """Folder of the tables that have no location of their own; all workers share it."""
        return self.folder / "warehouse"

    def kill_worker(self, number: int) -> None:
        """Lose a worker with its executor, as with its machine."""
        self.parts[f"worker {number}"].kill()

    def start(self, name: str, environment: Mapping[str, str], *command: str) -> Part:
        """Start one of Spark's classes with its options; it ends with this process, whatever ends this process."""
        log = self.folder / f"{name.replace(' ', '_')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", f"{environment['SPARK_HOME']}/bin/spark-class", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=dict(environment),
                start_new_session=True,
            )
        self.parts[name] = part = Part(name, process, log)
        return part

    def stop(self) -> None:
        """End everything, the server first and in order, so that its event log is closed."""
        if server := self.parts.get("server"):
            for jvm in _children(server.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(jvm, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(_STOP_SECONDS)
        for part in reversed(self.parts.values()):
            part.kill()


@contextmanager
def cluster(
    folder: Path, workers: int = 2, cores: int = 1, memory: str = "768m", conf: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A running cluster; both its workers' executors are there before a query's first task.

    Args:
        folder: logs, the event log, tables and scratch files go there.
        cores: of each worker, that is tasks at a time.
        memory: of each worker's executor; beside it run a master and workers with 256 MB each and a driver with 1 GB.
        conf: more settings of the server, such as `spark.sql.shuffle.partitions`.

    Raises:
        ClusterError: something does not start.
    """
    import pyspark

    folder = Path(folder).resolve()
    running = Cluster(folder)
    for needed in (folder / "conf", folder / "scratch", running.event_log):
        needed.mkdir(parents=True, exist_ok=True)
    home = Path(pyspark.__file__).parent
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))},
        "SPARK_HOME": str(home),
        "SPARK_CONF_DIR": str(folder / "conf"),  # nothing of the machine's own
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "scratch"),
        "SPARK_NO_DAEMONIZE": "1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(_ROOT),  # functions of the project, which executors import
    }
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.executor.memory": memory,
        "spark.executor.cores": str(cores),
        "spark.cores.max": str(workers * cores),
        # The first tasks wait for all executors.
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": f"{_START_SECONDS}s",
        # A worker that is lost is lost on loopback: nothing to wait for.
        "spark.shuffle.io.maxRetries": "1",
        "spark.shuffle.io.retryWait": "1s",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": "0",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": running.event_log.as_uri(),
        "spark.sql.warehouse.dir": running.warehouse.as_uri(),
        "spark.sql.shuffle.partitions": str(2 * workers * cores),
        "spark.ui.port": str(_free_port()),  # sessions read here where the UI is
        "spark.ui.liveUpdate.period": "0",  # what a task did is known there once it ended
        **(conf or {}),
    }
    listening = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
    # Not of the server, where it goes before spark.driver.memory.
    daemon = environment | {"SPARK_DAEMON_MEMORY": "256m"}
    try:
        master = running.start(
            "master",
            daemon | {"SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false"},
            "org.apache.spark.deploy.master.Master",
            *listening,
        )
        running.master_url = master.wait_for(r"Starting Spark master at (spark://\S+)")[1]
        for number in range(workers):
            name = f"worker {number}"
            running.start(
                name,
                daemon,
                "org.apache.spark.deploy.worker.Worker",
                *listening,
                *("--cores", str(cores), "--memory", memory, "--work-dir", str(folder / name.replace(" ", "_"))),
                running.master_url,
            )
        # While the workers start, too.
        server = running.start(
            "server",
            environment,
            "org.apache.spark.deploy.SparkSubmit",
            *("--master", running.master_url),
            *(part for key, value in settings.items() for part in ("--conf", f"{key}={value}")),
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
        )
        for number in range(workers):
            running.parts[f"worker {number}"].wait_for("Successfully registered with master")
        running.url = f"sc://127.0.0.1:{server.wait_for('Spark Connect server started at:? .*:([0-9]+)')[1]}"
        yield running
    finally:
        running.stop()


def is_there() -> bool:
    """Whether this machine has what a cluster needs: PySpark with its Connect client, and Java."""
    import importlib.util

    has_java = bool(shutil.which("java") or os.environ.get("JAVA_HOME"))
    return has_java and all(importlib.util.find_spec(name) for name in ("pyspark", "grpc", "pandas"))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]
