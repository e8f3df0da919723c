"""The table of row groups: all of an index that drivers and tasks hold, whatever the number of rows.

    measured row group -> `sums_of` -> a line in its part's sums -> lines of all parts of a split -> `Groups`

A line says where a row group lies (shard and part) and what the plan and people ask of it: usable and bad rows, tokens,
a histogram of row sizes, and of each field tokens, their squares, and how many values are there. Saved as one Parquet
file a split.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interlace.data.index.parts import Part, temporary
from interlace.data.plan.sizes import GroupSizes, bin_of, lowest_of
from interlace.data.sources import RowGroup
from interlace.modalities.columns import MISSING

Ints = NDArray[np.int64]

PLACE = ("index", "first_row", "num_rows", "num_bytes", "offset")
"""What makes a `RowGroup` again, besides shard and source."""
HISTOGRAM = {"bins": pa.uint16(), "counts": pa.uint32(), "excess": pa.uint64()}
NUMBERS = ("part", "shard", "source")
LINES_AT_ONCE = 1024
"""Lines whose histograms are unpacked at once."""
FIELD_SUMS = ("tokens", "squares", "present", "largest")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSums:
    """Sums over the usable rows of each row group, `[G]`: tokens, their squares, values present, most tokens of one."""

    tokens: NDArray[np.int64]
    squares: NDArray[np.int64]
    present: NDArray[np.int32]
    largest: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """The `G` row groups of a split: a sequence of them, and columns of what is known of each.

    Args:
        shards: paths, by number.
        parts: names of part files, by number.
        shard, part, batch: int32 `[G]`: number of the shard, of the part, and of the row group in the part.
        source: int16 `[G]`, number of the source in its split.
        index, first_row, num_rows, num_bytes, offset: int64 `[G]`, as in `RowGroup`.
        bad: int32 `[G]`, rows that can't be used.
        sizes: usable rows, their tokens, and the histogram of row sizes.
        fields: sums by field.
        digest: hash (32 hex digits) of the content of all.
    """

    shards: tuple[str, ...]
    parts: tuple[str, ...]
    shard: NDArray[np.int32]
    part: NDArray[np.int32]
    batch: NDArray[np.int32]
    source: NDArray[np.int16]
    index: NDArray[np.int32]
    first_row: Ints
    num_rows: NDArray[np.int32]
    num_bytes: Ints
    offset: Ints
    bad: NDArray[np.int32]
    sizes: GroupSizes
    fields: Mapping[str, FieldSums]
    digest: str

    def __len__(self) -> int:
        return len(self.shard)

    def __iter__(self) -> Iterator[RowGroup]:
        return (self[at] for at in range(len(self)))

    @overload
    def __getitem__(self, at: int) -> RowGroup: ...

    @overload
    def __getitem__(self, at: slice) -> list[RowGroup]: ...

    def __getitem__(self, at: int | slice) -> RowGroup | list[RowGroup]:
        """Row groups as they were listed."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        place = {name: int(getattr(self, name)[at]) for name in PLACE}
        return RowGroup(shard=self.shards[self.shard[at]], source=int(self.source[at]), **place)

    @cached_property
    def starts(self) -> Ints:
        """Int64 `[G + 1]`: first row of each row group in the split, then the number of rows."""
        return np.concatenate([[0], np.cumsum(self.num_rows, dtype=np.int64)])


def size_histogram(tokens: NDArray[np.int32]) -> tuple[Ints, Ints, Ints]:
    """Sizes of rows in bins (`plan.sizes.bin_of`), of those that occur.

    Args:
        tokens: int32 `[N]`; rows of 0 can't be used and don't count.

    Returns:
        Bins, ascending; rows in each; and their tokens above the smallest size of the bin.
    """
    sizes = tokens[tokens > 0].astype(np.int64)
    bins, at, counts = np.unique(bin_of(sizes), return_inverse=True, return_counts=True)
    totals = np.zeros(len(bins), np.int64)
    np.add.at(totals, at, sizes)
    return bins, counts.astype(np.int64), totals - counts * lowest_of(bins)


