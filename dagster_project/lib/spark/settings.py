"""What a home says of its Spark: the key `spark` of `onefold.yaml`."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SparkSettings(BaseModel):
    """Where Spark runs and where its tables lie."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    master: str = Field("local[*]", description="Where an engine in this process works: local[*], or spark://host:7077.")
    remote: str | None = Field(
        None,
        pattern="^sc://",
        description="A Spark Connect server, such as sc://host:15002; the engine is there, and not here.",
    )
    storage: str | None = Field(
        None,
        description="Folder, or URL that fsspec reads (s3://bucket/onefold), for staging and tables; every worker must reach "
        "it. By default `spark/` of the home, which is enough where all workers are on this machine.",
    )
    storage_in_spark: str | None = Field(
        None, description="The same storage as Spark writes it where that differs, such as s3a://bucket/onefold."
    )
    threads: int = Field(4, ge=1, le=64, description="Models that are built at a time.")
    conf: dict[str, str] = Field({}, description="Spark's own settings, such as spark.sql.shuffle.partitions.")

    @model_validator(mode="after")
    def _both_names_of_a_storage(self) -> "SparkSettings":
        if self.storage_in_spark and not self.storage:
            raise ValueError("storage_in_spark is another name of the storage: give storage, too")
        return self
