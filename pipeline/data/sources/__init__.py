"""Formats of shards, one file each. A new format is a file beside `parquet.py` and a row in `FORMATS`.

Or an entry point of another package: see `pipeline/README.md`. `laws` holds what is true of each.

settings of a source -> open_source -> reader: schema, row_groups, read
"""

from collections.abc import Callable, Mapping

import pyarrow as pa

from interlace.data.sources.base import (
    ROW_ERROR,
    Mapper,
    RowGroup,
    ShardFormat,
    Work,
    find_shards,
    row_errors,
    usable_rows,
)
from interlace.data.sources.columns import Renamed, WithFiles
from interlace.data.sources.csv import Csv
from interlace.data.sources.jsonl import Jsonl
from interlace.data.sources.parquet import Parquet
from interlace.data.sources.retry import Retried
from interlace.data.sources.spans import Types
from interlace.data.sources.webdataset import WebDataset, check_names
from interlace.recipe.data import Source
from interlace.recipe.plugins import Joined, kinds

TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "binary": pa.binary(),
    "strings": pa.list_(pa.string()),
    "integers": pa.list_(pa.int64()),
    "numbers": pa.list_(pa.float64()),
}
"""Types that a source can name."""

SPARSE = ("webdataset", "jsonl", *(name for name, found in kinds("sources").found.items() if found.plugin.sparse))
"""Formats in which a shard need not have every column."""


def _types(source: Source, names: dict[str, str]) -> Types:
    return tuple((names.get(c, c), TYPES[t]) for c, t in source.types.items())


def _csv(source: Source) -> ShardFormat:
    types = _types(source, source.rename)
    return Csv(group_rows=source.group_rows, delimiter=source.delimiter, types=types)


def _jsonl(source: Source) -> ShardFormat:
    return Jsonl(group_rows=source.group_rows, types=_types(source, source.rename))


def _webdataset(source: Source) -> ShardFormat:
    names = tuple((c, tuple(n.split(";"))) for c, n in source.rename.items())
    made = WebDataset(group_rows=source.group_rows, names=names, types=_types(source, {}))
    check_names(made)
    return made


FORMATS: Mapping[str, Callable[[Source], ShardFormat]] = Joined(
    "sources",
    {"parquet": lambda _: Parquet(), "webdataset": _webdataset, "csv": _csv, "jsonl": _jsonl},
    lambda found: found.part(found.plugin.make),
)


def open_source(source: Source) -> ShardFormat:
    """The reader that a source's settings describe.

    Raises:
        DataError: settings that contradict each other.
    """
    reader = FORMATS[source.format](source)
    if source.rename and source.format != "webdataset":
        reader = Renamed(inner=reader, names=tuple(source.rename.items()), sparse=source.format in SPARSE)
    if source.files:
        reader = WithFiles(inner=reader, files=source.files, sparse=source.format in SPARSE)
    return Retried(reader)


__all__ = [
    "ROW_ERROR",
    "SPARSE",
    "Mapper",
    "RowGroup",
    "ShardFormat",
    "Work",
    "find_shards",
    "open_source",
    "row_errors",
    "usable_rows",
]
