"""Builders of example data: each writes a small real set of Parquet shards from installed packages."""
