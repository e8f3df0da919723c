"""Record hashes tell values apart and see through their containers; columns have types that fields can use."""

import math
import struct
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.errors import DataError
from interlace.data.index.records import record_hash
from interlace.data.index.schema import check_schema
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
lists = st.lists(leaves, max_size=4)
values = leaves | lists | st.lists(lists, max_size=3) | st.lists(st.lists(lists, max_size=2), max_size=2)


def hashed(value) -> int:
    return record_hash({"c": value}, ("c",))


def arrays(value):
    """Lists of numbers as numpy arrays, other lists as tuples."""
    if not isinstance(value, list):
        return value
    plain = value and all(type(v) is float for v in value)
    return np.array(value) if plain else tuple(arrays(v) for v in value)


@settings(deadline=None)
@given(values)
def test_the_container_of_a_list_does_not_count(value):
    assert hashed(arrays(value)) == hashed(value)


@settings(deadline=None)
@given(values, values)
def test_different_lists_differ(a, b):
    assert (hashed([a]) == hashed([b])) == (hashed([a, 1.5]) == hashed([b, 1.5]))
    if hashed([a]) == hashed([b]):
        assert a == b


def test_near_lists_differ():
    lists = [
        [], [None], [None, None], [[]], [[], []], [math.nan], [0.0], [-0.0], [0.0, None], [None, 0.0], [math.nan, None],
        [[1.0], [2.0]], [[1.0, 2.0]], [1.0, 2.0], [[1.0], None, [2.0]], [[1.0, 2.0], []], [[], [1.0, 2.0]], [math.inf],
        ["1.0"], ["1.0", "2.0"], [2**53 + 1], [2**53], [10**400], [True], "[1.0]", b"<1,0>", [[[1.0]], [[2.0]]], None,
    ]  # fmt: skip
    assert all(hashed(a) != hashed(b) for a, b in combinations(lists, 2))


def test_numbers_count_by_value():
    assert hashed([1, 2, None]) == hashed([1.0, 2.0, None])
    other = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    assert math.isnan(other)
    assert hashed([math.nan, 1.0]) == hashed([other, 1.0])


def recipe(field: dict) -> Recipe:
    return parse_recipe(
        {
            "name": "r",
            "data": {"train": {"paths": ["x"]}},
            "train": {"epochs": 1},
            "fields": {"f": field},
            "tasks": {"label": {"task": "classification", "column": "label"}},
        }
    )


NUMBERS = (pa.list_(pa.float32()), pa.large_list(pa.int16()), pa.list_(pa.float64(), 8), pa.null())
NO_NUMBERS = (pa.float32(), pa.string(), pa.list_(pa.string()), pa.list_(pa.list_(pa.float32())))
ROWS = (pa.list_(pa.list_(pa.float32())), pa.list_(pa.list_(pa.float32(), 3)), pa.large_list(pa.list_(pa.int8())))
NAMES = (pa.list_(pa.string()), pa.list_(pa.int16()), pa.list_(pa.dictionary(pa.int8(), pa.string())))
DATES = (pa.date32(), pa.date64(), pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.string(), pa.null())
APART = {"modality": "series", "time": "t", "channel": "k", "value": "c"}


@pytest.mark.parametrize(
    ("field", "fine", "wrong", "expected"),
    [
        ({"modality": "series", "channels": ["c"]}, NUMBERS, NO_NUMBERS, "a list of numbers"),
        ({"modality": "series", "column": "c"}, ROWS, NUMBERS[:3], "a list of lists of numbers"),
        (APART, NUMBERS, NO_NUMBERS, "a list of numbers"),
        (
            APART | {"channel": "c", "value": "k"},
            NAMES,
            (pa.string(), pa.list_(pa.float32())),
            "a list of strings or int",
        ),
        (
            {"modality": "table", "dates": ["c"]},
            DATES,
            (pa.int64(), pa.time32("s"), pa.binary()),
            "a date, a timestamp",
        ),
    ],
)
def test_columns_have_types_that_series_and_dates_can_use(field, fine, wrong, expected):
    others = {"t": pa.list_(pa.int16()), "k": pa.list_(pa.int16()), "label": pa.string()}
    for kind in fine:
        check_schema(recipe(field).reads, pa.schema({**others, "c": kind}), "s")
    for kind in wrong:
        with pytest.raises(DataError, match=f"expected `c` to be {expected}.*, but it is ") as error:
            check_schema(recipe(field).reads, pa.schema({**others, "c": kind}), "s")
        assert str(error.value).endswith(str(kind))


def test_values_that_look_alike_hash_apart() -> None:
    alike = [None, "None", b"None", 1, "1", b"1", True, "True", 1.5, "1.5", [1], "[1]", "", b""]
    assert len({record_hash({"a": value}, ["a"]) for value in alike}) == len(alike)
