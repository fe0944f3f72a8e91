"""One Spark session for this process: an engine in it, or a client of a Spark Connect server."""

import importlib.util
import logging
import os
import shutil
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.settings import Settings
from dagster_project.lib.spark.connect import connect, disconnect, is_alive

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LOCK = threading.Lock()
_running: dict[str, "SparkSession"] = {}

# What the models' SQL relies on, whatever a cluster is set to.
MEANING = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",  # dbt-spark sets it: what cannot be cast is null, as in try_cast
    "spark.sql.sources.default": "parquet",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
_LOGGING = Path(__file__).with_name("log4j2.properties")
# For an engine in this process, where nothing else is said.
_LOCAL = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "3g",
    "spark.sql.shuffle.partitions": "4",
    "spark.log.level": "ERROR",
    # Plans of many steps nest deeply, and Java reads them on the stack of a task, which has 1 MB by itself.
    "spark.driver.extraJavaOptions": f"-Xss8m -Dlog4j2.configurationFile={_LOGGING.as_uri()}",
}


def session(home: Home) -> "SparkSession":
    """The session of this process, started on first use, which takes some ten seconds; that of another home ends.

    Raises:
        OnefoldError: PySpark or Java is missing, or the server does not answer.
    """
    settings = Settings.of(home).spark
    with _LOCK:
        running = _running.get(str(home.path))
        if running is not None and (not _is_remote(running) or is_alive(running)):
            return running
        _end()  # homes name their tables alike
        if importlib.util.find_spec("pyspark") is None:
            raise OnefoldError("PySpark is not installed: pip install 'onefold[spark]'")
        if not settings.remote and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
            raise OnefoldError("Spark needs a Java runtime (17 or later): install one, for example openjdk-17-jre-headless")
        warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")  # nothing here uses it
        conf = settings.conf
        if fixed := sorted(MEANING.keys() & conf.keys()):
            raise OnefoldError(f"spark.conf: {', '.join(fixed)} is set by Onefold, whose models rely on it; leave it out")
        started = connect(settings.remote, MEANING | conf) if settings.remote else _start(settings.master, conf)
        _running[str(home.path)] = started
        return started


def stop() -> None:
    """End the session of this process, if it has one."""
    with _LOCK:
        _end()


def _end() -> None:
    for running in _running.values():
        if _is_remote(running):
            disconnect(running)
        else:
            running.stop()
    _running.clear()


def _is_remote(running: "SparkSession") -> bool:
    return type(running).__module__.startswith("pyspark.sql.connect")


def _start(master: str, conf: dict[str, str]) -> "SparkSession":
    """A session whose engine is in this process."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    logging.getLogger("SQLQueryContextLogger").disabled = True  # every error is raised as well
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the Python of workers on this machine
    if master.startswith("local"):  # else a machine with several addresses warns, and listens on a public one
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master(master).appName("onefold")
    for key, value in (_LOCAL | MEANING | conf).items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise OnefoldError(f"Spark does not start at {master}: {' '.join(str(error).split())[:300]}") from error
