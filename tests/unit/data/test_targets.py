"""Laws of label columns."""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlace.contract.errors import DataError, RecordError
from interlace.data.index.schema import check_schema
from interlace.data.index.targets import ClassTarget, Target, make_target, target_learner
from interlace.recipe.load import parse_recipe
from interlace.recipe.tasks import ClassificationTask, RegressionTask, RetrievalTask
from tests.fitting import cut, fit_target, learn

ONE = ClassificationTask(task="classification", column="label")
MANY = ClassificationTask(task="classification", column="labels", multi_label=True)


def rows(values: list) -> Iterator[tuple]:
    return ((value,) for value in values if value is not None)


def fitted(task: ClassificationTask, values: list) -> Target:
    return make_target(task, json.loads(json.dumps(fit_target(task, rows(values)))))


@given(st.lists(st.text(max_size=3), min_size=2) | st.lists(st.integers(-5, 5) | st.booleans(), min_size=2))
def test_every_training_label_is_the_index_of_its_class(values):
    if len(set(values)) < 2:
        values = [*values, values[0] + ("x" if isinstance(values[0], str) else 1)]
    state = fit_target(ONE, rows(values))
    target = make_target(ONE, state)
    assert isinstance(target, ClassTarget)
    assert list(target.classes) == sorted(set(values)) == state["classes"]
    assert sum(state["counts"]) == len(values)
    for value in values:
        index = target.encode((value,))
        assert (index.dtype, index.shape) == (target.dtype, (1,)) == (np.int64, (1,))
        assert target.classes[index[0]] == value
    assert state["counts"] == [values.count(c) for c in state["classes"]]


@given(st.lists(st.lists(st.sampled_from("abcdef")), min_size=1))
def test_several_labels_are_sorted_and_each_once(values):
    state = fit_target(MANY, rows([*values, ["a", "f", "f"], None]))
    target = make_target(MANY, state)
    for value in values:
        indices = target.encode((value,))
        assert indices.dtype == np.int64
        assert [state["classes"][i] for i in indices] == sorted(set(value))
        assert np.array_equal(target.encode((np.array(value, dtype=object),)), indices)
    assert state["counts"][0] == sum("a" in v for v in values) + 1  # samples, not mentions


def test_no_label_at_all_is_present_and_empty():
    empty = fitted(MANY, [["a"], ["b"], []]).encode(([],))
    assert (empty.shape, empty.dtype) == ((0,), np.int64)


def test_booleans_and_numpy_integers_are_integers():
    target = fitted(ONE, [True, False, None, np.int8(1), np.bool_(True)])
    assert isinstance(target, ClassTarget)
    assert target.classes == (0, 1)
    assert [target.encode((v,))[0] for v in (True, 1, np.int64(0), np.bool_(False))] == [1, 1, 0, 0]


def test_an_unseen_label_is_refused_with_column_and_known_classes():
    few = fitted(ONE, ["cat", "dog"])
    with pytest.raises(RecordError, match=r"column `label` \('cat', 'dog'\), but is 'cow'"):
        few.encode(("cow",))
    many = fitted(MANY, [list(range(1000))])
    with pytest.raises(RecordError, match=r"\(0, 1, 2, 3, 4, 5, 6, 7, \.\.\. 1000 in all\), but is 2000"):
        many.encode(([5, 2000],))
    with pytest.raises(RecordError, match="but is '1'"):
        fitted(ONE, [1, 2]).encode(("1",))


@pytest.mark.parametrize("value", [0.5, b"cat", {"a": 1}, ["cat"], None])
def test_a_label_of_a_wrong_type_is_a_bad_record(value):
    with pytest.raises(RecordError, match="expected a string, an integer or a boolean as label in column `label`"):
        fitted(ONE, ["cat", "dog"]).encode((value,))


@pytest.mark.parametrize("value", ["cat", 3, ["cat", None], [["cat"]]])
def test_a_list_of_a_wrong_type_is_a_bad_record(value):
    with pytest.raises(RecordError, match="column `labels`"):
        fitted(MANY, [["cat"], ["dog", None]]).encode((value,))


