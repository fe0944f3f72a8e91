"""Apache Spark as the engine of a home: the same models and steps, on Parquet in a storage that its workers share."""
