"""Stage 2: one bucket of all sources becomes joined rows, in the order of their hashes, one file a split.

    batches of the bucket -> sort -> repeated keys to quarantine -> join by key -> side of the split -> files

The side of a row is a pure function of its `by` value and the seed, never of other rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from interlace.data.prepare.content import num_bytes
from interlace.data.prepare.plan import Side
from interlace.data.prepare.scatter import HASH, KEY, ROW, SHARD, side_schema
from interlace.data.prepare.work import mark_done, read_batches, unit_file, write_batches, write_quarantine
from interlace.recipe.prepare import PrepareRecipe

BATCH_BYTES = 1 << 20
"""Bytes of a record batch of joined rows: what stage 3 reads at once."""


def sides_of_split(by: pa.ChunkedArray | None, keys: pa.Array, recipe: PrepareRecipe) -> NDArray[np.int64]:
    """Number of the split of each row: by the hash of its `by` value, or of its key where that is null."""
    texts = [b"key:%s" % k for k in _bytes(keys)]
    if by is not None:
        texts = [k if b is None else b"by:%s" % b for b, k in zip(_bytes(by), texts, strict=True)]
    seed = recipe.split.seed
    places = np.fromiter((xxhash.xxh3_64_intdigest(t, seed) for t in texts), np.uint64, len(texts)) / 2.0**64
    ends = np.cumsum(list(recipe.split.shares.values()))[:-1]
    return np.searchsorted(ends, places, side="right")


def _bytes(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    kind = values.type
    plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    found: list[Any] = (values if plain else values.cast(pa.string()).cast(pa.binary())).to_pylist()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Does one bucket of stage 2.

    Args:
        scattered: folder of stage 1.
        folder: of stage 2.
        sides: the sources.
        units: numbers of each source's units.
        key_type: of the key.
        recipe: the settings.
        schema: of the joined rows.
    """

    scattered: Path
    folder: Path
    sides: tuple[Side, ...]
    units: tuple[tuple[int, ...], ...]
    key_type: pa.DataType
    recipe: PrepareRecipe
    schema: pa.Schema

    def __call__(self, bucket: int) -> pa.Table:
        """Write the bucket's rows of each split and its repeated keys."""
        tables = []
        bad = 0
        for number in range(len(self.sides)):
            table, repeated = self._side(number, bucket)
            tables.append(table)
            bad += repeated
        keys, places = self._match(tables)
        present = [np.asarray(pc.is_valid(p)) for p in places]
        taken = self._take(keys, tables, places)
        numbers = self._split(taken)
        splits: dict[str, Any] = {}
        for number, name in enumerate(self.recipe.split.shares):
            mask = numbers == number
            splits[name] = self._write(bucket, name, taken.filter(pa.array(mask)))
            splits[name]["present"] = [int((p & mask).sum()) for p in present]
        unmatched = [t.num_rows - int(p.sum()) for t, p in zip(tables, present, strict=True)]
        return mark_done(self.folder, bucket, {"splits": splits, "bad": bad, "unmatched": unmatched})

    def _side(self, number: int, bucket: int) -> tuple[pa.Table, int]:
        """One source's rows of the bucket, by hash and key; a repeated key counts where it stands first."""
        side = self.sides[number]
        paths = (unit_file(self.scattered, u, "arrow") for u in self.units[number])
        batches = [b for path in paths for b in read_batches(path, [bucket]) if b.num_rows]
        table = pa.Table.from_batches(batches, schema=side_schema(side, self.key_type))
        order = pc.sort_indices(table, sort_keys=[(c, "ascending") for c in (HASH, KEY, SHARD, ROW)])
        table = table.take(order).combine_chunks()
        again = _as_before(table[KEY])
        repeated = table.select([KEY, SHARD, ROW]).filter(pa.array(again)).to_pylist()
        firsts = np.flatnonzero(~again)
        first = table.select([SHARD, ROW]).take(pa.array(firsts[np.searchsorted(firsts, np.flatnonzero(again)) - 1]))
        write_quarantine(
            unit_file(self.folder, bucket, f"{number}.quarantine"),
            side.name,
            [_repeated(r, f, side) for r, f in zip(repeated, first.to_pylist(), strict=True)],
        )
        return table.filter(pa.array(~again)) if again.any() else table, len(repeated)

    def _match(self, tables: Sequence[pa.Table]) -> tuple[pa.Array, list[pa.Array]]:
        """Keys of the output in order, and for each source the row of each key, null where it has none."""
        keyed = pa.concat_tables(t.select([HASH, KEY]) for t in tables)
        keyed = keyed.take(pc.sort_indices(keyed, sort_keys=[(HASH, "ascending"), (KEY, "ascending")]))
        keys = keyed[KEY].filter(pa.array(~_as_before(keyed[KEY]))).combine_chunks()
        places = [pc.index_in(keys, value_set=t[KEY].combine_chunks()) for t in tables]
        if self.recipe.join == "inner":
            everywhere = np.logical_and.reduce([np.asarray(pc.is_valid(p)) for p in places])
            keys, *places = (a.filter(pa.array(everywhere)) for a in (keys, *places))
        return keys, places

    def _take(self, keys: pa.Array, tables: Sequence[pa.Table], places: Sequence[pa.Array]) -> pa.Table:
        columns = [keys]
        for side, table, place in zip(self.sides, tables, places, strict=True):
            columns += [table[name].take(place) for name in side.schema.names]
        return pa.table(columns, schema=self.schema)

    def _split(self, table: pa.Table) -> NDArray[np.int64]:
        by, key = self.recipe.split.by, self.recipe.keep_key
        return sides_of_split(None if by in (None, key) else table[by], table[key], self.recipe)

    def _write(self, bucket: int, split: str, table: pa.Table) -> dict[str, Any]:
        """Write a split's rows as batches of one number of rows, so that any row is found without reading others."""
        size = sum(num_bytes(chunk) for column in table.columns for chunk in column.chunks)
        batch_rows = max(1, int(BATCH_BYTES * table.num_rows / size)) if size else 1
        table = table.combine_chunks()
        parts = (table.slice(at, batch_rows).combine_chunks() for at in range(0, table.num_rows, batch_rows))
        batches = (batch for part in parts for batch in part.to_batches())
        write_batches(unit_file(self.folder, bucket, f"{split}.arrow"), table.schema, batches)
        return {"rows": table.num_rows, "bytes": size, "batch_rows": batch_rows}


def _as_before(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Whether each value equals the one before it."""
    same = np.zeros(len(values), np.bool_)
    if len(values) > 1:
        same[1:] = pc.equal(values[1:], values[:-1]).to_numpy()
    return same


def _repeated(row: Mapping[str, Any], first: Mapping[str, Any], side: Side) -> tuple[str, int, str]:
    reason = f"key {row[KEY]!r} was given before, in {side.shards[first[SHARD]]} row {first[ROW]}"
    return side.shards[row[SHARD]], row[ROW], reason
