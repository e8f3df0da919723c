"""Synthetic indexes: part files and the table of row groups, written by the project's own classes.

`write_index` makes an index as a warm start finds it; `write_table` only the table of row groups, drawn group by group,
for more rows than a disk should hold.
"""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interlace.data.index.groups import (
    FIELD_SUMS,
    LINES_AT_ONCE,
    PLACE,
    PartLines,
    lines_schema,
    load_groups,
    save_groups,
)
from interlace.data.index.manifest import Manifest
from interlace.data.index.measure import measured_schema
from interlace.data.index.parts import PART_ROWS, Part, PartWriter, cut_parts
from interlace.data.plan.sizes import bin_of, lowest_of
from interlace.data.sources import RowGroup
from interlace.modalities.columns import MISSING
from tests.benchmarks.synthetic.shapes import SHAPES, names

TABLE = "groups.parquet"
SIZE = "size.json"
ROW_BYTES = 2000
SAMPLE = 1_000_000
"""Rows from which the lengths of drawn row groups are learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSize:
    """What a synthetic index is."""

    rows: int
    groups: int
    fields: int = 5
    shape: str = "mixed"

    @property
    def group_rows(self) -> int:
        """Rows of a row group."""
        return self.rows // self.groups

    @property
    def shard_groups(self) -> int:
        """Row groups of a shard, which makes one part."""
        return max(1, min(self.groups, PART_ROWS // self.group_rows))


def shards(size: IndexSize) -> Iterator[list[RowGroup]]:
    """The row groups of each shard."""
    for number, first in enumerate(range(0, size.groups, size.shard_groups)):
        count = min(size.shard_groups, size.groups - first)
        yield [
            RowGroup(
                shard=f"train-{number:05d}.parquet",
                index=i,
                first_row=i * size.group_rows,
                num_rows=size.group_rows,
                num_bytes=size.group_rows * ROW_BYTES,
            )
            for i in range(count)
        ]


def parts_of(size: IndexSize, folder: Path) -> list[Part]:
    """All parts of an index."""
    return [part for own in shards(size) for part in cut_parts(own, own[0].shard, str(size), folder / "parts")]


def write_index(folder: Path, size: IndexSize, processes: int = 1) -> int:
    """Write parts and table; those that are there stay. How many parts there are."""
    parts = parts_of(size, folder)
    work = partial(_write_part, size=size)
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(work, range(len(parts)), parts))
    else:
        list(map(work, range(len(parts)), parts))
    save_groups(parts, folder / TABLE)
    _save_size(folder, size)
    return len(parts)


def _write_part(number: int, part: Part, size: IndexSize) -> None:
    fields = names(size.fields)
    writer = PartWriter(part.path, PartLines(part.path, tuple(fields)))
    if writer.done():
        return
    table = measured(size, size.group_rows * len(part.groups), np.random.default_rng((0, number)))
    with writer:
        for i, group in enumerate(part.groups):
            writer.add(group, table.slice(i * size.group_rows, size.group_rows))


def measured(size: IndexSize, count: int, rng: np.random.Generator) -> pa.Table:
    """So many rows as measuring leaves them: extents are tokens and 1."""
    tokens = SHAPES[size.shape](count, size.fields, rng)
    columns = [
        pa.array(rng.integers(0, 1 << 63, count, np.uint64)),
        pa.nulls(count, pa.string()),
        pa.array(np.zeros(count, np.bool_)),
    ]
    for own in tokens:
        columns += [pa.array(np.where(own > 0, own, MISSING)), pa.array(np.where(own > 0, 1, MISSING)), pa.array(own)]
    schema = measured_schema(tuple(names(size.fields)))
    return pa.table([c.cast(field.type) for c, field in zip(columns, schema, strict=True)], schema=schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """What row groups are drawn from: bins of row sizes, share and mean excess of each, and sums a token by field."""

    bins: NDArray[np.int64]
    shares: NDArray[np.float64]
    excess: NDArray[np.float64]
    sums: Mapping[str, float]
    largest: int


def law_of(tokens: NDArray[np.int32]) -> Law:
    """The law that some rows follow, `[fields, rows]`."""
    sizes = tokens.sum(axis=0, dtype=np.int64)
    sizes = sizes[sizes > 0]
    bins, at, counts = np.unique(bin_of(sizes), return_inverse=True, return_counts=True)
    sums: dict[str, float] = {}
    for name, own in zip(names(len(tokens)), tokens.astype(np.float64), strict=True):
        found = (own.sum(), (own**2).sum(), np.count_nonzero(own))
        sums |= {f"{name}.{of}": float(total / sizes.sum()) for of, total in zip(FIELD_SUMS, found, strict=False)}
    return Law(
        bins=bins,
        shares=counts / counts.sum(),
        excess=np.bincount(at, sizes) / counts - lowest_of(bins),
        sums=sums,
        largest=int(sizes.max()),
    )


def write_table(folder: Path, size: IndexSize) -> None:
    """Write the table of row groups alone."""
    rng = np.random.default_rng(0)
    law = law_of(SHAPES[size.shape](SAMPLE, size.fields, rng))
    schema, listed = lines_schema(names(size.fields)), list(shards(size))
    tables = []
    for number, groups in enumerate(listed):
        lines = pa.Table.from_pydict(_lines(groups, law, rng), schema)
        for name, value in (("part", number), ("shard", number), ("source", 0)):
            lines = lines.append_column(name, pa.array(np.full(lines.num_rows, value, np.int32)))
        tables.append(lines)
    parts = [f"{i:032x}.arrow" for i in range(len(tables))]
    head = {"shards": json.dumps([own[0].shard for own in listed]), "parts": json.dumps(parts)}
    lines = pa.concat_tables(tables).replace_schema_metadata(head)
    pq.write_table(lines, folder / TABLE, row_group_size=LINES_AT_ONCE, compression="zstd")
    _save_size(folder, size)


def _lines(groups: list[RowGroup], law: Law, rng: np.random.Generator) -> dict[str, object]:
    """Lines of a shard: rows of each size by a draw a row group, other sums in proportion to their tokens."""
    counts = rng.multinomial(groups[0].num_rows, law.shares, len(groups))
    excess = np.rint(counts * law.excess).astype(np.int64)
    total = counts @ lowest_of(law.bins) + excess.sum(axis=1)
    top = np.minimum(lowest_of(law.bins + 1) - 1, law.largest)
    largest = (top * (counts > 0)).max(axis=1)
    ends = np.concatenate([[0], np.cumsum((counts > 0).sum(axis=1))]).astype(np.int32)
    there = (np.broadcast_to(law.bins, counts.shape), counts, excess)
    lists = (pa.ListArray.from_arrays(pa.array(ends), pa.array(own[counts > 0])) for own in there)
    none = np.zeros(len(groups), np.int64)
    lines: dict[str, object] = {name: [getattr(group, name) for group in groups] for name in PLACE}
    lines |= {"batch": np.arange(len(groups)), "usable": counts.sum(axis=1), "bad": none, "unaligned": none}
    lines |= {"tokens": total, "largest": largest, "digest": pa.array([rng.bytes(16) for _ in groups], pa.binary(16))}
    lines |= dict(zip(("bins", "counts", "excess"), lists, strict=True))
    lines |= {name: np.rint(total * share).astype(np.int64) for name, share in law.sums.items()}
    return lines | dict.fromkeys(_largest(law), largest)


def _largest(law: Law) -> list[str]:
    """The columns of the largest value of each field."""
    return [name.replace(".tokens", ".largest") for name in law.sums if name.endswith(".tokens")]


def _save_size(folder: Path, size: IndexSize) -> None:
    (folder / SIZE).write_text(json.dumps(asdict(size)), encoding="utf-8")


def load_size(folder: Path) -> IndexSize:
    """What the index of a folder is."""
    return IndexSize(**json.loads((folder / SIZE).read_text(encoding="utf-8")))


def load_manifest(folder: Path) -> Manifest:
    """The split of an index, its table loaded."""
    return Manifest(sources=(), groups=load_groups(folder / TABLE), folder=str(folder / "parts"))
