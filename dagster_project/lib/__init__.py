"""Everything that does not need Dagster: contracts, ingestion, identity, quality, publication, serving."""
