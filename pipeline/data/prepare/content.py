"""What rows of an Arrow table weigh and are, apart from how they lie in memory: sizes and digests of values.

Arrow keeps one value in many forms (slices, chunks, bits of validity that may be absent), so sizes and digests made of
its buffers would depend on the way a table was put together. These depend on the values only.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pyarrow import types


def num_bytes(array: pa.Array) -> int:
    """Bytes of the values, 4 more for each that has a length; nulls of fixed width count as values do."""
    kind = array.type
    if types.is_struct(kind):
        return sum(num_bytes(child) for child in array.flatten())
    if _is_list(kind):
        return 4 * len(array) + num_bytes(array.flatten())
    if _has_bytes(kind):
        return 4 * len(array) + int(pc.sum(pc.binary_length(array)).as_py() or 0)
    if _bits(kind):
        return len(array) * max(1, _bits(kind) // 8)
    return 0 if types.is_null(kind) else len(repr(array.to_pylist()))


def digest_table(hasher: xxhash.xxh3_128, table: pa.Table) -> None:
    """Feed names, types and values of a table to a hasher."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        hasher.update(f"{name}:{column.type}:{len(column)};".encode())
        _digest(hasher, _one_chunk(column))


def _digest(hasher: xxhash.xxh3_128, array: pa.Array) -> None:
    kind = array.type
    hasher.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    dense = array.drop_null()
    if types.is_struct(kind):
        for child in dense.flatten():
            _digest(hasher, child)
    elif _is_list(kind):
        hasher.update(pc.list_value_length(dense).to_numpy().tobytes())
        _digest(hasher, dense.flatten())
    elif _has_bytes(kind):
        hasher.update(pc.binary_length(dense).to_numpy().tobytes())
        hasher.update(_joined(dense))
    elif types.is_boolean(kind):
        hasher.update(np.packbits(dense.to_numpy(zero_copy_only=False)).tobytes())
    elif _bits(kind) and len(dense):
        width = _bits(kind) // 8
        hasher.update(dense.buffers()[1].slice(dense.offset * width, len(dense) * width))
    else:
        hasher.update(repr(dense.to_pylist()).encode())


def _joined(array: pa.Array) -> bytes | pa.Buffer:
    """All bytes of a binary or string array without nulls, one after the other."""
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return b""
    wide = types.is_large_binary(array.type) or types.is_large_string(array.type)
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)
    first, last = int(ends[array.offset]), int(ends[array.offset + len(array)])
    return data.slice(first, last - first)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(
        types.is_binary(kind) or types.is_string(kind) or types.is_large_binary(kind) or types.is_large_string(kind)
    )


def _bits(kind: pa.DataType) -> int:
    """Width of a value in bits; 0 where the type has no fixed one."""
    if types.is_dictionary(kind):
        return 0
    try:
        return int(kind.bit_width)
    except ValueError:
        return 0
