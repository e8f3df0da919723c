"""Records: which columns make which field and target, and the hash that says whether a record is the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import xxhash

from interlace import modalities
from interlace.data.index.fit import Fitted
from interlace.data.index.targets import Target, make_target
from interlace.modalities.base import Modality
from interlace.recipe.reads import Reads

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCodec:
    """How a record's columns become tokens and targets: one entry a field or target, with the columns it reads."""

    fields: Mapping[str, tuple[Modality, tuple[str, ...]]]
    targets: Mapping[str, tuple[Target, tuple[str, ...]]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column read, each once."""
        names = [c for _, columns in (*self.fields.values(), *self.targets.values()) for c in columns]
        return tuple(dict.fromkeys(names))


def record_hash(record: Record, columns: Sequence[str]) -> int:
    """xxh3 (64 bit) of a record's columns; lengths and nulls count, so no two records share a byte string.

    Lists of numbers count by value: `[1, 2]` and `[1.0, 2.0]` are the same, `[nan]` and `[None]` are not.
    """
    hasher = xxhash.xxh3_64()
    for column in columns:
        value = record.get(column)
        content = content_of(value)
        hasher.update(b"%d%s" % (len(content), kind_of(value)))
        hasher.update(content)
    return hasher.intdigest()


def kind_of(value: Any) -> bytes:
    """Tells bytes, strings and other values of the same content apart: "None" is not None."""
    return b"b" if isinstance(value, bytes) else b"s" if isinstance(value, str) else b"v"


def content_of(value: Any) -> bytes:
    """A value as bytes: different values give different bytes."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return repr(value).encode()
    kinds = set(map(type, value))
    if kinds and kinds <= {list, tuple, np.ndarray, type(None)} and kinds != {type(None)}:
        lengths = np.array([-1 if v is None else len(v) for v in value], np.int64)
        lists = (v.tolist() if isinstance(v, np.ndarray) else v for v in value)
        inner = list(chain.from_iterable(v for v in lists if v is not None))
        return b"[%d]" % len(lengths) + lengths.tobytes() + content_of(inner)
    numbers = _numbers(value, kinds)
    return repr(list(value)).encode() if numbers is None else numbers


def _numbers(value: Sequence[Any], kinds: set[type]) -> bytes | None:
    """A list of numbers and nulls as bytes, much faster than `repr`; None where float64 would lose some of it."""
    if not kinds or not kinds <= {int, float, type(None)}:
        return None
    try:
        numbers = np.array(value, np.float64)
    except OverflowError:
        return None
    if int in kinds and (np.abs(numbers) >= 2**53).any():
        return None
    numbers[np.isnan(numbers)] = np.nan  # NaN has many bit patterns
    nulls = np.array([i for i, v in enumerate(value) if v is None] if type(None) in kinds else [], np.int64)
    return b"<%d,%d>" % (len(numbers), len(nulls)) + numbers.tobytes() + nulls.tobytes()


def field_value(record: Record, columns: tuple[str, ...]) -> tuple[Any, ...] | None:
    """A field's or target's columns of a record, or None if all of them are null."""
    value = tuple(record.get(c) for c in columns)
    return None if all(v is None for v in value) else value


def make_codec(reads: Reads, fitted: Fitted) -> RecordCodec:
    """The modalities and targets of a recipe, with what was fitted."""
    return RecordCodec(
        fields={n: (modalities.make(n, f, fitted["fields"][n]), f.columns) for n, f in reads.fields.items()},
        targets={n: (make_target(t, fitted["targets"][n]), t.columns) for n, t in reads.tasks.items() if t.columns},
    )