def sums_of(table: pa.Table, fields: Sequence[str]) -> dict[str, Any]:
    """The line of a measured row group, without its place."""
    usable = table["reason"].is_null().to_numpy()
    tokens = {name: table[f"{name}.tokens"].to_numpy()[usable].astype(np.int64) for name in fields}
    total = np.zeros(int(usable.sum()), np.int64)
    for own in tokens.values():
        total += own
    bins, counts, excess = size_histogram(total.astype(np.int32))
    line: dict[str, Any] = {
        "usable": int(usable.sum()),
        "bad": int(len(usable) - usable.sum()),
        "unaligned": int(np.count_nonzero(table["unaligned"].to_numpy())),
        "tokens": int(total.sum()),
        "largest": int(total.max(initial=0)),
        "bins": bins,
        "counts": counts,
        "excess": excess,
        "digest": _content_digest(table, usable, fields),
    }
    for name, own in tokens.items():
        there = table[f"{name}.0"].to_numpy()[usable] != MISSING
        sums = (own.sum(), (own * own).sum(), there.sum(), own.max(initial=0))
        line |= {f"{name}.{of}": int(value) for of, value in zip(FIELD_SUMS, sums, strict=True)}
    return line


def _content_digest(table: pa.Table, usable: NDArray[np.bool_], fields: Sequence[str]) -> bytes:
    """16 bytes of what tells the records of a row group from others."""
    hasher = hashlib.sha256(np.ascontiguousarray(table["hash"].to_numpy()).tobytes())
    hasher.update((~usable).tobytes())
    for name in sorted(fields):
        pair = (table[f"{name}.{i}"].to_numpy() for i in (0, 1))
        hasher.update(name.encode() + b"\0" + np.stack(list(pair), axis=1).tobytes())
    return hasher.digest()[:16]


def lines_schema(fields: Sequence[str]) -> pa.Schema:
    """The columns of the sums of a part."""
    counts = [(n, pa.list_(kind)) for n, kind in HISTOGRAM.items()]
    whole = [(n, pa.int64()) for n in (*PLACE, "batch", "usable", "bad", "unaligned", "tokens", "largest")]
    own = [(f"{name}.{of}", pa.int64()) for name in fields for of in FIELD_SUMS]
    return pa.schema([*whole, *counts, ("digest", pa.binary(16)), *own])


@final
class PartLines:
    """Gathers the lines of a part's row groups; their file appears last, so the part is done when it is there."""

    def __init__(self, part: Path, fields: tuple[str, ...]) -> None:
        self._path = lines_path(part)
        self._fields = fields
        self._lines: list[dict[str, Any]] = []

    def done(self) -> bool:
        """Whether the lines are there."""
        return self._path.exists()

    def add(self, group: RowGroup, table: pa.Table) -> None:
        """Sum up a row group."""
        place = {name: getattr(group, name) for name in PLACE}
        self._lines.append(place | {"batch": len(self._lines)} | sums_of(table, self._fields))

    def finish(self) -> None:
        """Write the lines."""
        _write(pa.Table.from_pylist(self._lines, lines_schema(self._fields)), self._path)


def lines_path(part: Path) -> Path:
    """The file of the lines of a part."""
    return part.with_suffix(".lines.parquet")


def sum_lines(parts: Sequence[Part], name: str) -> int:
    """The sum of a column over the row groups of all parts."""
    tables = (pq.read_table(lines_path(part.path), columns=[name]) for part in parts)
    return sum(int(table[name].to_numpy().sum()) for table in tables)


def save_groups(parts: Sequence[Part], path: Path) -> None:
    """Gather the lines of a split's parts, in order, each with its numbers of part, shard and source."""
    number = {shard: i for i, shard in enumerate(dict.fromkeys(part.groups[0].shard for part in parts))}
    head = {"shards": json.dumps(list(number)), "parts": json.dumps([part.path.name for part in parts])}
    schema = pq.read_schema(lines_path(parts[0].path))
    for name in NUMBERS:
        schema = schema.append(pa.field(name, pa.int32()))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    with pq.ParquetWriter(partial, schema.with_metadata(head), compression="zstd") as writer:
        for i, part in enumerate(parts):
            lines = pq.read_table(lines_path(part.path))
            for name, value in zip(NUMBERS, (i, number[part.groups[0].shard], part.groups[0].source), strict=True):
                lines = lines.append_column(name, pa.array(np.full(lines.num_rows, value, np.int32)))
            writer.write_table(lines.cast(writer.schema), LINES_AT_ONCE)
    partial.replace(path)


