"""The laws that the kit offers to other packages hold for every modality, and one that breaks them is found."""

import json
from typing import Any

import numpy as np
import pytest

from interlace import modalities
from interlace.contract.sample import FieldSpec, Tokens
from interlace.data.index.laws import check_target
from interlace.modalities.base import Fitted, FixedLearner, Learner, Modality, Values
from interlace.modalities.columns import Columns, Measured, measure_each
from interlace.modalities.laws import check_learning, check_modality, check_refused, check_value
from interlace.recipe.fields import AnyField, AudioField, ImageField, SeriesField, TableField, TextField
from interlace.recipe.tasks import AnyTask, ClassificationTask, GenerationTask, RegressionTask, RetrievalTask
from tests.bedside import encode
from tests.data import png

COLORS = ((200, 20, 20), (20, 20, 200))
PICTURES = [(png(np.random.default_rng(i), COLORS[i % 2], side),) for i, side in enumerate((9, 24, 40))]
SOUNDS = [(encode(np.random.default_rng(n).uniform(-0.5, 0.5, n)),) for n in (900, 4000)]
IMAGE = ImageField(modality="image", column="c", max_size=24, flip=True, rotate_degrees=20, color=0.2, shift=0.1)
READINGS = [([1, 2], ["a", "b"], [2.5, 3]), ([0], ["a"], [1]), ([0, 9], ["b", "b"], [1, -4])]

FIELDS: list[tuple[AnyField, list[Any], list[Any]]] = [
    (IMAGE, PICTURES, [(b"no picture",)]),
    (AudioField(modality="audio", column="c", rate_hz=8000, gain_db=6, noise_db=-20), SOUNDS, [(b"no sound",)]),
    (TextField(modality="text", column="c", word_swap=0.5), [("some text",), ("",), ("狗",)], [(7,)]),
    (TextField(modality="text", column="c", tokenizer="characters"), [("some text",), ("",), ("狗",)], [(7,)]),
    (TextField(modality="text", column="c", tokenizer="ngrams"), [("some text",), ("and more text",)], [(7,)]),
    (TextField(modality="text", column="c", tokenizer="bpe", vocab_size=300), [("some text",), ("more",)], [(7,)]),
    (TableField(modality="table", numbers=("a", "b")), [(1.5, None), (0.1, 7), (0.2, 3)], [("x", None)]),
    (TableField(modality="table", categories=("a", "b")), [("x", None), ("y", 7), ("x", True)], [([1], None)]),
    (TableField(modality="table", dates=("a",)), [("2024-02-29",), ("1999-01-01",)], [("never",)]),
    (SeriesField(modality="series", channels=("a", "b"), jitter=0.1), [([1.5, None], [2, 3]), ([0.1], None)], [(1, 2)]),
    (SeriesField(modality="series", column="a", scale=0.2), [([[1.5, None], [2, 3]],), ([[0.1, 2]],)], [(1,)]),
    (SeriesField(modality="series", time="t", channel="c", value="v"), READINGS, [([1], ["a"], 3)]),
]


@pytest.mark.parametrize(("field", "values", "refused"), FIELDS)
def test_every_modality_keeps_the_laws_of_the_kit(field: AnyField, values: list[Any], refused: list[Any]) -> None:
    made = check_modality(field, values, refused)
    assert made.spec.name == "f"
    assert {f.modality for f, *_ in FIELDS} == set(modalities.MODALITIES)


TASKS: list[tuple[AnyTask, list[Any], list[Any]]] = [
    (ClassificationTask(task="classification", column="c"), [("x",), ("y",), ("x",)], []),
    (ClassificationTask(task="classification", column="c", multi_label=True), [(["x"],), ([],), (["y", "x"],)], []),
    (RegressionTask(task="regression", columns=("a", "b")), [(1.0, None), (2, 5), (None, 0.5)], [("x", None)]),
    (RetrievalTask(task="retrieval", left=("a",), right=("b",), group="g"), [("x",), (7,)], []),
    (GenerationTask(task="generation", column="t", tokenizer="characters"), [("some",), ("text",)], [(7,)]),
]


