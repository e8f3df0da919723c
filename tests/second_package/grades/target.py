"""Grades -> their places in order."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grades.plugin import OrdinalTask
from interlace.contract.errors import DataError, RecordError
from interlace.data.index.targets import Target
from interlace.modalities.base import Fitted, Learner, Values


class GradeLearner(Learner):
    """`{"grades": [...]}`, sorted."""

    def __init__(self, task: OrdinalTask) -> None:
        self._task = task
        self._seen: Counter[int] = Counter()

    def partial(self, values: Values) -> list[int]:
        """The different grades of these rows."""
        return sorted({value for (value,) in values if isinstance(value, int)})

    def merge(self, partial: list[int]) -> None:
        """Join them."""
        self._seen.update(partial)

    def finish(self) -> Fitted:
        """All grades. Raises DataError for fewer than two."""
        if len(self._seen) < 2:
            raise DataError(f"expected two grades in column `{self._task.column}`, but found {len(self._seen)}")
        return {"grades": sorted(self._seen)}


class GradeTarget(Target):
    """The place of a grade among those of training."""

    def __init__(self, task: OrdinalTask, fitted: Fitted) -> None:
        self._task, self._places = task, {grade: i for i, grade in enumerate(fitted["grades"])}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Places are int64."""
        return np.dtype(np.int64)

    def encode(self, value: tuple[Any, ...]) -> NDArray[np.int64]:
        """Int64 `[1]`. Raises RecordError for a grade that training did not see."""
        if value[0] not in self._places:
            raise RecordError(f"expected a grade of training in `{self._task.column}`, but is {value[0]!r}")
        return np.array([self._places[value[0]]], np.int64)
