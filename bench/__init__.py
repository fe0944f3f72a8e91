"""Benchmarks: `onefold bench ingest|refresh|live`. What counts are ratios within one run; seconds are the machine's."""
