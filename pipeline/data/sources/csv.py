"""CSV with a header (RFC 4180): quoted values may hold delimiters, doubled quotes and newlines. UTF-8, CRLF or LF.

Types come from the first rows of the shard, an empty value is null, blank lines are no rows. A row that doesn't
convert, has another number of values, is not UTF-8, or is longer than `MAX_ROW_BYTES` is a bad record.
"""

import csv
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyarrow import csv as arrow_csv

from interlace.contract.errors import DataError
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

MAX_ROW_BYTES = 64 << 20
MAX_HEADER_BYTES = 1 << 20
QUOTE = ord('"')

VALUE, PLAIN, QUOTED, CLOSED = range(4)
"""Where in a row a byte can be: where a value begins, in a plain or a quoted one, after a quote in a quoted one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Csv(ShardFormat):
    """Reader of CSV.

    Args:
        group_rows: rows in a row group.
        delimiter: what separates values.
        types: types of columns that are not left to inference.
    """

    group_rows: int
    delimiter: str = ","
    types: Types = ()

    def schema(self, shard: str) -> pa.Schema:
        """Names of the header with types inferred from the first rows, or as `types` names them."""
        return _head(self, shard)

    def row_groups(self, shard: str) -> list[RowGroup]:
        """Runs of rows."""
        return list(_listed(self, shard))

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Columns by their names in the header."""
        head = self.schema(group.shard)
        if lacking := [c for c in columns if c not in head.names]:
            raise DataError(f"{group.shard}: expected a column `{lacking[0]}`, but there is none")
        schema = pa.schema([head.field(c) for c in columns])
        if error := too_long(group, MAX_ROW_BYTES):
            return bad_rows(schema, [error])
        data = read_span(group)
        try:
            table = _parse([data], head, self.delimiter, columns)
        except pa.ArrowException:
            table = None
        if table is None or table.num_rows != group.num_rows:
            records = [data[a:b] for a, b in _records(pa.BufferReader(data), 0, self.delimiter, group.shard)]
            if len(records) != group.num_rows:
                raise changed(group)
            table = salvage(records, partial(_parse, head=head, delimiter=self.delimiter, columns=columns), schema)
        return table


def _parse(records: Sequence[bytes], head: pa.Schema, delimiter: str, columns: Sequence[str]) -> pa.Table:
    data = b"".join(records)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=head.names),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=head,
                include_columns=list(columns) or head.names[:1],
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(_named(str(error), head.names)) from error
    return table.select(list(columns))


def _named(message: str, names: Sequence[str]) -> str:
    """A message of pyarrow with the column's name for its number, and without the row in the block."""
    message = re.sub(r"In CSV column #(\d+): ", lambda m: f"column `{names[int(m[1])]}`: ", message)
    return re.sub(r"Row #\d+: ", "", message)


def _records(file: pa.NativeFile, start: int, delimiter: str, shard: str) -> Iterator[Span]:
    """Rows that are not blank, with newlines in quotes inside them; memory is that of one chunk."""
    mark = delimiter.encode()
    begin, at, blank, state = start, start, True, VALUE
    while chunk := file.read_at(CHUNK_BYTES, at):
        done = 0
        while done < len(chunk):
            found = chunk.find(b"\n", done)
            piece = chunk[done:] if found < 0 else chunk[done:found]
            blank = blank and piece in (b"", b"\r")
            if state == QUOTED or b'"' in piece or found < 0:
                state = _state(piece, state, mark)
            done += len(piece) + (found >= 0)
            if found >= 0 and state != QUOTED:
                if not blank:
                    yield begin, at + done
                begin, blank, state = at + done, True, VALUE
        at += len(chunk)
    if state == QUOTED:
        raise DataError(f"{shard}: the row at byte {begin} opens a quote that is never closed")
    if not blank:
        yield begin, at


