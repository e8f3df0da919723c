"""JSON Lines: one object a line. Types come from the first rows of the shard; blank lines are no rows.

A line that is no object, of another type than its column, not UTF-8, or longer than `MAX_LINE_BYTES` is a bad record.
Listing passes over the file once in chunks and never holds a line.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import json as arrow_json

from interlace.data.sources.base import RowGroup, ShardFormat
from interlace.data.sources.spans import (
    CHUNK_BYTES,
    HEAD_BYTES,
    Span,
    Types,
    bad_rows,
    changed,
    first_byte,
    open_plain,
    read_span,
    remembered,
    row_groups,
    salvage,
    too_long,
)

MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Jsonl(ShardFormat):
    """Reader of JSON Lines.

    Args:
        group_rows: rows in a row group.
        types: types of columns that are not left to inference.
    """

    group_rows: int
    types: Types = ()

    def schema(self, shard: str) -> pa.Schema:
        """Keys of the first rows, and those that `types` names."""
        return _head(self, shard)

    def row_groups(self, shard: str) -> list[RowGroup]:
        """Runs of lines."""
        return list(_listed(self, shard))

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Keys as columns; one that a line lacks is null there."""
        head = self.schema(group.shard)
        known = dict(zip(head.names, head.types, strict=True))
        schema = pa.schema([(c, known.get(c, pa.null())) for c in columns])
        if error := too_long(group, MAX_LINE_BYTES):
            return bad_rows(schema, [error])
        lines = [line for line in read_span(group).split(b"\n") if line.strip()]
        if len(lines) != group.num_rows:
            raise changed(group)
        return documents(lines, schema)


def documents(docs: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    """JSON objects as rows of a schema, in order; other keys are passed over, bad documents get an error."""
    table = salvage([_object(d) for d in docs], lambda part: _parse(part, schema), schema)
    return table if table.num_columns else pa.table({"": pa.nulls(len(docs))}).select([])


def _object(doc: bytes) -> bytes:
    """The document if it can be one object, else one that fails alone, so that rows can't slip against each other."""
    stripped = doc.strip()
    return stripped if stripped.startswith(b"{") and stripped.endswith(b"}") else b"[]"


def _parse(docs: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    data = b"\n".join(docs)
    data.decode()  # pyarrow doesn't look, and fails much later
    return arrow_json.read_json(
        pa.BufferReader(data),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="ignore", newlines_in_values=True
        ),
    )


def infer(docs: Iterable[bytes]) -> dict[str, pa.DataType]:
    """Keys and types of those documents that are objects. Dates stay strings.

    Python's parser, because pyarrow's crashes the process when it infers the type of a deeply nested value.
    """
    values: dict[str, list[Any]] = {}
    for doc in docs:
        try:
            record = json.loads(doc)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            for key, value in record.items():
                values.setdefault(key, []).append(value)
    return {key: _type(found) for key, found in values.items()}


def _type(values: Sequence[Any]) -> pa.DataType:
    """The type that fits all values, or the first part of them where they disagree."""
    try:
        return pa.infer_type(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        if len(values) < 2:
            return pa.null()
        first = _type(values[: len(values) // 2])
        return first if not pa.types.is_null(first) else _type(values[len(values) // 2 :])


def _lines(file: pa.NativeFile, start: int) -> Iterator[Span]:
    """Lines that are not blank; memory is that of one chunk."""
    begin, at, blank = start, start, True
    while chunk := file.read_at(CHUNK_BYTES, at):
        done = 0
        while (found := chunk.find(b"\n", done)) >= 0:
            if not blank or chunk[done:found].strip():
                yield begin, at + found + 1
            done, begin, blank = found + 1, at + found + 1, True
        blank = blank and not chunk[done:].strip()
        at += len(chunk)
    if not blank:
        yield begin, at


@remembered("JSON Lines")
def _listed(source: Jsonl, shard: str) -> tuple[RowGroup, ...]:
    with open_plain(shard, "JSON Lines") as file:
        return tuple(row_groups(shard, _lines(file, first_byte(file)), source.group_rows, MAX_LINE_BYTES))


@remembered("JSON Lines")
def _head(source: Jsonl, shard: str) -> pa.Schema:
    with open_plain(shard, "JSON Lines") as file:
        found = infer(_first(file))
    types: Mapping[str, pa.DataType] = {**found, **dict(source.types)}
    return pa.schema(list(types.items()))


def _first(file: pa.NativeFile) -> Iterator[bytes]:
    """The lines that types come from."""
    left = HEAD_BYTES
    for begin, end in _lines(file, first_byte(file)):
        if end - begin <= MAX_LINE_BYTES:
            yield file.read_at(end - begin, begin)
        left -= end - begin
        if left <= 0:
            return
