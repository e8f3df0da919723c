"""Laws of table rows: numbers and categories."""

import json
import math
import statistics
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlace.contract.errors import RecordError
from interlace.modalities.base import Modality
from interlace.modalities.laws import check_value
from interlace.modalities.numeric import MAX_Z
from interlace.modalities.table import make_table
from interlace.recipe.fields import TableField
from tests.fitting import fit

numbers = st.none() | st.floats(allow_infinity=False, width=32) | st.integers(-(2**70), 2**70) | st.booleans()
labels = st.none() | st.text(max_size=3) | st.integers(-3, 3) | st.booleans()


def field(**columns) -> TableField:
    return TableField(modality="table", **columns)


def fitted(item: TableField, rows) -> Modality:
    return make_table("row", item, json.loads(json.dumps(fit(item, iter(rows)))))


def check_laws(m: Modality, row: tuple) -> int:
    check_value(m, row)
    extent = m.measure(row)
    decoded = m.decode(row)
    tokens = m.encode(decoded)
    count = sum(v is not None and v == v for v in row)
    assert extent == (count, 0)
    assert len(tokens.values) == m.num_tokens(extent) == count <= m.spec.max_grid[0]
    assert tokens.grid == m.grid(extent) == (count, 1)
    assert m.decode(row).tobytes() == decoded.tobytes()
    assert m.augment(decoded, np.random.default_rng(0)) is decoded
    if m.spec.kind == "ids":
        assert tokens.values.dtype == np.int32
        assert all(0 <= t < m.spec.vocab_size for t in tokens.values)
    else:
        assert tokens.values.dtype == np.float32 == np.dtype(m.spec.patch_dtype)
        assert tokens.values.shape[1] == m.spec.patch_dim
        assert np.isfinite(tokens.values).all()
    return count


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=20))
def test_numbers_are_one_token_each_present_value(rows):
    m = fitted(field(numbers=("a", "b", "c")), rows[::2])
    for row in rows:
        check_laws(m, row)


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=20), st.integers(1, 5))
def test_categories_are_one_token_each_present_value(rows, most):
    m = fitted(field(categories=("a", "b"), max_categories=most), rows[::2])
    for row in rows:
        check_laws(m, row)


def test_real_rows_have_a_token_for_each_value_present(stays):
    measured = fitted(field(numbers=("age", "height", "weight")), [s[:3] for s in stays])
    kinds = fitted(field(categories=("icu_type", "gender")), [s[3:] for s in stays])
    counts = {check_laws(measured, s[:3]) for s in stays}
    assert counts >= {1, 3}  # whole rows and rows with gaps
    assert {check_laws(kinds, s[3:]) for s in stays} >= {1, 2}
    assert kinds.spec.vocab_size == 4 + 2 + 2


def test_scores_equal_numpys_over_real_rows(stays):
    columns = np.array([s[:3] for s in stays], float)
    m = fitted(field(numbers=("age", "height", "weight")), [s[:3] for s in stays])
    want = (columns - np.nanmean(columns, 0)) / np.nanstd(columns, 0)
    for row, scores in zip(stays[:200], want[:200], strict=True):
        values = m.encode(m.decode(row[:3])).values
        present = np.flatnonzero(~np.isnan(scores))
        assert values[:, :3].sum(1) == pytest.approx(scores[present], rel=1e-5, abs=1e-6)
        assert values[:, 3:].argmax(1).tolist() == present.tolist()
        assert ((values != 0).sum(1) <= 2).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(-1e9, 1e9))
@example([0.0, 0.0, 2.0**-24], 2.0**25)
def test_streamed_statistics_equal_those_of_all_values(values, shift):
    state = fit(field(numbers=("a",)), (((v + shift),) for v in values))
    shifted = [v + shift for v in values]
    assert state["means"][0] == pytest.approx(statistics.mean(shifted), rel=1e-9, abs=1e-6)
    if np.ptp(shifted) > 1e-150:  # squares of less are 0
        # In exact fractions: numpy's own mean is rounded, which tells where values differ by a few roundings of it.
        assert state["stds"][0] == pytest.approx(statistics.pstdev(shifted), rel=1e-9, abs=0)
    elif np.ptp(shifted) == 0:
        assert state["stds"] == [1.0]


def test_constant_and_empty_columns_have_deviation_one():
    state = fit(field(numbers=("constant", "empty")), iter([(5, None), (5.0, math.nan), (Decimal(5), None)]))
    assert state == {"means": [5.0, 0.0], "stds": [1.0, 1.0]}


def test_a_far_outlier_stays_finite():
    m = fitted(field(numbers=("a",)), [(0.0,), (1e-30,)])
    assert m.encode(m.decode((3e38,))).values.tolist() == [[MAX_Z, 1.0]]
    assert m.encode(m.decode((-3e38,))).values.tolist() == [[-MAX_Z, 1.0]]


def test_ids_have_a_range_for_each_column_with_its_own_unknown():
    rows = [("x", 1), ("x", 2), ("y", 2), ("z", True), (None, None)]
    item = field(categories=("a", "b"), max_categories=2)
    assert fit(item, iter(rows)) == {"categories": [["x", "y"], [1, 2]]}
    m = fitted(item, rows)
    assert m.spec.vocab_size == 6
    assert m.decode(("x", 1)).tolist() == [1, 4]
    assert m.decode(("y", 2.0)).tolist() == [2, 5]  # pandas: an integer beside missing values
    assert m.decode(("z", "1")).tolist() == [0, 3]
    assert m.decode((None, np.int8(2))).tolist() == [5]
    assert m.decode((math.nan, True)).tolist() == [4]


@given(st.permutations([("b",), ("a",), ("a",), ("c",), ("c",), (1,), (1,), ("d",)]))
def test_vocabulary_is_independent_of_row_order(rows):
    assert fit(field(categories=("k",), max_categories=4), iter(rows)) == {"categories": [[1, "a", "c", "b"]]}


@pytest.mark.parametrize("value", ["3.5", b"3", math.inf, -math.inf, 10**400, 1e39, [1], 1j, Decimal("sNaN")])
def test_what_is_no_number_is_refused_with_column_and_value(value):
    m = fitted(field(numbers=("good", "bad")), [(1, 2)])
    for use in (m.measure, m.decode):
        with pytest.raises(RecordError, match=r"expected a .*number.* column `bad`, but is ") as error:
            use((1, value))
        assert len(str(error.value)) < 150


@pytest.mark.parametrize("value", [1.5, b"x", ["a"], math.inf])
def test_what_is_no_category_is_refused_with_column_and_value(value):
    m = fitted(field(categories=("good", "bad")), [("a", "b")])
    for use in (m.measure, m.decode):
        with pytest.raises(RecordError, match="expected a string, an integer or a boolean in column `bad`, but is "):
            use(("a", value))


def test_fitting_passes_over_bad_values():
    item = field(numbers=("a", "b"))
    assert fit(item, iter([(1, "x"), (3, math.inf), (b"", 4), (None, 6)])) == {"means": [2, 5], "stds": [1, 1]}
    assert fit(field(categories=("a",)), iter([(1.5,), ("x",), (b"y",)])) == {"categories": [["x"]]}
