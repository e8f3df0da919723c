"""Row groups of files that have none of their own: records are byte spans, a row group is a run of records.

    file -> records (start, stop) -> row groups of `group_rows` records -> one ranged read each -> rows

A row group never passes `MAX_GROUP_BYTES`. A record longer than the format's limit is a row group of its own, which is
never read: its row is bad.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, wraps
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from interlace.contract.errors import DataError
from interlace.data.sources.base import ROW_ERROR, RowGroup, ShardFormat, split_uri

MAX_GROUP_BYTES = 256 << 20
HEAD_BYTES = 4 << 20
"""Bytes of whole records at the start of a shard that column types are inferred from (one record at least)."""
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
REASON_CHARS = 240

CHUNK_BYTES = 1 << 20
"""Bytes that are read at a time where a file is listed."""
BOM = b"\xef\xbb\xbf"

Span = tuple[int, int]
Types = tuple[tuple[str, pa.DataType], ...]
"""Types of columns that are not left to inference, by name."""
Found = TypeVar("Found")
Reader = TypeVar("Reader", bound=ShardFormat)


def stat(shard: str, kind: str) -> fs.FileInfo:
    """Size and time of change of a shard. Raises DataError if it is not there or empty."""
    system, path = split_uri(shard)
    info = system.get_file_info(path)
    if not info.is_file:
        raise DataError(f"{shard}: expected a {kind} file, but there is none")
    if info.size == 0:
        raise DataError(f"{shard}: expected a {kind} file, but it is empty (0 bytes)")
    return info


def remembered(kind: str) -> Callable[[Callable[[Reader, str], Found]], Callable[[Reader, str], Found]]:
    """Makes a function of a reader and a shard remember what it found, while the file's size and time stay.

    Args:
        kind: of the file, for `stat`, which is asked at each call and raises DataError.
    """

    def remember(find: Callable[[Reader, str], Found]) -> Callable[[Reader, str], Found]:
        @lru_cache(maxsize=4096)
        def found(reader: Reader, shard: str, _size: int, _time: int | None) -> Found:
            return find(reader, shard)

        @wraps(find)
        def ask(reader: Reader, shard: str) -> Found:
            info = stat(shard, kind)
            return found(reader, shard, info.size, info.mtime_ns)

        return ask

    return remember


def open_plain(shard: str, kind: str) -> pa.NativeFile:
    """The file, open for reading anywhere. Raises DataError if it is compressed, since that allows no seeking."""
    system, path = split_uri(shard)
    file = system.open_input_file(path)
    start = file.read_at(6, 0)
    for magic, name in PACKED.items():
        if start.startswith(magic):
            file.close()
            raise DataError(
                f"{shard}: expected a {kind} file, but it is compressed with {name}; unpack it, since row groups are"
                " read by seeking (pictures and sound gain nothing by it)"
            )
    return file


def first_byte(file: pa.NativeFile) -> int:
    """Where a text begins: after the mark of its byte order, if it has one."""
    return len(BOM) if file.read_at(len(BOM), 0) == BOM else 0


def read_span(group: RowGroup) -> bytes:
    """The bytes of a row group. Raises DataError if the file is shorter by now."""
    system, path = split_uri(group.shard)
    with system.open_input_file(path) as file:
        data: bytes = file.read_at(group.num_bytes, group.offset)
    if len(data) != group.num_bytes:
        raise changed(group)
    return data


def changed(group: RowGroup) -> DataError:
    """The error of a row group that is no longer what was listed."""
    return DataError(f"{group.shard} row group {group.index}: the shard changed after it was indexed")


def row_groups(shard: str, records: Iterable[Span], group_rows: int, max_record_bytes: int) -> list[RowGroup]:
    """Row groups of a shard's records, each record given by its first byte and the byte after its last."""
    groups: list[RowGroup] = []
    first = rows = start = stop = 0

    def close() -> None:
        nonlocal first, rows
        if rows:
            made = RowGroup(
                shard=shard, index=len(groups), first_row=first, num_rows=rows, num_bytes=stop - start, offset=start
            )
            groups.append(made)
            first, rows = first + rows, 0

    for begin, end in records:
        too_long = end - begin > max_record_bytes
        if too_long or rows == group_rows or (rows and end - start > MAX_GROUP_BYTES):
            close()
        if not rows:
            start = begin
        stop, rows = end, rows + 1
        if too_long:
            close()
    close()
    return groups


def too_long(group: RowGroup, max_record_bytes: int) -> str | None:
    """The error of a row group that is one record over the limit."""
    if group.num_rows == 1 and group.num_bytes > max_record_bytes:
        return (
            f"the record at byte {group.offset} has {group.num_bytes} bytes, more than the {max_record_bytes} allowed"
        )
    return None


def bad_rows(schema: pa.Schema, reasons: Sequence[str]) -> pa.Table:
    """A table of nulls, each row with its error."""
    columns = [pa.nulls(len(reasons), t) for t in schema.types]
    return pa.table([*columns, pa.array(reasons, pa.string())], names=[*schema.names, ROW_ERROR])


def salvage(records: Sequence[bytes], parse: Callable[[Sequence[bytes]], pa.Table], schema: pa.Schema) -> pa.Table:
    """The rows of records parsed together; where that fails they are halved, so k bad ones cost k log n parses.

    Args:
        records: one row each.
        parse: makes a table of `schema` of records; raises ArrowException or UnicodeDecodeError if it can't.
        schema: the columns; one of type null is unknown and takes nulls only.
    """
    try:
        table = parse(records)
        if table.num_rows == len(records):
            return table
        reason = f"expected one row, but it holds {table.num_rows}"
    except UnicodeDecodeError as error:
        reason = f"expected UTF-8, but {error.reason} (byte {error.start} of the record)"
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
    if len(records) > 1:
        middle = len(records) // 2
        halves = [salvage(part, parse, schema) for part in (records[:middle], records[middle:])]
        return pa.concat_tables(halves, promote_options="default")
    unknown = [n for n, t in zip(schema.names, schema.types, strict=True) if pa.types.is_null(t)]
    hint = ""
    if unknown and "null" in reason:
        listed = ", ".join(f"`{n}`" for n in unknown)
        hint = f" (the first rows of the shard hold no {listed}, so its type is unknown: name it under `types`)"
    return bad_rows(schema, [reason[:REASON_CHARS] + hint])