def _state(piece: bytes, state: int, delimiter: bytes) -> int:
    """Where in its row the byte after this piece is. A quote means something only where a value begins or is quoted."""
    at = 0
    while at < len(piece):
        if state == PLAIN:
            at = piece.find(delimiter, at) + 1
            state = VALUE
        elif state == QUOTED:
            at = piece.find(b'"', at) + 1
            state = CLOSED
        else:
            quoted = piece[at] == QUOTE
            state = QUOTED if quoted else PLAIN
            at += quoted
            continue
        if at == 0:  # not found: the rest is of the same kind
            return PLAIN if state == VALUE else QUOTED
    return state


@remembered("CSV")
def _listed(source: Csv, shard: str) -> tuple[RowGroup, ...]:
    with open_plain(shard, "CSV") as file:
        _, start = _header(file, source.delimiter, shard)
        records = _records(file, start, source.delimiter, shard)
        return tuple(row_groups(shard, records, source.group_rows, MAX_ROW_BYTES))


def _header(file: pa.NativeFile, delimiter: str, shard: str) -> tuple[list[str], int]:
    """Names of the columns, and the byte where the first row begins."""
    skip = first_byte(file)
    begin, end = next(_records(file, skip, delimiter, shard), (skip, skip))
    data = file.read_at(min(end - begin, MAX_HEADER_BYTES + 1), begin)
    if len(data) > MAX_HEADER_BYTES or b"\0" in data:
        raise DataError(
            f"{shard}: expected a CSV header, but the first line is no text or over {MAX_HEADER_BYTES} bytes"
        )
    try:
        rows = list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shard}: expected UTF-8, but the header has {data[error.start : error.start + 4]!r}"
        ) from error
    if not rows:
        raise DataError(f"{shard}: expected a CSV header, but every line is blank")
    if len(rows) > 1:
        raise DataError(f"{shard}: expected lines that end in LF or CRLF, but the header holds a CR alone")
    _check_names(rows[0], delimiter, shard)
    return rows[0], end


def _check_names(names: Sequence[str], delimiter: str, shard: str) -> None:
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise DataError(f"{shard}: expected each column once, but the header names {', '.join(doubled)} again")
    other = next((d for d in ";\t|," if d != delimiter and d in names[0]), None)
    if len(names) == 1 and other:
        raise DataError(
            f"{shard}: expected columns separated by {delimiter!r}, but the header is one column {names[0]!r};"
            f" set `delimiter: {other!r}`"
        )


@remembered("CSV")
def _head(source: Csv, shard: str) -> pa.Schema:
    with open_plain(shard, "CSV") as file:
        names, start = _header(file, source.delimiter, shard)
        stop = start
        for _, end in _records(file, start, source.delimiter, shard):
            if end - start > HEAD_BYTES and stop > start:
                break
            stop = end
        data = file.read_at(min(stop - start, MAX_ROW_BYTES), start)
    lacking = [n for n, _ in source.types if n not in names]
    if lacking:
        near = difflib.get_close_matches(lacking[0], names, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(names)}"
        raise DataError(f"{shard}: `types` names a column `{lacking[0]}`, but there is none; {hint}")
    return _inferred(data, names, source)


def _inferred(data: bytes, names: Sequence[str], source: Csv) -> pa.Schema:
    """Types as pyarrow infers them from whole rows; what is no UTF-8 counts as text, so that its rows are bad."""
    given = dict(source.types)
    if not data.strip():
        return pa.schema([(n, given.get(n, pa.null())) for n in names])
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            parse_options=arrow_csv.ParseOptions(
                delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=lambda _: "skip"
            ),
            convert_options=arrow_csv.ConvertOptions(null_values=[""], strings_can_be_null=True),
        )
    except pa.ArrowInvalid:
        return pa.schema([(n, given.get(n, pa.null())) for n in names])
    types = [pa.string() if pa.types.is_binary(t) else t for t in table.schema.types]
    return pa.schema([(n, given.get(n, t)) for n, t in zip(names, types, strict=True)])