def load_groups(path: Path) -> Groups:
    """The table of a split."""
    file = pq.ParquetFile(path)
    head = file.schema_arrow.metadata
    table = file.read([name for name in file.schema_arrow.names if name not in HISTOGRAM])

    def column(name: str, kind: type[np.generic]) -> NDArray[Any]:
        found: NDArray[Any] = table[name].to_numpy().astype(kind)
        return found

    fields = [name.removesuffix(".squares") for name in table.column_names if name.endswith(".squares")]
    kinds: tuple[type[np.generic], ...] = (np.int64, np.int64, np.int32, np.int32)
    return Groups(
        shards=tuple(json.loads(head[b"shards"])),
        parts=tuple(json.loads(head[b"parts"])),
        **{n: column(n, np.int32) for n in ("shard", "part", "batch", "index", "num_rows", "bad")},
        **{n: column(n, np.int64) for n in ("first_row", "num_bytes", "offset")},
        source=column("source", np.int16),
        sizes=_sizes(table, file),
        fields={
            name: FieldSums(**{of: column(f"{name}.{of}", k) for of, k in zip(FIELD_SUMS, kinds, strict=True)})
            for name in fields
        },
        digest=_digest(table),
    )


def _sizes(table: pa.Table, file: pq.ParquetFile) -> GroupSizes:
    """Histograms of all row groups over the bins that occur, a few row groups at a time."""
    blocks = [_block(file.read_row_group(number, list(HISTOGRAM))) for number in range(file.num_row_groups)]
    some = [block for block in blocks if block.counts.shape[1]]
    first = min((block.first for block in some), default=0)
    width = max((block.first + block.counts.shape[1] - first for block in some), default=1)
    counts = _paste([(b.first - first, b.counts) for b in blocks], width)
    excess = _paste([(b.first - first, b.excess) for b in blocks], width)
    return GroupSizes(
        rows=table["usable"].to_numpy(),
        tokens=table["tokens"].to_numpy(),
        largest=table["largest"].to_numpy(),
        first_bin=first,
        counts=counts,
        excess=excess,
    )


class _Block(NamedTuple):
    """Counts and excess of some row groups over the bins from `first` on, as narrow as they can be."""

    first: int
    counts: NDArray[np.unsignedinteger]
    excess: NDArray[np.unsignedinteger]


def _block(lines: pa.Table) -> _Block:
    lists = lines["bins"].combine_chunks()
    bins = lists.flatten().to_numpy()
    owners = np.repeat(np.arange(lines.num_rows), lists.value_lengths().to_numpy())
    first, stop = (int(bins.min()), int(bins.max()) + 1) if len(bins) else (0, 0)
    dense = []
    for name in ("counts", "excess"):
        values = lines[name].combine_chunks().flatten().to_numpy()
        block = np.zeros((lines.num_rows, stop - first), np.min_scalar_type(int(values.max(initial=0))))
        block[owners, bins - first] = values
        dense.append(block)
    return _Block(first, dense[0], dense[1])


def _paste(blocks: Sequence[tuple[int, NDArray[np.unsignedinteger]]], width: int) -> NDArray[np.unsignedinteger]:
    """Blocks one below the other, each with the column where it begins."""
    kind = np.result_type(*(block.dtype for _, block in blocks))
    whole = np.zeros((sum(len(block) for _, block in blocks), width), kind)
    at = 0
    for begin, block in blocks:
        if block.shape[1]:
            whole[at : at + len(block), begin : begin + block.shape[1]] = block
        at += len(block)
    return whole


def _digest(table: pa.Table) -> str:
    """Hash of row-group sizes and contents, and of sources where there are several: not of where anything lies."""
    hasher = hashlib.sha256(table["num_rows"].to_numpy().astype(np.int64).tobytes())
    hasher.update(b"".join(table["digest"].to_pylist()))
    source = table["source"].to_numpy().astype(np.int64)
    if len(source) and source.max() > 0:
        hasher.update(source.tobytes())
    return hasher.hexdigest()[:32]


def _write(table: pa.Table, path: Path) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path)
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
