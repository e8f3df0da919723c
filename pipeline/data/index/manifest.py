"""The manifest: what one split of the data is, row by row, without the values.

It is all that the plan needs: row groups, the extent of every value, which are missing, and which records are bad. Its
digest covers the content (record hashes, extents, bad records, row-group sizes), not where the files lie, so data may
be moved or copied without breaking a run. Saved as one Parquet file a split.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interlace.contract.sample import BadRecord
from interlace.data.sources import RowGroup, ShardFormat, open_source
from interlace.recipe.data import Source

MISSING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One split.

    Args:
        sources: how the shards are read, one for each `RowGroup.source`; their paths are those of the recipe.
        groups: row groups in order; row numbers of the manifest count through them.
        hashes: uint64 `[N]`, xxh3 of each record's columns.
        extents: for each field int32 `[N, 2]`, what its modality measured; -1 where the field is missing.
        bad: records that can't be used.
        unusable: bool `[N]`, whether a record is among `bad`.
    """

    sources: tuple[Source, ...]
    groups: tuple[RowGroup, ...]
    hashes: NDArray[np.uint64]
    extents: Mapping[str, NDArray[np.int32]]
    bad: tuple[BadRecord, ...]
    unusable: NDArray[np.bool_]

    @property
    def num_rows(self) -> int:
        """Records, bad ones included."""
        return int(self.hashes.shape[0])

    @property
    def digest(self) -> str:
        """Hash (32 hex digits) of the content."""
        hasher = hashlib.sha256()
        sizes = np.array([g.num_rows for g in self.groups], np.int64)
        source_of = np.array([g.source for g in self.groups], np.int64)
        mixed = (source_of,) if len(self.sources) > 1 else ()
        for array in (sizes, self.hashes, self.unusable, *mixed):
            hasher.update(np.ascontiguousarray(array).tobytes())
        for name in sorted(self.extents):
            hasher.update(name.encode() + b"\0" + np.ascontiguousarray(self.extents[name]).tobytes())
        return hasher.hexdigest()[:32]

    def readers(self) -> tuple[ShardFormat, ...]:
        """The readers of the sources, in the order of `RowGroup.source`."""
        return tuple(open_source(source) for source in self.sources)

    def content(self, first: int, stop: int) -> bytes:
        """Hashes and extents of rows `first <= row < stop`: what tells their values from others, wherever they lie."""
        extents = [e[first:stop].tobytes() for e in self.extents.values()]
        return b"".join([self.hashes[first:stop].tobytes(), *extents])

    def group_starts(self) -> NDArray[np.int64]:
        """Int64 `[groups + 1]`: first row of each row group, then the number of rows."""
        return np.cumsum([0, *(g.num_rows for g in self.groups)], dtype=np.int64)

    def locate(self, row: int) -> tuple[str, int]:
        """Shard and row in that shard of a manifest row."""
        starts = self.group_starts()
        group = self.groups[int(np.searchsorted(starts, row, side="right")) - 1]
        return group.shard, int(group.first_row + row - starts[self.groups.index(group)])

    def missing(self, field: str) -> NDArray[np.bool_]:
        """Bool `[N]`: where a field is missing."""
        missing: NDArray[np.bool_] = self.extents[field][:, 0] == MISSING
        return missing


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest; the file appears whole or not at all."""
    columns = {"hash": pa.array(manifest.hashes), "unusable": pa.array(manifest.unusable)}
    for name, extent in manifest.extents.items():
        columns[f"extent.{name}.0"] = pa.array(extent[:, 0])
        columns[f"extent.{name}.1"] = pa.array(extent[:, 1])
    head = {
        "sources": [s.model_dump(mode="json", exclude={"weight"}) for s in manifest.sources],
        "groups": [asdict(g) for g in manifest.groups],
        "bad": [asdict(b) for b in manifest.bad],
    }
    table = pa.table(columns).replace_schema_metadata({b"interlace": json.dumps(head).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{np.random.default_rng().integers(1 << 60)}.tmp")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def load_manifest(path: Path) -> Manifest:
    """Read a manifest written by `save_manifest`."""
    table = pq.read_table(path)
    head = json.loads(table.schema.metadata[b"interlace"])
    names = [c.split(".")[1] for c in table.column_names if c.startswith("extent.") and c.endswith(".0")]
    return Manifest(
        sources=tuple(Source.model_validate(s) for s in head["sources"]),
        groups=tuple(RowGroup(**g) for g in head["groups"]),
        hashes=table["hash"].to_numpy(),
        extents={
            n: np.stack([table[f"extent.{n}.0"].to_numpy(), table[f"extent.{n}.1"].to_numpy()], axis=1) for n in names
        },
        bad=tuple(BadRecord(**b) for b in head["bad"]),
        unusable=table["unusable"].to_numpy(),
    )
