"""The code location: everything below defs/."""

import gc
from pathlib import Path

import dagster as dg

from dagster_project.lib.dbt import without_collection


@dg.definitions
def defs() -> dg.Definitions:
    with without_collection():
        loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    gc.freeze()  # they stay as long as the process; else each full collection goes through them
    return loaded
