"""Decodes splits into the cache before several runs read them, so that none of them decodes what another one does too.

A sample of row groups is decoded here; it tells how long the rest takes and how much room. What takes a moment is done
here, the rest by `mapper`; nothing is decoded that the cache can't hold.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from interlace.data.read.reader import Reader

SAMPLE = 4
"""Row groups decoded first, spread over all."""
HERE_S = 4.0
"""Work up to this long is done in this process: a job takes about as long to start."""
FILLED = 0.9
"""Share of the cache that decoded values may fill; what the cache counts is a little more."""

Group = tuple[int, int, int]
"""Which reader, which row group of its manifest, and how many rows of it can be used."""

Mapper = Callable[[Callable[[Group], pa.Table], Sequence[Group]], Iterable[pa.Table]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """What was decoded: records, bytes, seconds; and whether the cache holds all values of the splits now."""

    records: int
    num_bytes: int
    seconds: float
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """Decodes a row group into the cache."""

    readers: tuple[Reader, ...]

    def __call__(self, group: Group) -> pa.Table:
        """One row: records decoded, and bytes of their values."""
        which, number, _ = group
        records, size = self.readers[which].store(number)
        return pa.table({"records": [records], "bytes": [size]})


def warm(readers: Sequence[Reader], mapper: Mapper) -> Warmed:
    """Decode all that these readers read and their cache lacks.

    Args:
        readers: of splits; each has the same cache.
        mapper: `map`, or `interlace.data.stream.map_units`.
    """
    began = time.monotonic()
    cache = readers[0].cache
    missing = [g for i, reader in enumerate(readers) for g in _missing(i, reader)]
    if cache is None or not missing:
        return Warmed(records=0, num_bytes=0, seconds=0.0, whole=cache is not None)
    chosen = sorted({int(i) for i in np.linspace(0, len(missing) - 1, SAMPLE)})
    fill = Fill(readers=tuple(readers))
    records, size = _add(map(fill, [missing[i] for i in chosen]))
    share = sum(missing[i][2] for i in chosen) / sum(g[2] for g in missing)
    fits = size / share <= cache.limit_bytes * FILLED
    rest = [g for i, g in enumerate(missing) if i not in chosen]
    if fits and rest:
        here = (time.monotonic() - began) * (1 / share - 1) <= HERE_S
        more = _add((map if here else mapper)(fill, rest))
        records, size = records + more[0], size + more[1]
    return Warmed(records=records, num_bytes=size, seconds=time.monotonic() - began, whole=fits)


def _missing(which: int, reader: Reader) -> list[Group]:
    """The row groups with usable rows that the cache does not hold."""
    usable = reader.manifest.groups.sizes.rows.tolist()
    return [(which, n, rows) for n, rows in enumerate(usable) if rows and not reader.is_stored(n)]


def _add(tables: Iterable[pa.Table]) -> tuple[int, int]:
    found = [(t["records"][i].as_py(), t["bytes"][i].as_py()) for t in tables for i in range(t.num_rows)]
    return sum(records for records, _ in found), sum(size for _, size in found)
