"""What every source format offers: row groups, and reading columns of one row group.

A *row group* is the smallest part of a shard that is read at once; windows of several are the unit of shuffling.
A table that is read may carry a column `ROW_ERROR`: the reason why a row can't be used, null where it can. Such a row
becomes a bad record, and costs no other.
"""

import glob
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from interlace.contract.errors import DataError

ROW_ERROR = "__row_error__"
"""Column of a table that was read: why the row can't be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """One row group: shard path or URI, its number in the shard, rows before it in the shard, rows, bytes.

    Formats without row groups of their own cut them from the file: `num_bytes` from `offset`. For Parquet `num_bytes`
    is the size unpacked, and `offset` is 0 for a whole row group of the file; for a slice of one it is 1 + the rows of
    it that come before. `source` is the number of the source in its split.
    """

    shard: str
    index: int
    first_row: int
    num_rows: int
    num_bytes: int
    offset: int = 0
    source: int = 0


Work = Callable[[RowGroup], pa.Table]
Mapper = Callable[[Work, Sequence[RowGroup]], Iterable[pa.Table]]
"""Does work on row groups, here or anywhere; tables in the order of the row groups."""


class ShardFormat(ABC):
    """Reader of one file format with its settings. Frozen, hashable and small, so that it travels to any process."""

    @abstractmethod
    def schema(self, shard: str) -> pa.Schema:
        """Column names and types of a shard. Raises DataError if the file can't be read."""

    @abstractmethod
    def row_groups(self, shard: str) -> list[RowGroup]:
        """The shard's row groups in order. Raises DataError if the file can't be read."""

    @abstractmethod
    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group, and maybe `ROW_ERROR`.

        Raises:
            DataError: the row group's bytes are damaged, or a column is not there.
            OSError: it can't be reached.
        """


def row_errors(table: pa.Table) -> list[str | None]:
    """For each row why it can't be used, None where it can."""
    reasons: list[str | None] = (
        table[ROW_ERROR].to_pylist() if ROW_ERROR in table.column_names else [None] * table.num_rows
    )
    return reasons


def usable_rows(table: pa.Table) -> pa.Table:
    """The rows without an error, and no column of errors."""
    return (
        table.filter(table[ROW_ERROR].is_null()).drop_columns(ROW_ERROR) if ROW_ERROR in table.column_names else table
    )


def split_uri(path: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path inside it of a local path or a URI such as `s3://bucket/key`."""
    if "://" in path:
        system, inner = fs.FileSystem.from_uri(path)
        return system, inner
    return fs.LocalFileSystem(), path


def find_shards(paths: Sequence[str], root: str, setting: str = "data.root") -> list[str]:
    """Every file that the paths and globs name, sorted within each, without doubles.

    Args:
        paths: local paths, URIs, or globs of either.
        root: folder (or URI) that relative ones start from.
        setting: what decides the root, for the message.

    Raises:
        DataError: a path matches no file.
    """
    found: dict[str, None] = {}
    for path in paths:
        full = path if "://" in path or path.startswith("/") else f"{root.rstrip('/')}/{path}"
        matches = _glob_remote(full) if "://" in full else sorted(glob.glob(str(Path(full).absolute()), recursive=True))
        if not matches:
            raise DataError(f"expected at least one shard at {full}, but found none (`{setting}` is {root!r})")
        found.update(dict.fromkeys(matches))
    return list(found)


def _glob_remote(pattern: str) -> list[str]:
    scheme, _, inner = pattern.partition("://")
    if not any(c in inner for c in "*?["):
        return [pattern]
    fixed = inner[: min(inner.index(c) for c in "*?[" if c in inner)].rsplit("/", 1)[0]
    system, base = split_uri(f"{scheme}://{fixed}")
    files = system.get_file_info(fs.FileSelector(base, recursive=True))
    return sorted(f"{scheme}://{f.path}" for f in files if f.is_file and fnmatchcase(f.path, inner))
