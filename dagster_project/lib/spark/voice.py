"""What reads texts on Spark: `voice.score`, on the executors, from the same dictionaries and models as on DuckDB."""

from datetime import datetime
from typing import Any

import duckdb

from dagster_project.lib import sentiment, voice
from dagster_project.lib.home import Home
from dagster_project.lib.spark.staging import spark_columns
from dagster_project.lib.spark.steps import Append, Whole


def score(work: Any, home: Home, query: str, seq: int, as_of: datetime) -> dict[str, Whole | Append]:
    """As `voice.score`, but all at once; returns the tables of analytics that change, without their schema."""
    [(done, is_whole)] = work.execute(
        "select coalesce((select max(seq) from analytics._scored), -1) as done, "
        f"(select count(*) from ({query}) as texts where is_whole) > 0 as is_whole"
    )
    kept = "select * from analytics.sentiments"
    if is_whole:
        said = f"select md5(text) as text_id from ({query}) as texts"
        kept += f" semi join ({said}) as said using (text_id) where scored_by = '{sentiment.VERSION}'"
    unread = work.make(
        "voice_unread",
        f"""
        select texts.text_id, texts.text
        from (select distinct md5(text) as text_id, text from ({query}) as texts where is_whole or _seq > {done}) as texts
        anti join ({kept}) as known using (text_id)
        """,
    )
    changes: dict[str, Whole | Append] = {"_scored": Whole(f"select cast({seq} as bigint) as seq")}
    [(waiting,)] = work.execute(f"select count(*) from {unread}")
    if waiting or is_whole:
        register_opinion(work)
        fresh = f"""
            select text_id, opinion.language, opinion.polarity, opinion.sentiment, '{sentiment.VERSION}' as scored_by,
                cast({seq} as bigint) as _seq
            from (select text_id, opinion(text) as opinion from {unread}) as read
        """
        changes["sentiments"] = Whole(f"{kept} union all {fresh}", is_stamped=True) if is_whole else Append(fresh)
    return changes


def register_opinion(work: Any) -> None:
    """The function `opinion` (text → language, polarity, sentiment) in statements.

    It travels without this package; executors need PyArrow, vaderSentiment and pysenti. A task loads the models once, at its
    first text of their language.
    """
    import pyarrow as pa
    from pyspark import cloudpickle
    from pyspark.sql.functions import arrow_udf
    from pyspark.sql.types import DoubleType, StringType, StructType

    cloudpickle.register_pickle_by_value(sentiment)
    scorer = sentiment.Sentiment()

    def opinion(texts: pa.Array) -> pa.Array:
        found = scorer.score(texts.to_pylist())
        columns = {
            "language": pa.array([each.language for each in found], pa.string()),
            "polarity": pa.array([each.polarity for each in found], pa.float64()),
            "sentiment": pa.array([each.label for each in found], pa.string()),
        }
        return pa.StructArray.from_arrays(list(columns.values()), list(columns))

    returns = StructType().add("language", StringType()).add("polarity", DoubleType()).add("sentiment", StringType())
    work.register("opinion", arrow_udf(opinion, returns))


def _declared() -> dict[str, str]:
    with duckdb.connect() as connection:
        connection.execute(f"create schema analytics; {voice.TABLES}")
        return {
            table: ", ".join(f"{name} {kind}" for name, kind in spark_columns(connection, f"analytics.{table}"))
            for table in ("sentiments", "_scored")
        }


# The tables of the state by step, with their columns in Spark's DDL.
TABLES = {"score": _declared()}
