"""Hashes of all records of a row group: bit-equal to `records.record_hash`, computed column by column.

    columns -> content of each value and its kind, as Arrow arrays -> joined to one string a row -> xxh3 of each

Strings, bytes, integers and lists of numbers become content without a Python object a value; other types (dates,
decimals, lists of strings, ...) are asked one by one. Rows are joined in runs of at most `JOINED_BYTES`.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from interlace.data.index.records import content_of, kind_of
from interlace.modalities.columns import is_list, is_text, offsets_of, plain_numbers, sums_within, valid

JOINED_BYTES = 16 << 20
"""Bytes of rows copied at a time."""

EXACT = 2**53
"""Integers below are exact in float64."""

Contents = tuple[pa.Array, pa.Array | str]
"""Content of each value (binary) and its kind (binary, or one letter for all)."""


def record_hashes(table: pa.Table) -> NDArray[np.uint64]:
    """Uint64 `[N]`: the hash of each row's columns, in their order."""
    hashes = np.zeros(table.num_rows, np.uint64)
    step = max(1, table.num_rows * JOINED_BYTES // max(table.nbytes, 1))
    for first in range(0, table.num_rows, step):
        part = table.slice(first, step)
        hashes[first : first + step] = _hashes(part)
    return hashes


def _hashes(table: pa.Table) -> NDArray[np.uint64]:
    pieces: list[pa.Array] = []
    for column in table.columns:
        content, kind = contents(one_array(column))
        content = content.cast(pa.large_binary())
        length = pc.binary_length(content).cast(pa.string()).cast(pa.large_binary())
        pieces += [length, pa.scalar(kind, pa.large_binary()) if isinstance(kind, str) else kind, content]
    joined = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))
    ends = np.frombuffer(joined.buffers()[1], np.int64)[joined.offset : joined.offset + len(joined) + 1].tolist()
    data, digest = memoryview(joined.buffers()[2] or b""), xxhash.xxh3_64_intdigest
    return np.array([digest(data[a:b]) for a, b in pairwise(ends)], np.uint64)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array without an offset into larger buffers' lists."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array


def contents(column: pa.Array) -> Contents:
    """What `record_hash` takes of each value of a column."""
    kind = column.type
    if is_text(column):
        return _with_nulls(column.cast(pa.large_binary()), "s")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _with_nulls(column, "b")
    if pa.types.is_integer(kind):
        return _with_nulls(column.cast(pa.string()), "v")
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return _of_floats(column), "v"
    if is_list(column) and len(column):
        lists = _of_lists(column)
        if lists is not None:
            return lists, "v"
    return _one_by_one(column)


def _with_nulls(column: pa.Array, kind: str) -> Contents:
    """A column that is content already, its nulls as `record_hash` takes them."""
    column = column.cast(pa.large_binary())
    if not column.null_count:
        return column, kind
    there = column.is_valid()
    kinds = pc.if_else(there, pa.scalar(kind.encode(), pa.large_binary()), pa.scalar(b"v", pa.large_binary()))
    return column.fill_null(b"None"), kinds


def _of_floats(column: pa.Array) -> pa.Array:
    return pa.array(list(map(repr, column.to_pylist())), pa.string())


def _one_by_one(column: pa.Array) -> Contents:
    values = column.to_pylist()
    return (
        pa.array([content_of(v) for v in values], pa.large_binary()),
        pa.array([kind_of(v) for v in values], pa.large_binary()),
    )


def _of_lists(column: pa.Array) -> pa.Array | None:
    """Content of lists of numbers, or of lists of such lists; None for lists of others."""
    offsets, values = offsets_of(column)
    take = _numbers_between(values)
    if take is None and is_list(values):
        take = _rows_between(values)
    if take is None:
        return None
    there = valid(column).tolist()
    ends = offsets.tolist()
    return pa.array(
        [take(a, b) if one else b"None" for one, a, b in zip(there, ends[:-1], ends[1:], strict=True)],
        pa.large_binary(),
    )


Between = Callable[[int, int], bytes]
"""Content of the list of the values from one place to another."""


def _numbers_between(values: pa.Array) -> Between | None:
    """Of numbers: as `records.content_of` of a list. None for a column of other values, or with large integers."""
    if pa.types.is_boolean(values.type) or pa.types.is_null(values.type):
        return None
    numbers = plain_numbers(values)
    if numbers is None:
        return None
    if pa.types.is_integer(values.type) and len(values) and (np.abs(numbers) >= EXACT).any():
        return None
    numbers = numbers.copy()
    numbers[np.isnan(numbers)] = np.nan
    data = numbers.tobytes()
    if not values.null_count:
        return lambda a, b: b"<%d,0>" % (b - a) + data[8 * a : 8 * b] if b > a else b"[]"
    nulls = np.flatnonzero(~valid(values))

    def take(a: int, b: int) -> bytes:
        if b == a:
            return b"[]"
        own = nulls[np.searchsorted(nulls, a) : np.searchsorted(nulls, b)] - a
        return b"<%d,%d>" % (b - a, len(own)) + data[8 * a : 8 * b] + own.astype(np.int64).tobytes()

    return take


def _rows_between(rows: pa.Array) -> Between | None:
    """Of lists of numbers: as `records.content_of` of a list of lists."""
    offsets, values = offsets_of(rows)
    inner = _numbers_between(values)
    if inner is None:
        return None
    lengths = np.where(valid(rows), np.diff(offsets), -1)
    data, ends, missing = lengths.tobytes(), offsets.tolist(), sums_within(lengths < 0, np.arange(len(rows) + 1))
    before = np.concatenate([[0], np.cumsum(missing)]).tolist()

    def take(a: int, b: int) -> bytes:
        if b == a:
            return b"[]"
        if before[b] - before[a] == b - a:
            return content_of([None] * (b - a))
        return b"[%d]" % (b - a) + data[8 * a : 8 * b] + inner(ends[a], ends[b])

    return take
