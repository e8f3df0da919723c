"""Measuring: the hash and the extents of each record of a row group, and why one can't be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import DataError, RecordError
from interlace.data.index.manifest import MISSING
from interlace.data.index.records import RecordCodec, field_value, record_hash
from interlace.data.index.targets import Target, TextTarget, ctc_tokens
from interlace.data.sources import RowGroup, ShardFormat, row_errors


@dataclass(frozen=True, slots=True)
class MeasureGroup:
    """Measures the rows of a row group: hash, extents, and the reason where a record can't be used."""

    readers: tuple[ShardFormat, ...]
    codec: RecordCodec

    def __call__(self, group: RowGroup) -> pa.Table:
        """One row a record: `hash`, `<field>.0`, `<field>.1`, `reason`, `unaligned`."""
        names = list(self.codec.fields)
        try:
            table = self.readers[group.source].read(group, self.codec.columns)
        except DataError as error:
            return self._table([(0, [(MISSING, MISSING)] * len(names), str(error), False)] * group.num_rows)
        rows = zip(table.to_pylist(), row_errors(table), strict=True)
        unread = [(MISSING, MISSING)] * len(names)
        return self._table(
            [(0, unread, row_error, False) if row_error else self._measure(record) for record, row_error in rows]
        )

    def _measure(self, record: Mapping[str, Any]) -> tuple[int, list[tuple[int, int]], str | None, bool]:
        reason: str | None = None
        extents = [(MISSING, MISSING)] * len(self.codec.fields)
        for i, (name, (modality, columns)) in enumerate(self.codec.fields.items()):
            value = field_value(record, columns)
            if value is None:
                continue
            try:
                extents[i] = modality.measure(value)
            except RecordError as error:
                reason = reason or f"field `{name}`: {error}"
        unaligned = False
        try:
            for target, columns in self.codec.targets.values():
                if (value := field_value(record, columns)) is not None:
                    unaligned |= self._is_unaligned(target, target.encode(value), extents)
        except RecordError as error:
            reason = reason or str(error)
        if reason is None and not self._has_token(extents):
            reason = "no field has a token: every field of the record is missing or empty"
        return record_hash(record, self.codec.columns), extents, reason, unaligned

    def _is_unaligned(self, target: Target, ids: NDArray[Any], extents: Sequence[tuple[int, int]]) -> bool:
        """Whether the field that CTC reads is there, but has too few tokens for the text."""
        if not isinstance(target, TextTarget) or target.ctc_field is None:
            return False
        extent = extents[list(self.codec.fields).index(target.ctc_field)]
        modality = self.codec.fields[target.ctc_field][0]
        return extent[0] != MISSING and modality.num_tokens(extent) < ctc_tokens(ids)

    def _has_token(self, extents: Sequence[tuple[int, int]]) -> bool:
        pairs = zip(extents, self.codec.fields.values(), strict=True)
        return any(e[0] != MISSING and m.num_tokens(e) > 0 for e, (m, _) in pairs)

    def _table(self, rows: list[tuple[int, list[tuple[int, int]], str | None, bool]]) -> pa.Table:
        columns: dict[str, pa.Array] = {
            "hash": pa.array([r[0] for r in rows], pa.uint64()),
            "reason": pa.array([r[2] for r in rows], pa.string()),
            "unaligned": pa.array([r[3] for r in rows], pa.bool_()),
        }
        for i, name in enumerate(self.codec.fields):
            columns[f"{name}.0"] = pa.array([r[1][i][0] for r in rows], pa.int32())
            columns[f"{name}.1"] = pa.array([r[1][i][1] for r in rows], pa.int32())
        return pa.table(columns)
