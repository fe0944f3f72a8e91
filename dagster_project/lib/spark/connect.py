"""A client of a Spark Connect server: the engine is there, and this process only sends statements."""

import logging
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dagster_project.lib.errors import OnefoldError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# As PySpark's own builder sets them: functions, types and libraries that ask it for a session look here.
_MODE = "SPARK_CONNECT_MODE_ENABLED"
_REMOTE = "SPARK_REMOTE"
_ANSWERS_WITHIN = 30  # seconds; PySpark itself tries for ten minutes


def connect(url: str, conf: Mapping[str, str]) -> "SparkSession":
    """A new session of a server, which is PySpark's session of this process until `disconnect`.

    Args:
        url: such as sc://host:15002, with `/;token=…;use_ssl=true` where the server asks for it.
        conf: settings of the session.

    Raises:
        OnefoldError: the server does not answer, or a setting is not one of a session.
    """
    import grpc

    with warnings.catch_warnings():  # PySpark has a word on the version of pandas, which nothing here hands it
        warnings.simplefilter("ignore", FutureWarning)
        from pyspark.sql.connect.client import DefaultChannelBuilder
        from pyspark.sql.connect.client.retries import DefaultPolicy
        from pyspark.sql.connect.session import SparkSession as Session

    _keep_to_itself()
    where = url.partition("/;")[0]
    channel = DefaultChannelBuilder(url).toChannel()
    try:
        grpc.channel_ready_future(channel).result(timeout=_ANSWERS_WITHIN)
    except grpc.FutureTimeoutError as error:
        raise OnefoldError(
            f"no Spark Connect server answers at {where}: see that it runs, and that its port is open"
        ) from error
    finally:
        channel.close()
    # Not by `pyspark.sql.SparkSession.builder`, which refuses while an engine is in this process, too.
    os.environ[_MODE], os.environ[_REMOTE] = "1", url
    session = Session.builder.remote(url).create()
    # About a minute: a server that was started anew knows this session no more.
    session.client.set_retry_policies([DefaultPolicy(max_retries=9, max_backoff=15_000)])
    try:
        for key, value in conf.items():
            _set(session, key, value, where)
    except BaseException:
        disconnect(session)
        raise
    return session


def disconnect(session: "SparkSession") -> None:
    """End a session; the server runs on."""
    session.stop()
    for name in (_MODE, _REMOTE):
        os.environ.pop(name, None)


def is_alive(session: "SparkSession") -> bool:
    """Whether the server still knows a session: it forgets those that idle for an hour, and all when it starts anew."""
    from pyspark.errors import PySparkException

    try:
        return not session.is_stopped and bool(session.conf.get("spark.app.id"))
    except PySparkException:
        return False


def _set(session: "SparkSession", key: str, value: str, where: str) -> None:
    from pyspark.errors import PySparkException

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            session.conf.set(key, value)
        except PySparkException as error:
            said.append(error)
    if said and session.conf.get(key, None) != value:
        raise OnefoldError(
            f"spark.conf: {key} is no setting of a session, or not with this value; "
            f"what is fixed when Spark starts is set on the server at {where}"
        )


def _keep_to_itself() -> None:
    """PySpark prints every failed statement with plan, values and the server's stack, beside raising it."""
    from pyspark.logger import PySparkLogger

    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name)
        logging.getLogger(name).disabled = True
