"""Laws of label columns."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.targets import ClassTarget, Target, make_target
from pipeline.errors import DataError, RecordError
from pipeline.recipe import ClassificationTask
from tests.fitting import fit_target

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
