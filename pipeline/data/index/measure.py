"""Measuring: the hash and the extents of each record of a row group, and why one can't be used."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import DataError
from interlace.data.index.hashing import one_array, record_hashes
from interlace.data.index.records import RecordCodec
from interlace.data.index.targets import TextTarget, ctc_tokens
from interlace.data.sources import ROW_ERROR, RowGroup, ShardFormat
from interlace.modalities.base import Modality
from interlace.modalities.columns import MISSING, missing_extents, valid, values_of

Reasons = dict[int, str]
"""By row why its record can't be used."""


@dataclass(frozen=True, slots=True)
class MeasureGroup:
    """Measures the rows of a row group: hash, extents, tokens, and the reason where a record can't be used."""

    readers: tuple[ShardFormat, ...]
    codec: RecordCodec

    def __call__(self, group: RowGroup) -> pa.Table:
        """One row a record: `hash`, `reason`, `unaligned`, and of each field `<field>.0`, `.1` and `.tokens`."""
        try:
            table = self.readers[group.source].read(group, self.codec.columns)
        except DataError as error:
            return self._lost([str(error)] * group.num_rows)
        if ROW_ERROR not in table.column_names or table[ROW_ERROR].null_count == table.num_rows:
            return self._measure(table.select(self.codec.columns))
        return self._among_errors(table)

    def _among_errors(self, table: pa.Table) -> pa.Table:
        """Rows that could be read, measured, between those that could not."""
        errors = one_array(table[ROW_ERROR])
        read = ~valid(errors)
        measured = self._measure(table.select(self.codec.columns).filter(pa.array(read)))
        lost = self._lost(errors.drop_null().to_pylist())
        places = np.empty(len(read), np.int64)
        places[np.concatenate([np.flatnonzero(read), np.flatnonzero(~read)])] = np.arange(len(read))
        return pa.concat_tables([measured, lost]).take(pa.array(places))

    def _measure(self, table: pa.Table) -> pa.Table:
        columns = {name: one_array(table[name]) for name in table.column_names}
        reasons: Reasons = {}
        extents: dict[str, NDArray[np.int32]] = {}
        for name, (modality, own) in self.codec.fields.items():
            extents[name], refused = modality.measure_column([columns[c] for c in own])
            for row, reason in refused.items():
                reasons.setdefault(row, f"field `{name}`: {reason}")
        tokens = {n: tokens_of(m, extents[n]) for n, (m, _) in self.codec.fields.items()}
        unaligned = self._check_targets(columns, tokens, extents, reasons)
        empty = np.sum(list(tokens.values()), axis=0) == 0
        for row in np.flatnonzero(empty).tolist():
            reasons.setdefault(row, "no field has a token: every field of the record is missing or empty")
        return _table(record_hashes(table), extents, tokens, reasons, unaligned)

    def _check_targets(
        self,
        columns: Mapping[str, pa.Array],
        tokens: Mapping[str, NDArray[np.int32]],
        extents: Mapping[str, NDArray[np.int32]],
        reasons: Reasons,
    ) -> NDArray[np.bool_]:
        """Add what targets refuse to the reasons; bool `[N]`, where a field is there, but too short for CTC's text."""
        num_rows = len(next(iter(tokens.values())))
        unaligned, refused = np.zeros(num_rows, np.bool_), np.zeros(num_rows, np.bool_)
        for target, own in self.codec.targets.values():
            found = target.refused([columns[c] for c in own])
            for row, reason in found.items():
                if not refused[row]:
                    reasons.setdefault(row, reason)
                    refused[row] = True
            if isinstance(target, TextTarget) and target.ctc_field is not None:
                there = valid(columns[own[0]]) & ~refused & (extents[target.ctc_field][:, 0] != MISSING)
                rows = np.flatnonzero(there)
                needed = [ctc_tokens(target.encode(value)) for value in values_of([columns[own[0]]], rows)]
                unaligned[rows] |= tokens[target.ctc_field][rows] < np.array(needed, np.int64)
        return unaligned

    def _lost(self, reasons: list[str]) -> pa.Table:
        """Rows that can't be read."""
        count = len(reasons)
        extents = {name: missing_extents(count) for name in self.codec.fields}
        tokens = {name: np.zeros(count, np.int32) for name in self.codec.fields}
        return _table(np.zeros(count, np.uint64), extents, tokens, dict(enumerate(reasons)), np.zeros(count, np.bool_))


def tokens_of(modality: Modality, extents: NDArray[np.int32]) -> NDArray[np.int32]:
    """Int32 `[N]`: tokens of values of these extents, 0 where there is none; each distinct extent is asked once."""
    joined = extents[:, 0].astype(np.int64) << 32 | extents[:, 1].astype(np.int64)
    distinct, inverse = np.unique(joined, return_inverse=True)
    pairs = zip((distinct >> 32).tolist(), (distinct & 0xFFFFFFFF).tolist(), strict=True)
    counts = np.array([0 if a < 0 else modality.num_tokens((a, b)) for a, b in pairs], np.int32)
    tokens: NDArray[np.int32] = counts[inverse.reshape(-1)]
    return tokens


def measured_schema(fields: tuple[str, ...]) -> pa.Schema:
    """The columns of a measured row group."""
    head = [("hash", pa.uint64()), ("reason", pa.string()), ("unaligned", pa.bool_())]
    return pa.schema([*head, *((f"{n}.{part}", pa.int32()) for n in fields for part in ("0", "1", "tokens"))])


def _table(
    hashes: NDArray[np.uint64],
    extents: Mapping[str, NDArray[np.int32]],
    tokens: Mapping[str, NDArray[np.int32]],
    reasons: Reasons,
    unaligned: NDArray[np.bool_],
) -> pa.Table:
    told: list[str | None] = [None] * len(hashes)
    for row, reason in reasons.items():
        told[row] = reason
    columns: list[pa.Array] = [pa.array(hashes), pa.array(told, pa.string()), pa.array(unaligned)]
    for name, extent in extents.items():
        columns += [pa.array(extent[:, 0]), pa.array(extent[:, 1]), pa.array(tokens[name])]
    return pa.table(columns, schema=measured_schema(tuple(extents)))