@pytest.mark.parametrize(
    ("task", "values", "reason"),
    [
        (ONE, [0.5, 1.5], "in column `label`, but is float"),
        (ONE, [b"a", b"b"], "in column `label`, but is bytes"),
        (ONE, [["a"], ["b"]], "but is list; for lists set `multi_label: true`"),
        (MANY, ["a", "b"], r"expected a list of labels in column `labels` \(`multi_label` is on\), but is str"),
        (MANY, [["a"], [0.5]], "in column `labels`, but is float"),
        (ONE, ["a", 1], "labels of one type in column `label`, but found int and str"),
        (ONE, ["a", "a", None], "at least 2 classes in column `label` .* found only 'a'"),
        (ONE, [None], "at least 2 classes .* found none"),
        (MANY, [[], []], "at least 2 classes .* found none"),
    ],
)
def test_a_column_that_holds_no_labels_is_an_error(task, values, reason):
    with pytest.raises(DataError, match=reason):
        fit_target(task, rows(values))


NUMBERS = RegressionTask(task="regression", columns=("a", "b"))


@given(st.lists(st.tuples(*[st.none() | st.floats(-1e6, 1e6) | st.integers(-50, 50)] * 2), min_size=1))
def test_numbers_are_standardised_by_their_own_column(values):
    values = [*values, (0.0, 1), (4, 2.5)]
    state = json.loads(json.dumps(learn(target_learner(NUMBERS), cut(values, [1, len(values) // 2]))))
    target = make_target(NUMBERS, state)
    raw = np.array([[np.nan if v is None else v for v in row] for row in values], np.float64)
    assert state["means"] == pytest.approx(np.nanmean(raw, 0).tolist(), rel=1e-9, abs=1e-9)
    assert state["stds"] == pytest.approx(np.nanstd(raw, 0).tolist(), rel=1e-6)
    assert state["lows"] == np.nanmin(raw, 0).tolist()
    assert state["highs"] == np.nanmax(raw, 0).tolist()
    found = np.stack([target.encode(row) for row in values])
    assert found.dtype == target.dtype == np.float32
    want = (raw - np.nanmean(raw, 0)) / np.nanstd(raw, 0)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    assert np.array_equal(np.isnan(found), np.isnan(raw))


def test_what_is_no_number_is_a_bad_record_and_not_a_bad_column():
    target = make_target(NUMBERS, fit_target(NUMBERS, iter([(1, 2), ("x", 3), (2.0, float("inf")), (3, 5)])))
    for value, reason in ((("x", 1), "a number in column `a`, but is str"), ((1, float("inf")), "column `b`")):
        with pytest.raises(RecordError, match=reason):
            target.encode(value)
    assert np.isnan(target.encode((None, 2.0))).tolist() == [True, False]
    assert target.encode((2, 3))[0] == 0


@pytest.mark.parametrize(
    ("values", "reason"),
    [([(1, 2), (1, 3)], "different numbers in column `a` .* only 1"), ([(None, 2)], "column `a` .* found none")],
)
def test_a_column_of_equal_numbers_is_an_error(values, reason):
    with pytest.raises(DataError, match=reason):
        fit_target(NUMBERS, iter(values))


def test_a_group_is_its_value():
    task = RetrievalTask(task="retrieval", left=("a",), right=("b",), group="g")
    target = make_target(task, fit_target(task, iter([])))
    codes = [int(target.encode((v,))[0]) for v in ("x", "y", 1, "1", True, "x")]
    assert codes[0] == codes[-1]
    assert len(set(codes)) == 5
    assert target.encode(("x",)).dtype == target.dtype


def test_columns_of_targets_are_checked_by_task():
    tree = {
        "name": "x",
        "data": {"train": {"paths": ["x"]}},
        "fields": {n: {"modality": "text", "column": n} for n in ("a", "b")},
        "tasks": {
            "size": {"task": "regression", "columns": ["width", "height"]},
            "pair": {"task": "retrieval", "left": ["a"], "right": ["b"], "group": "g"},
            "fill": {"task": "reconstruction", "fields": ["a"]},
        },
        "train": {"steps": 1},
    }
    recipe = parse_recipe(tree)
    good = {"a": pa.string(), "b": pa.string(), "width": pa.int8(), "height": pa.float32(), "g": pa.int64()}
    check_schema(recipe.reads, pa.schema(good.items()), "shard")
    bad = good | {"height": pa.string(), "g": pa.float64()}
    with pytest.raises(DataError) as caught:
        check_schema(recipe.reads, pa.schema(bad.items()), "shard")
    assert "tasks.size: expected `height` to be a number, but it is string" in str(caught.value)
    assert "tasks.pair: expected `g` to be string, integer or boolean, but it is double" in str(caught.value)
    assert recipe.columns() == ("a", "b", "width", "height", "g")
