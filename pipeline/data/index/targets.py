"""Target columns -> target arrays.

In: the raw values of a task's columns. Out: int64 class indices, one for a single label, any number for several; or
standardised float32 numbers; or the int64 hash of a group; or ids of a text. What is learned of the training rows
(`target_learner`: classes, means, deviations, vocabularies) travels with the model as plain JSON.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from interlace.contract.errors import DataError, RecordError
from interlace.contract.sample import END
from interlace.modalities.base import Fitted, FixedLearner, Learner, Values
from interlace.modalities.columns import Columns, is_bool, is_text, present_rows, values_of
from interlace.modalities.numeric import Moments, number, present_numbers
from interlace.modalities.text import TextModality
from interlace.modalities.vocabulary import text_learner
from interlace.recipe.plugins import Found, Joined
from interlace.recipe.tasks import AnyTask, ClassificationTask, GenerationTask, RegressionTask, RetrievalTask

_SHOWN = 8


class Target(ABC):
    """How one task's raw value becomes numbers. `value` is the tuple of the target's columns, never all null."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the encoded numbers, also of an empty array."""

    @abstractmethod
    def encode(self, value: tuple[Any, ...]) -> NDArray[Any]:
        """The value as a flat array. Raises RecordError."""

    def refused(self, columns: Columns) -> dict[int, str]:
        """By row of the target's columns why `encode` refuses it; rows that are wholly null are not asked."""
        return _refused_each(self, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """The part of the fitted state that refusals (and what CTC needs) depend on."""
        return fitted


@final
class ClassTarget(Target):
    """Index of the label among the training classes, or of each label of a list."""

    def __init__(self, task: ClassificationTask, fitted: Fitted) -> None:
        self.classes: tuple[str | int, ...] = tuple(fitted["classes"])
        self._task = task
        self._index = {label: i for i, label in enumerate(self.classes)}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Class indices are int64."""
        return np.dtype(np.int64)

    def encode(self, value: tuple[Any, ...]) -> NDArray[np.int64]:
        """Class indices, int64 `[1]`; with `multi_label` `[n]`, sorted, each once, n = 0 for an empty list.

        Raises:
            RecordError: a label that training did not see, or a value of another type.
        """
        try:
            labels = _labels(self._task, value[0])
        except DataError as error:
            raise RecordError(str(error)) from error
        unseen = [label for label in labels if label not in self._index]
        if unseen:
            raise RecordError(
                f"expected a label seen in training in column `{self._task.column}` ({_listed(self.classes)}),"
                f" but is {unseen[0]!r}"
            )
        return np.array(sorted({self._index[label] for label in labels}), np.int64)

    def refused(self, columns: Columns) -> dict[int, str]:
        """Each distinct label is asked once; lists are asked row by row."""
        (column,) = columns
        if not (is_text(column) or pa.types.is_integer(column.type) or is_bool(column)):
            return _refused_each(self, columns)
        distinct = column.dictionary_encode()
        reasons = _refused_each(self, (distinct.dictionary,))
        at = distinct.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(np.isin(at, list(reasons)))
        return {int(row): reasons[int(at[row])] for row in rows}

    def measured_by(self, fitted: Fitted) -> Fitted:
        """Which classes there are."""
        return {"classes": fitted["classes"]}


@final
class ClassLearner(Learner):
    """The classes of a label column: `{"classes": [...], "counts": [...]}`, sorted, counts of the samples with each."""

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task
        self._counts: Counter[str | int] = Counter()

    def partial(self, values: Values) -> dict[str, Any]:
        """Labels with their counts; and why the column can't be used, if a value's type tells so."""
        counts: Counter[str | int] = Counter()
        for (value,) in values:
            if isinstance(value, list):  # `encode` refuses a list with nulls: one bad record, not a bad column
                value = [item for item in value if item is not None]
            try:
                counts.update(set(_labels(self._task, value)))
            except DataError as error:
                return {"counts": [], "error": str(error)}
        return {"counts": list(counts.items()), "error": None}

    def merge(self, partial: dict[str, Any]) -> None:
        """Add the counts. Raises DataError for labels that are neither strings nor integers nor booleans."""
        if partial["error"] is not None:
            raise DataError(partial["error"])
        self._counts.update(dict(partial["counts"]))

    def finish(self) -> Fitted:
        """The classes. Raises DataError for labels of two types, or fewer than 2 classes."""
        counts, column = self._counts, self._task.column
        kinds = sorted({type(label).__name__ for label in counts})
        if len(kinds) > 1:
            raise DataError(f"expected labels of one type in column `{column}`, but found {' and '.join(kinds)}")
        if len(counts) < 2:
            found = f"only {next(iter(counts))!r}" if counts else "none"
            raise DataError(f"expected at least 2 classes in column `{column}` of the training rows, but found {found}")
        classes = sorted(counts)
        return {"classes": classes, "counts": [counts[c] for c in classes]}


@final
class NumberTarget(Target):
    """One number for each column, relative to the mean and in standard deviations of the training rows."""

    def __init__(self, task: RegressionTask, fitted: Fitted) -> None:
        self.columns = task.columns
        self._means, self._stds = np.array(fitted["means"]), np.array(fitted["stds"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Standardised numbers are float32."""
        return np.dtype(np.float32)

    def encode(self, value: tuple[Any, ...]) -> NDArray[np.float32]:
        """Float32 `[K]` in the order of the columns, NaN where missing.

        Raises:
            RecordError: a value that is no number of float32 size.
        """
        raw = np.array([number(v, c) for v, c in zip(value, self.columns, strict=True)])
        standard: NDArray[np.float32] = ((raw - self._means) / self._stds).astype(np.float32)
        return standard

    def refused(self, columns: Columns) -> dict[int, str]:
        """Numbers beyond float32; other types are asked row by row."""
        marks = [present_numbers(column) for column in columns]
        if any(one is None for one in marks):
            return _refused_each(self, columns)
        return _refused_each(self, columns, np.logical_or.reduce([one[1] for one in marks if one is not None]))

    def measured_by(self, fitted: Fitted) -> Fitted:
        """Nothing."""
        return {}


@final
class NumberLearner(Learner):
    """`{"means", "stds", "lows", "highs"}` of columns of numbers; deviations are those of the population."""

    def __init__(self, task: RegressionTask) -> None:
        self._columns = task.columns
        self._moments = Moments(len(task.columns))
        self._lows, self._highs = np.full(len(task.columns), np.inf), np.full(len(task.columns), -np.inf)

    def partial(self, values: Values) -> dict[str, Any]:
        """Moments and bounds of these rows, null where a column has no number."""
        rows = [[_number_or_nan(v, c) for v, c in zip(value, self._columns, strict=True)] for value in values]
        table = np.array(rows, np.float64).reshape(-1, len(self._columns))
        moments = Moments(len(self._columns))
        moments.add_rows(table)
        bounds = [f.reduce(table, axis=0, initial=math.nan).tolist() for f in (np.fmin, np.fmax)]
        lows, highs = ([None if math.isnan(v) else v for v in bound] for bound in bounds)
        return {"moments": moments.state(), "lows": lows, "highs": highs}

    def merge(self, partial: dict[str, Any]) -> None:
        """Join moments and bounds."""
        self._moments.merge(np.arange(len(self._columns)), partial["moments"])
        self._lows = np.fmin(self._lows, np.array(partial["lows"], np.float64))
        self._highs = np.fmax(self._highs, np.array(partial["highs"], np.float64))

    def finish(self) -> Fitted:
        """The statistics. Raises DataError for a column that holds no two different numbers."""
        for column, low, high in zip(self._columns, self._lows.tolist(), self._highs.tolist(), strict=True):
            if not low < high:
                found = "none" if low > high else f"only {low:g}"
                raise DataError(
                    f"expected different numbers in column `{column}` of the training rows, but found {found}"
                )
        means, stds = self._moments.means.tolist(), self._moments.stds.tolist()
        return {"means": means, "stds": stds, "lows": self._lows.tolist(), "highs": self._highs.tolist()}


def _number_or_nan(value: Any, column: str) -> float:
    """What is no number counts as missing here; the index lists its record as bad."""
    try:
        return number(value, column)
    except RecordError:
        return math.nan


@final
class GroupTarget(Target):
    """The group of a sample as the xxh3 hash of its value; a number and its text are different groups.

    A group is told from others by its value alone: nothing is learned.
    """

    def __init__(self, task: RetrievalTask, fitted: Fitted) -> None:
        pass

    @property
    def dtype(self) -> np.dtype[Any]:
        """Hashes are int64."""
        return np.dtype(np.int64)

    def encode(self, value: tuple[Any, ...]) -> NDArray[np.int64]:
        """Int64 `[1]`."""
        return np.array([xxhash.xxh3_64_intdigest(repr(value[0]).encode())], np.uint64).view(np.int64)

    def refused(self, columns: Columns) -> dict[int, str]:
        """None: any value names a group."""
        return {}

    def measured_by(self, fitted: Fitted) -> Fitted:
        """Nothing."""
        return {}


@final
class TextTarget(Target):
    """Ids of the text as its tokenizer gives them, then `END` where the text was not cut."""

    def __init__(self, task: GenerationTask, fitted: Fitted) -> None:
        self._text = TextModality(task.column, task.text, fitted)
        self._limit = task.max_tokens
        self.ctc_field = task.ctc_field

    @property
    def dtype(self) -> np.dtype[Any]:
        """Ids are int64."""
        return np.dtype(np.int64)

    def encode(self, value: tuple[Any, ...]) -> NDArray[np.int64]:
        """Ids, int64 `[n]`; an empty text is `END` alone. Raises RecordError."""
        ids = self._text.decode(value).astype(np.int64)
        whole = self._text.measure(value)[0] <= self._limit
        return np.append(ids, END) if whole and ids[-1] != END else ids

    def refused(self, columns: Columns) -> dict[int, str]:
        """None of a column of strings."""
        return {} if is_text(columns[0]) else _refused_each(self, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """The tokenizer where CTC must spell the text, else nothing."""
        return fitted if self.ctc_field is not None else {}


def _refused_each(target: Target, columns: Columns, asked: NDArray[np.bool_] | None = None) -> dict[int, str]:
    """Encode rows (of those `asked`) one by one to find what is refused."""
    present = present_rows(columns) if asked is None else present_rows(columns) & asked
    rows = np.flatnonzero(present)
    reasons: dict[int, str] = {}
    for row, value in zip(rows.tolist(), values_of(columns, rows), strict=True):
        try:
            target.encode(value)
        except RecordError as error:
            reasons[row] = str(error)
    return reasons


def ctc_tokens(ids: NDArray[Any]) -> int:
    """Tokens of a field that CTC needs to spell a text: one for each id, one more between two that are equal."""
    spelled = ids[ids != END]
    return len(spelled) + int(np.count_nonzero(spelled[1:] == spelled[:-1]))


def _text_target_learner(task: GenerationTask) -> Learner:
    return text_learner(task.text)


def _nothing(task: AnyTask) -> Learner:
    return FixedLearner({})


Parts = tuple[Callable[[Any], Learner], Callable[[Any, Fitted], Target]]


def _parts(found: Found) -> Parts:
    learner = found.part(found.plugin.target_learner) if found.plugin.target_learner else _nothing
    return learner, found.part(found.plugin.target)


TARGETS: Mapping[str, Parts] = Joined(
    "tasks",
    {
        "classification": (ClassLearner, ClassTarget),
        "regression": (NumberLearner, NumberTarget),
        "retrieval": (_nothing, GroupTarget),
        "generation": (_text_target_learner, TextTarget),
    },
    _parts,
)
"""`task` of a task's settings -> what learns for its target, how to make it."""


def target_learner(task: AnyTask) -> Learner:
    """What learns for a target: its values are those of the task's columns."""
    return TARGETS[task.task][0](task)


def make_target(task: AnyTask, fitted: Fitted) -> Target:
    """The target of one task from what its learner gave, possibly after a round trip through JSON."""
    return TARGETS[task.task][1](task, fitted)


def _labels(task: ClassificationTask, value: Any) -> list[str | int]:
    """The labels of a raw value. Raises DataError where its type is wrong."""
    if not task.multi_label:
        return [label_of(task, value)]
    if not isinstance(value, list | tuple | np.ndarray):
        raise DataError(
            f"expected a list of labels in column `{task.column}` (`multi_label` is on), but is {type(value).__name__}"
        )
    return [label_of(task, item) for item in value]


def label_of(task: ClassificationTask, value: Any) -> str | int:
    """The label of a raw value as classes have it: booleans are 0 and 1. Raises DataError where its type is wrong."""
    if isinstance(value, str):
        return str(value)  # also of numpy's kind
    if isinstance(value, int | np.integer | np.bool_):
        return int(value)
    hint = "; for lists set `multi_label: true`" if isinstance(value, list | tuple | np.ndarray) else ""
    raise DataError(
        f"expected a string, an integer or a boolean as label in column `{task.column}`,"
        f" but is {type(value).__name__}{hint}"
    )


def _listed(classes: Sequence[str | int]) -> str:
    shown = ", ".join(repr(c) for c in classes[:_SHOWN])
    return shown if len(classes) <= _SHOWN else f"{shown}, ... {len(classes)} in all"
