"""Readers around a reader: columns under other names, and columns of paths that become the bytes of those files.

A path is relative to the folder of its table and stays inside it; absolute paths and URIs are taken as they stand.
"""

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyarrow import fs

from interlace.contract.errors import DataError
from interlace.data.sources.base import ROW_ERROR, RowGroup, ShardFormat, row_errors, split_uri
from interlace.data.sources.retry import retried

MAX_FILE_BYTES = 256 << 20
FILES_AT_ONCE = 8
"""Files of a row group that are read at a time from a store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed(ShardFormat):
    """Columns under the names that the recipe gives them.

    Args:
        inner: reads the shard.
        names: pairs of a name in the recipe and the name in the shard.
        sparse: whether a shard may lack columns.
    """

    inner: ShardFormat
    names: tuple[tuple[str, str], ...]
    sparse: bool

    def schema(self, shard: str) -> pa.Schema:
        """The shard's columns, renamed where `names` says so."""
        schema = self.inner.schema(shard)
        there = {n: schema.field(i).type for i, n in enumerate(schema.names)}
        lacking = [(new, old) for new, old in self.names if old not in there]
        if lacking and not self.sparse:
            new, old = lacking[0]
            raise DataError(f"{shard}: `rename.{new}` names a column `{old}`, but there is none; {_hint(old, schema)}")
        kept = {n: t for n, t in there.items() if n not in {old for _, old in self.names}}
        return pa.schema(list({**kept, **{new: there[old] for new, old in self.names if old in there}}.items()))

    def row_groups(self, shard: str) -> list[RowGroup]:
        """As in the shard."""
        return self.inner.row_groups(shard)

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Columns by the recipe's names."""
        names = dict(self.names)
        table = self.inner.read(group, list(dict.fromkeys(names.get(c, c) for c in columns)))
        read = table.select([names.get(c, c) for c in columns]).rename_columns(list(columns))
        return read.append_column(ROW_ERROR, table[ROW_ERROR]) if ROW_ERROR in table.column_names else read


@dataclass(frozen=True, slots=True, kw_only=True)
class WithFiles(ShardFormat):
    """Columns of paths, read as the bytes of those files.

    Args:
        inner: reads the table.
        files: the columns.
        sparse: whether a table may lack columns.
    """

    inner: ShardFormat
    files: tuple[str, ...]
    sparse: bool

    def schema(self, shard: str) -> pa.Schema:
        """The table's columns, bytes for paths."""
        schema = self.inner.schema(shard)
        for column in self.files:
            if column not in schema.names and self.sparse:
                continue
            if column not in schema.names:
                raise DataError(
                    f"{shard}: `files` names a column `{column}`, but there is none; {_hint(column, schema)}"
                )
            at = schema.get_field_index(column)
            kind = schema.field(at).type
            if not pa.types.is_null(kind):
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise DataError(f"{shard}: `files` expects `{column}` to be string (paths), but it is {kind}")
                schema = schema.set(at, pa.field(column, pa.binary()))
        return schema

    def row_groups(self, shard: str) -> list[RowGroup]:
        """As in the table."""
        return self.inner.row_groups(shard)

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group with files read; one that can't be read is an error that names its path."""
        table = self.inner.read(group, columns)
        wanted = [c for c in self.files if c in columns]
        if not wanted:
            return table
        errors = row_errors(table)
        for column in wanted:
            paths = [None if error else p for p, error in zip(table[column].to_pylist(), errors, strict=True)]
            values = _load_all(paths, group.shard)
            for row, value in enumerate(values):
                if isinstance(value, str):
                    errors[row], values[row] = f"`{column}`: {value}", None
            at = table.column_names.index(column)
            table = table.set_column(at, column, pa.array(values, pa.binary()))
        table = table.select(list(columns))
        return table.append_column(ROW_ERROR, pa.array(errors, pa.string())) if any(errors) else table


def _hint(name: str, schema: pa.Schema) -> str:
    near = difflib.get_close_matches(name, schema.names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"it has {', '.join(schema.names)}"


def _load_all(paths: Sequence[str | None], shard: str) -> list[bytes | str | None]:
    """What `_load` gives for each path; several files at a time where they are not local: each takes two requests."""
    load = partial(_load, shard=shard)
    if any(path and "://" in (path if path.startswith("/") else shard + path) for path in paths):
        with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
            return list(threads.map(load, paths))
    return [load(path) for path in paths]


def _load(path: str | None, shard: str) -> bytes | str | None:
    """The bytes of a file, or what is wrong with it as text."""
    if path is None:
        return None
    if not path:
        return "expected the path of a file, but it is empty"
    try:
        system, inner = _resolve(path, shard)
        return retried(partial(_content, system, inner, path), path)
    except (OSError, ValueError) as error:  # pa.ArrowInvalid is a ValueError
        local = "://" not in path and (path.startswith("/") or "://" not in shard)
        if local or isinstance(error, FileNotFoundError | ValueError):
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
            return f"expected a file at {path!r}, but {reason}"[:400]
        raise


def _content(system: fs.FileSystem, inner: str, path: str) -> bytes | str:
    with system.open_input_file(inner) as file:
        size = file.size()
        if size > MAX_FILE_BYTES:
            return f"{path!r} has {size} bytes, more than the {MAX_FILE_BYTES} allowed"
        data: bytes = file.read()
        return data


def _resolve(path: str, shard: str) -> tuple[fs.FileSystem, str]:
    if "://" in path or path.startswith("/"):
        return split_uri(path)
    depth = 0
    for part in path.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            raise ValueError("it leaves the folder of its table; give it as an absolute path")
    system, table = split_uri(shard)
    return system, f"{table.rpartition('/')[0]}/{path}"
