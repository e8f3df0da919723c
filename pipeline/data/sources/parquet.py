"""Parquet shards: a row group of the file is a row group of the source."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from interlace.contract.errors import DataError
from interlace.data.sources.base import RowGroup, ShardFormat, split_uri
from interlace.data.sources.spans import stat


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
                groups.append(
                    RowGroup(
                        shard=shard,
                        index=index,
                        first_row=first,
                        num_rows=meta.num_rows,
                        num_bytes=meta.total_byte_size,
                    )
                )
                first += meta.num_rows
        return groups

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group."""
        with _open(group.shard) as file:
            try:
                table = file.read_row_group(group.index, columns=list(columns), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                # A damaged page surfaces as OSError too; opening has shown that the file can be reached.
                raise DataError(f"{group.shard} row group {group.index}: damaged ({_line(error)})") from error
        if lacking := [c for c in columns if c not in table.column_names]:  # pyarrow passes over them
            there = ", ".join(file.schema_arrow.names)
            raise DataError(f"{group.shard}: expected a column `{lacking[0]}`, but it has {there}")
        return table


def _open(shard: str) -> pq.ParquetFile:
    stat(shard, "Parquet")
    system, path = split_uri(shard)
    try:
        return pq.ParquetFile(path, filesystem=system)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{shard}: expected a Parquet file, but its footer can't be read; it is truncated or of another format"
            f" ({_line(error)})"
        ) from error


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200]
