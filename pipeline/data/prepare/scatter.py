"""Stage 1: rows of a source go to buckets by the hash of their key; rows without a usable key go to quarantine.

    row groups of one unit -> check -> hash -> one Arrow file of the unit, one record batch a bucket

Buckets are ranges of the hash, so that buckets in turn, each sorted by hash, give one order of all rows however many
buckets there are.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from interlace.contract.errors import DataError
from interlace.data.prepare.plan import ScatterUnit, Side
from interlace.data.prepare.work import mark_done, unit_file, write_batches, write_quarantine
from interlace.data.sources import RowGroup, open_source
from interlace.data.sources.base import ROW_ERROR

KEY, HASH, SHARD, ROW = "__prepare_key__", "__prepare_hash__", "__prepare_shard__", "__prepare_row__"
BadRow = tuple[str, int, str]


def key_hashes(keys: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """Hash of each key; equal for equal keys whether integer or string."""
    texts = keys.cast(pa.string()).cast(pa.binary()).to_pylist()
    return np.fromiter((xxhash.xxh3_64_intdigest(t, seed) for t in texts), np.uint64, len(texts))


def bucket_of(hashes: NDArray[np.uint64], num_buckets: int) -> NDArray[np.int64]:
    """The range of hashes that each lies in; rises with the hash."""
    scaled = (hashes >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)
    return scaled.astype(np.int64)


def side_schema(side: Side, key_type: pa.DataType) -> pa.Schema:
    """Of a unit's file: key, hash, where the row comes from, then the columns taken."""
    own = [(KEY, key_type), (HASH, pa.uint64()), (SHARD, pa.int32()), (ROW, pa.int64())]
    return pa.schema([*own, *side.schema])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Does one unit of stage 1."""

    folder: Path
    sides: tuple[Side, ...]
    key_type: pa.DataType
    num_buckets: int
    seed: int

    def __call__(self, unit: ScatterUnit) -> pa.Table:
        """Write the unit's file and its quarantined rows."""
        side = self.sides[unit.side]
        tables: list[pa.Table] = []
        errors: list[BadRow] = []
        for shard, group in unit.groups:
            tables.append(self._read(side, shard, group, errors))
        write_quarantine(unit_file(self.folder, unit.number, "quarantine"), side.name, errors)
        table = pa.concat_tables(tables)
        write_batches(unit_file(self.folder, unit.number, "arrow"), table.schema, self._batches(table, unit))
        return mark_done(self.folder, unit.number, {"rows": table.num_rows, "bad": len(errors)})

    def _read(self, side: Side, shard: int, group: RowGroup, errors: list[BadRow]) -> pa.Table:
        """The usable rows of a row group, with their origin; the others are added to the errors."""
        schema = side_schema(side, self.key_type)
        columns = list(dict.fromkeys([side.source.key, *side.columns.values()]))
        try:
            read = open_source(side.source).read(group, columns)
        except DataError as error:
            errors += [(group.shard, group.first_row + i, str(error)) for i in range(group.num_rows)]
            return schema.empty_table()
        rows = pa.array(np.arange(group.first_row, group.first_row + read.num_rows))
        reasons = self._reasons(read, side)
        good = pc.is_null(reasons)
        errors += [
            (group.shard, row, reason)
            for row, reason in zip(rows.to_pylist(), reasons.to_pylist(), strict=True)
            if reason is not None
        ]
        kept, rows = read.filter(good), rows.filter(good)
        keys = kept[side.source.key].cast(self.key_type)
        hashes = pa.array(key_hashes(keys, self.seed))
        shards = pa.array(np.full(len(rows), shard, np.int32))
        values = [kept[c].cast(side.schema.field(o).type) for o, c in side.columns.items()]
        return pa.table([keys, hashes, shards, rows, *values], schema=schema)

    def _reasons(self, table: pa.Table, side: Side) -> pa.Array:
        """Why each row can't be used; null where it can."""
        no_key = pa.scalar(f"key `{side.source.key}` is null")
        nulls = pc.if_else(pc.is_null(table[side.source.key]), no_key, pa.scalar(None, pa.string()))
        found = pc.coalesce(table[ROW_ERROR].cast(pa.string()), nulls) if ROW_ERROR in table.column_names else nulls
        return pa.chunked_array(found).combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    def _batches(self, table: pa.Table, unit: ScatterUnit) -> list[pa.RecordBatch]:
        """A batch for each bucket, empty ones too."""
        buckets = bucket_of(table[HASH].to_numpy(), self.num_buckets)
        order = buckets.argsort(kind="stable")
        bounds = np.searchsorted(buckets[order], np.arange(self.num_buckets + 1))
        batches = table.take(pa.array(order)).combine_chunks().to_batches()
        if len(batches) > 1:
            group = unit.groups[0][1]
            raise DataError(f"{group.shard}: expected row groups below 2 GiB, but row group {group.index} is larger")
        whole = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
        return [whole.slice(lo, hi - lo) for lo, hi in pairwise(bounds.tolist())]
