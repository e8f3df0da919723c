"""Formats of shards, one file each. A new format is a file beside `parquet.py` and a row in `FORMATS`."""

from pipeline.data.sources.base import RowGroup, ShardFormat, find_shards
from pipeline.data.sources.parquet import Parquet

FORMATS: dict[str, ShardFormat] = {"parquet": Parquet()}

__all__ = ["FORMATS", "RowGroup", "ShardFormat", "find_shards"]