@pytest.mark.parametrize(("task", "values", "refused"), TASKS)
def test_every_target_keeps_the_laws_of_the_kit(task: AnyTask, values: list[Any], refused: list[Any]) -> None:
    target = check_target(task, values, refused)
    assert target.encode(values[0]).dtype == target.dtype


class Word(Modality):
    """The length of a text as one token, in steps of ten; each subclass breaks a law."""

    @property
    def spec(self) -> FieldSpec:
        return FieldSpec(name="f", kind="ids", vocab_size=10)

    def measure(self, value: tuple[Any, ...]) -> tuple[int, int]:
        return 1, 0

    def measure_column(self, columns: Columns) -> Measured:
        return measure_each(self.measure, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        return fitted

    def grid(self, extent: tuple[int, int]) -> tuple[int, int]:
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> Any:
        return np.array([len(value[0]) // 10], np.int32)

    def augment(self, decoded: Any, rng: np.random.Generator) -> Any:
        return decoded

    def encode(self, decoded: Any) -> Tokens:
        return Tokens(values=decoded, grid=(len(decoded), 1))

    def token_texts(self, decoded: Any) -> tuple[str | None, ...]:
        return tuple(map(str, decoded.tolist()))


class Longer(Word):
    def measure(self, value: tuple[Any, ...]) -> tuple[int, int]:
        return 2, 0


class Restless(Word):
    def augment(self, decoded: Any, rng: np.random.Generator) -> Any:
        return np.array([np.random.default_rng().integers(10_000) % 10_000], np.int32)  # not by `rng`


class Spoiling(Word):
    def augment(self, decoded: Any, rng: np.random.Generator) -> Any:
        decoded += 1
        return decoded


class Pretending(Word):
    varies = False

    def augment(self, decoded: Any, rng: np.random.Generator) -> Any:
        return (decoded + 1) % 10


class Wide(Word):
    def encode(self, decoded: Any) -> Tokens:
        return Tokens(values=decoded.astype(np.int64), grid=(1, 1))


class Speechless(Word):
    def token_texts(self, decoded: Any) -> tuple[str | None, ...]:
        return "a", "b"


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Longer, "expected the grid"),
        (Restless, "follow `rng` alone"),
        (Spoiling, "leave what was decoded"),
        (Pretending, "change nothing, as `varies` says"),
        (Wide, "ids in int32"),
        (Speechless, "a word for each"),
    ],
)
def test_a_modality_that_breaks_a_law_is_found(broken: type[Word], law: str) -> None:
    assert check_value(Word(), ("a text",)).values.tolist() == [0]
    with pytest.raises(AssertionError, match=law):
        check_value(broken(), ("a text",))


def test_a_value_that_is_taken_instead_of_refused_is_found() -> None:
    with pytest.raises(AssertionError, match="to be refused"):
        check_refused(Word(), ("fine",))
    with pytest.raises(AssertionError, match="ids from 0 to below"):
        check_value(Word(), ("x" * 500,))


class Last(Learner):
    """Keeps the last value: what is learned follows the cuts; in `keen` mode a partial also counts here."""

    def __init__(self, keen: bool = False) -> None:
        self.count, self.keen = 0, keen

    def partial(self, values: Values) -> Any:
        found = len(list(values))
        self.count += found if self.keen else 0
        return found

    def merge(self, partial: Any) -> None:
        self.count = self.count + partial if self.keen else partial

    def finish(self) -> Fitted:
        return {"count": self.count}


def test_learning_that_follows_the_cuts_or_counts_twice_is_found() -> None:
    values = [("a",), ("b",), ("c",)]
    with pytest.raises(AssertionError, match="cut before row 1"):
        check_learning(Last, values)
    with pytest.raises(AssertionError, match="`partial` to change nothing"):
        check_learning(lambda: Last(keen=True), values)
    with pytest.raises(AssertionError, match="plain JSON"):
        check_learning(lambda: FixedLearner({"pair": (1, 2)}), values)
    assert check_learning(lambda: FixedLearner({"a": 1}), values) == json.loads('{"a": 1}')
