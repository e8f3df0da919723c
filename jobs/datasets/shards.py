"""What the builders of example data share: draws by hash, keys that stay together, shards, and the report.

Every draw is a hash of (seed, purpose, key): nothing depends on the order of building, and the same sources give the
same bytes.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a builder wrote.

    Args:
        name: of the data set.
        folder: where the shards are.
        files: the shards, sorted by split and name.
        rows: number of rows by split.
        groups: number of rows by label, over all splits.
        missing: by split, number of null values by column that may be null.
        left_out: number of records of the source not used, by reason.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    rows: Mapping[str, int]
    groups: Mapping[str, int]
    missing: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        rows = ", ".join(f"{count} {split}" for split, count in self.rows.items())
        absent = Counter[str]()
        for columns in self.missing.values():
            absent.update(columns)
        missing = ", ".join(f"{column} {count}" for column, count in absent.items())
        return f"{self.name} set in {self.folder}: {rows}; {len(self.groups)} groups" + (
            f"; missing values: {missing}" if absent else ""
        )


def draw(seed: int, purpose: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    raw = hashlib.sha256(f"{seed}/{purpose}/{key}".encode()).digest()
    return int.from_bytes(raw[:6], "big") / 2**48


def joined_keys(pictures: Sequence[tuple[bytes, str]]) -> list[str]:
    """A key for each (picture, key), so that equal pictures, and with them all of their keys' rows, have one key."""
    by_picture: defaultdict[bytes, set[str]] = defaultdict(set)
    for picture, key in pictures:
        by_picture[picture].add(key)
    joined: dict[str, str] = {}

    def root(key: str) -> str:
        while key in joined:
            key = joined[key]
        return key

    for keys in by_picture.values():
        first, *others = sorted({root(key) for key in keys})
        joined.update(dict.fromkeys(others, first))
    return [root(key) for _, key in pictures]


def write_set(
    name: str,
    folder: Path,
    tables: Mapping[str, pa.Table],
    shape: Mapping[str, tuple[int, int]],
    label: str,
    left_out: Mapping[str, int],
) -> BuildReport:
    """Write a table for each split as shards `<split>-00000-of-0000N.parquet`; those that are there are replaced.

    Args:
        name: of the data set.
        folder: made where it does not exist.
        tables: by split; columns that may be null say so in the schema.
        shape: by split, number of shards and of row groups in each.
        label: column of the labels.
        left_out: for the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nullable = [f.name for f in next(iter(tables.values())).schema if f.nullable]
    labels = Counter(value for table in tables.values() for value in table[label].to_pylist())
    return BuildReport(
        name=name,
        folder=folder,
        files=tuple(file for split, table in tables.items() for file in _write(folder, split, table, shape[split])),
        rows={split: table.num_rows for split, table in tables.items()},
        groups=dict(sorted(labels.items())),
        missing={split: {c: table[c].null_count for c in nullable} for split, table in tables.items()},
        left_out=left_out,
    )


def _write(folder: Path, split: str, table: pa.Table, shape: tuple[int, int]) -> list[Path]:
    """Write a table as shards of even size; a shard appears under its name only when it is whole."""
    num_shards, num_groups = shape
    files = []
    for shard in range(num_shards):
        first, last = (table.num_rows * i // num_shards for i in (shard, shard + 1))
        file = folder / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
        part = file.with_suffix(".part")
        size = max(1, -(-(last - first) // num_groups))
        pq.write_table(table.slice(first, last - first), part, row_group_size=size, compression="zstd")
        files.append(part.replace(file))
    return files
