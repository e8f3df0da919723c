"""Measuring a column of values at once: what modalities share that look at Arrow buffers instead of Python objects.

In: the columns of a field over the rows of a row group. Out: `Measured`, the extents of the rows and why some can't be
used. Rows whose columns are all null are missing. Whatever a vector path is unsure of is measured value by value, so
both ways give the same extents and the same reasons.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interlace.contract.errors import RecordError

MISSING = -1
"""Both numbers of the extent of a value that is not there, or can't be used."""

Measured = tuple[NDArray[np.int32], dict[int, str]]
"""Extents int32 `[N, 2]`, and by row why its value can't be used."""

Columns = Sequence[pa.Array]
"""The columns of one field or target, of one length."""


def measure_each(measure: Callable[[tuple[Any, ...]], tuple[int, int]], columns: Columns) -> Measured:
    """Measure value by value."""
    extents = missing_extents(len(columns[0]))
    return extents, measure_rows(measure, columns, np.flatnonzero(present_rows(columns)), extents)


def measure_rows(
    measure: Callable[[tuple[Any, ...]], tuple[int, int]],
    columns: Columns,
    rows: NDArray[np.intp],
    extents: NDArray[np.int32],
) -> dict[int, str]:
    """Measure some rows value by value into `extents`; returns why some can't be used."""
    reasons: dict[int, str] = {}
    for row, value in zip(rows.tolist(), values_of(columns, rows), strict=True):
        try:
            extents[row] = measure(value)
        except RecordError as error:
            extents[row] = MISSING
            reasons[row] = str(error)
    return reasons


def values_of(columns: Columns, rows: NDArray[np.intp] | None = None) -> Iterable[tuple[Any, ...]]:
    """The values of (some) rows as tuples of Python objects."""
    if rows is not None and len(rows) < len(columns[0]):
        taken = pa.array(rows)
        columns = [column.take(taken) for column in columns]
    return zip(*(column.to_pylist() for column in columns), strict=True)


def missing_extents(num_rows: int) -> NDArray[np.int32]:
    """Extents int32 `[N, 2]` of values that are not there."""
    return np.full((num_rows, 2), MISSING, np.int32)


def present_rows(columns: Columns) -> NDArray[np.bool_]:
    """Bool `[N]`: rows of which at least one column is not null."""
    present = valid(columns[0])
    for column in columns[1:]:
        present = present | valid(column)
    return present


def valid(column: pa.Array) -> NDArray[np.bool_]:
    """Bool `[N]`: where a column is not null (NaN is not null)."""
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    found: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return found


def plain_numbers(column: pa.Array) -> NDArray[np.float64] | None:
    """Numbers and booleans as float64 `[N]`, NaN where null; None for a column of another type."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind) or is_bool(column)):
        return None
    if is_bool(column):
        column = column.cast(pa.uint8())
    numbers = column.cast(pa.float64(), safe=False)
    if column.null_count:
        numbers = pc.fill_null(numbers, np.nan)
    found: NDArray[np.float64] = numbers.to_numpy(zero_copy_only=False)
    return found


def is_bool(column: pa.Array) -> bool:
    """Whether it is a column of booleans."""
    return bool(pa.types.is_boolean(column.type))


def is_text(column: pa.Array) -> bool:
    """Whether it is a column of strings, all of which are UTF-8."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return False
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def offsets_of(lists: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Where each list of a column begins in its values, int64 `[N + 1]`, and the values; a null is an empty list."""
    if lists.null_count:
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return offsets, lists.flatten()
    offsets = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return offsets - offsets[0], lists.flatten()


def is_list(column: pa.Array) -> bool:
    """Whether it is a column of lists."""
    return bool(pa.types.is_list(column.type) or pa.types.is_large_list(column.type))


def sums_within(flags: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of each list's values `[M]`, int64 `[N]`."""
    total = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
    sums: NDArray[np.int64] = total[offsets[1:]] - total[offsets[:-1]]
    return sums
