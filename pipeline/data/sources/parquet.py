"""Parquet shards: a row group of the file is a row group of the source, a large one several.

One of more than `MAX_GROUP_BYTES` unpacked is listed as slices of rows, so that memory holds a slice at a time however
large the file's own row groups are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from interlace.contract.errors import DataError
from interlace.data.sources.base import RowGroup, ShardFormat, split_uri
from interlace.data.sources.retry import may_pass
from interlace.data.sources.spans import MAX_GROUP_BYTES, stat

BUFFER_BYTES = 1 << 20
BATCHES = 8
"""Batches that a slice is read in, so that what is decoded beyond it is little."""


@dataclass(frozen=True, slots=True)
class Parquet(ShardFormat):
    """Reader of Parquet files on any file system that pyarrow knows."""

    def schema(self, shard: str) -> pa.Schema:
        """Column names and types."""
        with _open(shard) as file:
            return file.schema_arrow

    def row_groups(self, shard: str) -> list[RowGroup]:
        """Row groups as the footer lists them."""
        groups: list[RowGroup] = []
        with _open(shard) as file:
            first = 0
            for index in range(file.num_row_groups):
                meta = file.metadata.row_group(index)
                whole = RowGroup(
                    shard=shard, index=index, first_row=first, num_rows=meta.num_rows, num_bytes=meta.total_byte_size
                )
                groups += _slices(whole)
                first += meta.num_rows
        return groups

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group, or of the rows of a slice of one."""
        with _open(group.shard, sliced=group.offset > 0, look=False) as file:
            try:
                if group.offset:
                    table = _read_slice(file, group, list(columns))
                else:
                    table = file.read_row_group(group.index, columns=list(columns), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                # A damaged page surfaces as OSError too; opening has shown that the file can be reached.
                if isinstance(error, OSError) and may_pass(error):
                    raise
                raise DataError(f"{group.shard} row group {group.index}: damaged ({_line(error)})") from error
        if lacking := [c for c in columns if c not in table.column_names]:  # pyarrow passes over them
            there = ", ".join(file.schema_arrow.names)
            raise DataError(f"{group.shard}: expected a column `{lacking[0]}`, but it has {there}")
        return table


def _slices(whole: RowGroup) -> list[RowGroup]:
    """A row group that is too large to be read at once, as several; `offset` is 1 + the rows of it before each."""
    if whole.num_bytes <= MAX_GROUP_BYTES or whole.num_rows < 2:
        return [whole]
    most = max(1, whole.num_rows * MAX_GROUP_BYTES // whole.num_bytes)
    rows = -(-whole.num_rows // -(-whole.num_rows // most))
    return [
        replace(
            whole,
            first_row=whole.first_row + begin,
            num_rows=(own := min(rows, whole.num_rows - begin)),
            num_bytes=whole.num_bytes * own // whole.num_rows,
            offset=1 + begin,
        )
        for begin in range(0, whole.num_rows, rows)
    ]


def _read_slice(file: pq.ParquetFile, group: RowGroup, columns: list[str]) -> pa.Table:
    """The rows of a slice. Those before it are decoded too, as pages are not indexed, but not kept."""
    skip, left = group.offset - 1, group.num_rows
    found: list[pa.RecordBatch] = []
    step = max(1, -(-group.num_rows // BATCHES))
    for batch in file.iter_batches(step, row_groups=[group.index], columns=columns, use_threads=False):
        kept = batch.slice(skip, left)
        skip, left = max(0, skip - batch.num_rows), left - kept.num_rows
        if kept.num_rows:
            found.append(kept)
        if not left:
            break
    schema = found[0].schema if found else pa.schema([file.schema_arrow.field(c) for c in columns])
    return pa.Table.from_batches(found, schema)


def _open(shard: str, *, sliced: bool = False, look: bool = True) -> pq.ParquetFile:
    """Open a file; `look` at it first, which is a request more, to tell an empty one.

    The columns of a row group that lie beside each other come by one request (Arrow joins ranges up to 8 KiB apart),
    those of slices in pieces of `BUFFER_BYTES`.
    """
    if look:
        stat(shard, "Parquet")
    system, path = split_uri(shard)
    try:
        return pq.ParquetFile(path, filesystem=system, buffer_size=BUFFER_BYTES if sliced else 0, pre_buffer=not sliced)
    except FileNotFoundError as error:
        raise DataError(f"{shard}: expected a Parquet file, but there is none") from error
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{shard}: expected a Parquet file, but its footer can't be read; it is truncated or of another format"
            f" ({_line(error)})"
        ) from error


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200]
