"""The manifest: what one split of the data is, without the values. Small, travels to any process.

It holds the table of row groups (`groups`); rows are read from the parts of the index, a row group at a time. Its
digest covers the content (record hashes, extents, bad records, row-group sizes), not where the files lie, so data may
be moved or copied without breaking a run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.sample import BadRecord
from interlace.data.index.groups import Groups
from interlace.data.index.parts import read_batch
from interlace.data.sources import RowGroup, ShardFormat, open_source
from interlace.modalities.columns import MISSING
from interlace.recipe.data import Source


@dataclass(frozen=True, kw_only=True)
class GroupRows:
    """The `n` rows of a row group.

    Args:
        hashes: uint64 `[n]`, xxh3 of each record's columns.
        extents: for each field int32 `[n, 2]`, what its modality measured; -1 where the field is missing.
        tokens: for each field int32 `[n]`.
        reasons: why a record can't be used, null where it can.
    """

    hashes: NDArray[np.uint64]
    extents: Mapping[str, NDArray[np.int32]]
    tokens: Mapping[str, NDArray[np.int32]]
    reasons: pa.Array

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Bool `[n]`."""
        usable: NDArray[np.bool_] = self.reasons.is_null().to_numpy(zero_copy_only=False)
        return usable

    @cached_property
    def num_tokens(self) -> NDArray[np.int32]:
        """Int32 `[n]`: tokens of each row over all fields; 0 for rows that can't be used."""
        total = np.zeros(len(self.hashes), np.int32)
        for tokens in self.tokens.values():
            total += tokens
        total[~self.usable] = 0
        return total

    def present(self, field: str) -> NDArray[np.bool_]:
        """Bool `[n]`: where a field is there."""
        present: NDArray[np.bool_] = self.extents[field][:, 0] != MISSING
        return present

    @property
    def content(self) -> bytes:
        """Hashes and extents: what tells the rows' values from others, wherever they lie."""
        return b"".join([self.hashes.tobytes(), *(e.tobytes() for e in self.extents.values())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One split.

    Args:
        sources: how the shards are read, one for each `RowGroup.source`.
        groups: row groups in order; row numbers of the manifest count through them.
        folder: of the parts; every process that reads rows must reach it.
    """

    sources: tuple[Source, ...]
    groups: Groups
    folder: str

    @property
    def num_rows(self) -> int:
        """Records, bad ones included."""
        return int(self.groups.starts[-1])

    @property
    def num_usable(self) -> int:
        """Records that can be used."""
        return int(self.groups.sizes.rows.sum())

    @property
    def num_bad(self) -> int:
        """Records that can't be used."""
        return int(self.groups.bad.sum(dtype=np.int64))

    @property
    def digest(self) -> str:
        """Hash (32 hex digits) of the content."""
        return self.groups.digest

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(self.groups.fields)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Int64 `[G + 1]`: first row of each row group, then the number of rows."""
        return self.groups.starts

    def readers(self) -> tuple[ShardFormat, ...]:
        """The readers of the sources, in the order of `RowGroup.source`."""
        return tuple(open_source(source) for source in self.sources)

    def group(self, number: int) -> RowGroup:
        """A row group."""
        return self.groups[number]

    def rows(self, number: int) -> GroupRows:
        """The rows of a row group, read from its part. Raises DataError if the part is gone."""
        groups = self.groups
        batch = read_batch(str(Path(self.folder) / groups.parts[groups.part[number]]), int(groups.batch[number]))

        def of(name: str) -> NDArray[np.int32]:
            column: NDArray[np.int32] = batch.column(name).to_numpy()
            return column

        return GroupRows(
            hashes=batch.column("hash").to_numpy(),
            extents={n: np.stack([of(f"{n}.0"), of(f"{n}.1")], axis=1) for n in groups.fields},
            tokens={n: of(f"{n}.tokens") for n in groups.fields},
            reasons=batch.column("reason"),
        )

    def locate(self, row: int) -> tuple[str, int]:
        """Shard and row in that shard of a manifest row."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        group = self.groups[number]
        return group.shard, int(group.first_row + row - self.starts[number])

    def bad(self, limit: int | None = None) -> Iterator[BadRecord]:
        """The (first) records that can't be used; only row groups that hold one are read."""
        left = self.num_bad if limit is None else limit
        for number in np.flatnonzero(self.groups.bad).tolist():
            if left <= 0:
                return
            group, rows = self.groups[number], self.rows(number)
            for at in np.flatnonzero(~rows.usable)[:left].tolist():
                yield BadRecord(shard=group.shard, row=group.first_row + at, reason=rows.reasons[at].as_py())
                left -= 1

    def missing_share(self, field: str) -> float:
        """Usable records without a field over all usable ones; 0 without any."""
        present = int(self.groups.fields[field].present.sum(dtype=np.int64))
        return 1 - present / self.num_usable if self.num_usable else 0.0
