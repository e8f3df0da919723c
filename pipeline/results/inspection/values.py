"""Values of a field that several records share: the same picture or sound, in records that differ otherwise.

manifests -> a hash of each field's value in the first records of each split -> how many occur again, and where

Bounded: at most `MOST_RECORDS` of a split are read, row group by row group, and a value leaves 8 bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from interlace.data.index.manifest import Manifest
from interlace.data.index.records import field_value, record_hash

MOST_RECORDS = 20_000
EXAMPLES = 3
COMPARED = ("image", "text", "audio", "series")
"""Modalities whose values are compared; those of tables recur anyway."""
LEAKING = ("image", "audio", "series")
"""Modalities of which an equal value in another split is worth a warning; short texts recur by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueHashes:
    """The first usable records of a split, M of them.

    Args:
        rows: int64 `[M]`, their rows in the manifest.
        records: uint64 `[M]`, hashes of the whole records.
        values: for each field uint64 `[M]`, hashes of its values.
        present: for each field bool `[M]`.
    """

    rows: NDArray[np.int64]
    records: NDArray[np.uint64]
    values: Mapping[str, NDArray[np.uint64]]
    present: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedValues:
    """Records of the split `of` whose value of a field is also in split `within` (an earlier record, if the same).

    Records that are repeated as a whole don't count. `examples` are pairs of (split, row of the manifest).
    """

    field: str
    of: str
    within: str
    count: int
    examples: tuple[tuple[tuple[str, int], tuple[str, int]], ...]


def hash_values(manifest: Manifest, fields: Mapping[str, tuple[str, ...]], most: int = MOST_RECORDS) -> ValueHashes:
    """Read the first usable records of a split and hash the value of each field (name: its columns)."""
    rows, records = _first_usable(manifest, most)
    values = {name: np.zeros(len(rows), np.uint64) for name in fields}
    present = {name: np.zeros(len(rows), np.bool_) for name in fields}
    columns = list(dict.fromkeys(c for own in fields.values() for c in own))
    starts, readers = manifest.starts, manifest.readers()
    at = 0
    for number in np.unique(np.searchsorted(starts, rows, side="right") - 1).tolist() if columns else ():
        inside = rows[(rows >= starts[number]) & (rows < starts[number + 1])] - starts[number]
        group = manifest.group(number)
        table = readers[group.source].read(group, columns).take(inside)
        for record in table.to_pylist():
            for name, own in fields.items():
                if field_value(record, own) is not None:
                    values[name][at], present[name][at] = record_hash(record, own), True
            at += 1
    return ValueHashes(rows=rows, records=records, values=values, present=present)


def _first_usable(manifest: Manifest, most: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Rows of the manifest, and hashes of their records."""
    found, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    left = most
    for number, usable in enumerate(manifest.groups.sizes.rows.tolist()):
        if left <= 0:
            break
        if usable:
            rows = manifest.rows(number)
            inside = np.flatnonzero(rows.usable)[:left]
            found.append(inside + manifest.starts[number])
            hashes.append(rows.hashes[inside])
            left -= len(inside)
    return np.concatenate(found), np.concatenate(hashes)


def shared_values(splits: Mapping[str, ValueHashes]) -> list[SharedValues]:
    """For every field the values that recur within a split, then those of a later split in an earlier one."""
    fields = list(next(iter(splits.values())).values)
    found = []
    for field in fields:
        found += [_compare(field, (name, own), (name, own)) for name, own in splits.items()]
        found += [_compare(field, second, first) for first, second in combinations(splits.items(), 2)]
    return found


def _compare(field: str, of: tuple[str, ValueHashes], within: tuple[str, ValueHashes]) -> SharedValues:
    """Records of one split against those of another, or against earlier ones of the same."""
    own, other = of[1], within[1]
    places = np.flatnonzero(other.present[field])
    known, first = np.unique(other.values[field][places], return_index=True)
    at = np.searchsorted(known, own.values[field])
    at[at == len(known)] = 0
    again = own.present[field] & (len(known) > 0)
    if len(known):
        again &= known[at] == own.values[field]
    partner = places[first[at]] if len(known) else at
    if own is other:
        repeated = np.ones(len(own.rows), np.bool_)
        repeated[np.unique(own.records, return_index=True)[1]] = False
        again &= partner < np.arange(len(own.rows))
    else:
        repeated = np.isin(own.records, other.records)
    again &= ~repeated
    examples = [
        ((of[0], int(own.rows[i])), (within[0], int(other.rows[partner[i]])))
        for i in np.flatnonzero(again)[:EXAMPLES].tolist()
    ]
    return SharedValues(field=field, of=of[0], within=within[0], count=int(again.sum()), examples=tuple(examples))
