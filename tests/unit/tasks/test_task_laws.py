"""The laws that the kit offers to other packages hold for every task, and a task that breaks one is found."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interlace.recipe import tasks as recipe
from interlace.tasks import TASKS
from interlace.tasks.laws import Draw, check_task, small_model
from interlace.tasks.regression import RegressionTask

NUMBERS = {"means": [1.0], "stds": [2.0], "lows": [-4.0], "highs": [6.0]}
CLASSES = {"classes": ["a", "b", "c"], "counts": [3, 2, 1]}


def class_of(rng: np.random.Generator) -> Any:
    return rng.integers(0, 3, 1)


def classes_of(rng: np.random.Generator) -> Any:
    return np.flatnonzero(rng.random(3) < 0.5)


def number_of(rng: np.random.Generator) -> Any:
    return rng.normal(size=1).astype(np.float32)


def text_of(rng: np.random.Generator) -> Any:
    return np.append(rng.integers(3, 259, int(rng.integers(1, 5))), 2)


CASES: dict[str, tuple[Any, dict[str, Any], Draw | None, bool]] = {
    "classification": (recipe.ClassificationTask(task="classification", column="c"), CLASSES, class_of, True),
    "several labels": (
        recipe.ClassificationTask(task="classification", column="c", multi_label=True), CLASSES, classes_of, True,
    ),
    "regression": (recipe.RegressionTask(task="regression", columns=("n",)), NUMBERS, number_of, True),
    "retrieval": (recipe.RetrievalTask(task="retrieval", left=("words",), right=("numbers",)), {}, None, False),
    "reconstruction": (recipe.ReconstructionTask(task="reconstruction", fields=("numbers",)), {}, None, False),
    "generation": (recipe.GenerationTask(task="generation", column="t", layers=1), {}, text_of, True),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_task_keeps_the_laws_of_the_kit(case: str) -> None:
    settings, fitted, draw, apart = CASES[case]
    task = check_task(settings, fitted, draw, apart=apart)
    assert isinstance(task, TASKS[settings.task])  # type: ignore[arg-type]
    assert {settings.task for settings, *_ in CASES.values()} == set(TASKS)


def test_a_task_keeps_the_laws_where_each_field_decides() -> None:
    settings, fitted, draw, _ = CASES["classification"]
    assert check_task(settings, fitted, draw, model=small_model(fusion="decision")).main_metric == "accuracy"


class Averaging(RegressionTask):
    """A mean where a sum belongs."""

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return super().loss(outputs, batch) / max(self.count(batch), 1)


class Counting(RegressionTask):
    """A count of samples, with or without a target."""

    def count(self, batch: Any) -> int:
        return int(batch.num_samples)


class Numbered(RegressionTask):
    """Tensors as predictions."""

    def predict(self, outputs: Any) -> list[dict[str, Any]]:
        return [{"": torch.tensor(row[""])} for row in super().predict(outputs)]


class Averaged(RegressionTask):
    """A state that does not tell when nothing was seen."""

    def compute(self, state: Any) -> dict[str, float]:
        return {name: 0.0 if value != value else value for name, value in super().compute(state).items()}


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Averaging, "losses that add"),
        (Counting, "no loss of samples without target|counts that add|the count 0 without targets"),
        (Numbered, "not JSON serializable"),
        (Averaged, "nan without targets"),
    ],
)
def test_a_task_that_breaks_a_law_is_found(broken: Any, law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, fitted, draw, _ = CASES["regression"]
    monkeypatch.setattr("interlace.tasks.laws.TASKS", {"regression": broken})
    with pytest.raises((AssertionError, TypeError), match=law):
        check_task(settings, fitted, draw)
