"""Stage 3: joined rows of a split, bucket after bucket, become Parquet shards of one size.

    files of the buckets -> row groups of even size -> train-00000-of-00004.parquet

Rows stand in the order of the hash of their keys, which is an order as random as any and the same for every run. A task
holds one row group and one record batch, never a shard.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from interlace.data.prepare.content import digest_table
from interlace.data.prepare.plan import MIB
from interlace.data.prepare.work import mark_done, read_batches, unit_file, whole
from interlace.recipe.prepare import PrepareRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows `[start, stop)` of one bucket's file of a split, whose batches have `batch_rows` rows."""

    bucket: int
    start: int
    stop: int
    batch_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """One output file: what it is made of."""

    number: int
    name: str
    split: str
    parts: tuple[Part, ...]
    group_rows: int

    @property
    def num_rows(self) -> int:
        """Rows of the shard."""
        return sum(p.stop - p.start for p in self.parts)


def cut_shards(recipe: PrepareRecipe, joined: Sequence[Mapping[str, Any]]) -> list[ShardUnit]:
    """Cut each split into shards whose rows differ by one at most. `joined` is what each bucket came to."""
    units: list[ShardUnit] = []
    for split in recipe.split.shares:
        facts = [m["splits"][split] for m in joined]
        rows, size = sum(f["rows"] for f in facts), sum(f["bytes"] for f in facts)
        if not rows:
            continue
        count = min(rows, max(1, round(size / (recipe.shard_mb * MIB))))
        mean = size / rows
        group_rows = recipe.group_rows
        if recipe.group_mb is not None and mean:
            group_rows = max(1, min(group_rows, int(recipe.group_mb * MIB / mean)))
        for i, (start, stop) in enumerate(pairwise(even(rows, count))):
            name = f"{split}-{i:05d}-of-{count:05d}.parquet"
            parts = tuple(_parts(facts, start, stop))
            units.append(ShardUnit(number=len(units), name=name, split=split, parts=parts, group_rows=group_rows))
    return units


def even(total: int, pieces: int) -> list[int]:
    """Bounds of pieces of a total that differ by one at most."""
    return [total * i // pieces for i in range(pieces + 1)]


def _parts(facts: Sequence[Mapping[str, Any]], start: int, stop: int) -> Iterator[Part]:
    first = 0
    for bucket, fact in enumerate(facts):
        low, high = max(start - first, 0), min(stop - first, fact["rows"])
        if low < high:
            yield Part(bucket=bucket, start=low, stop=high, batch_rows=fact["batch_rows"])
        first += fact["rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteShard:
    """Does one shard of stage 3."""

    joined: Path
    folder: Path
    compression: str
    schema: pa.Schema

    def __call__(self, unit: ShardUnit) -> pa.Table:
        """Write the shard and note its rows, bytes and the digest of its rows."""
        groups = -(-unit.num_rows // unit.group_rows)
        sizes = np.diff(even(unit.num_rows, groups)).tolist()
        path = self.folder / unit.name
        hasher = xxhash.xxh3_128()
        with (
            whole(path, sync=True) as partial,
            pq.ParquetWriter(partial, self.schema, compression=self.compression) as writer,
        ):
            for group in regroup(self._rows(unit), sizes):
                digest_table(hasher, group)
                writer.write_table(group, row_group_size=group.num_rows)
        size = path.stat().st_size
        facts = {
            "file": unit.name,
            "rows": unit.num_rows,
            "groups": groups,
            "bytes": size,
            "digest": hasher.hexdigest(),
        }
        return mark_done(self.folder, unit.number, {"split": unit.split, "shard": facts})

    def _rows(self, unit: ShardUnit) -> Iterator[pa.Table]:
        for part in unit.parts:
            numbers = range(part.start // part.batch_rows, -(-part.stop // part.batch_rows))
            batches = read_batches(unit_file(self.joined, part.bucket, f"{unit.split}.arrow"), numbers)
            for number, batch in zip(numbers, batches, strict=True):
                first = number * part.batch_rows
                low, high = max(part.start - first, 0), min(part.stop - first, batch.num_rows)
                yield pa.Table.from_batches([batch.slice(low, high - low)])


def regroup(tables: Iterable[pa.Table], sizes: Sequence[int]) -> Iterator[pa.Table]:
    """Tables of these sizes with the rows of other tables, in order."""
    source = iter(tables)
    held: list[pa.Table] = []
    for size in sizes:
        while sum(t.num_rows for t in held) < size:
            held.append(next(source))
        joined = pa.concat_tables(held)
        yield joined.slice(0, size).combine_chunks()
        held = [joined.slice(size)]
