"""Columns of one table row -> one token for each value that is present.

Numbers become patches float32 `[n, 2 * C]`: the z-score at the value's column, and 1 at C + column, so that a token
says which column it is. Dates become days and patches of their own (see `dates`), categories ids with a range of
their own for each column. A missing value (None or NaN) is no token: nothing is imputed. Extent: (number of present
values, 0).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Learner, Modality, Values
from interlace.modalities.columns import (
    Columns,
    Measured,
    is_text,
    measure_each,
    measure_rows,
    missing_extents,
    plain_numbers,
    present_rows,
    valid,
)
from interlace.modalities.dates import NUM_FEATURES, date_patches, date_word, days_of, present_dates
from interlace.modalities.numeric import MAX_Z, Marks, Moments, State, number, present_numbers, shown
from interlace.recipe.fields import TableField


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnKind:
    """What columns hold that are read as one number each.

    Args:
        read: a raw value of a column as a number, NaN where missing; raises RecordError.
        present: of a column which values are there, and which must be looked at by `read`; None for all of them.
        per_column, beside: a patch has `per_column * C + beside` numbers, C being the number of columns.
        patches: numbers `[n]`, their columns `[n]`, their z-scores `[n]` and C -> patches `[n, patch_dim]`.
        word: a number as a person reads it.
    """

    read: Callable[[Any, str], float]
    present: Callable[[pa.Array], Marks | None]
    per_column: int
    beside: int
    patches: Callable[[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64], int], NDArray[Any]]
    word: Callable[[float], str]


def number_patches(
    numbers: NDArray[np.float64], columns: NDArray[np.intp], scores: NDArray[np.float64], width: int
) -> NDArray[Any]:
    """Patches `[n, 2 * C]` of numbers `[n]` in these columns of `width`, with their z-scores."""
    rows, patches = np.arange(len(numbers)), np.zeros((len(numbers), 2 * width))
    patches[rows, columns] = scores
    patches[rows, columns + width] = 1.0
    return patches


NUMBERS = ColumnKind(
    read=number, present=present_numbers, per_column=2, beside=0, patches=number_patches, word="{:g}".format
)
DATES = ColumnKind(
    read=days_of, present=present_dates, per_column=1, beside=NUM_FEATURES, patches=date_patches, word=date_word
)


def table_learner(field: TableField) -> Learner:
    """What learns what the columns hold in the training rows.

    The state of numbers is `{"means": [C], "stds": [C]}`, population standard deviation, 1 for a constant or empty
    column; of dates the same of days since 1970; of categories `{"categories": [C lists]}`, most frequent first, at
    most `max_categories` each.
    """
    if field.categories:
        return _Categories(field)
    return _Moments(field.dates, DATES) if field.dates else _Moments(field.numbers, NUMBERS)


def make_table(name: str, field: TableField, fitted: Fitted) -> Modality:
    """The modality of a field of numbers, of categories or of dates."""
    if field.categories:
        return CategoriesModality(name, field, fitted)
    if field.dates:
        return NumbersModality(name, field.dates, DATES, fitted)
    return NumbersModality(name, field.numbers, NUMBERS, fitted)


@final
class NumbersModality(Modality):
    """Columns of numbers or dates, standardised by the training rows."""

    varies = False

    def __init__(self, name: str, columns: tuple[str, ...], kind: ColumnKind, fitted: Fitted) -> None:
        self._columns = columns
        self._kind = kind
        self._means = np.array(fitted["means"], np.float64)
        self._stds = np.array(fitted["stds"], np.float64)
        dim = kind.per_column * len(columns) + kind.beside
        self._spec = FieldSpec(name=name, kind="patches", patch_dim=dim, max_grid=(len(columns), 1))

    @property
    def spec(self) -> FieldSpec:
        """Patches of 2 C numbers, of dates C + 7."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """How many values are present. Raises RecordError."""
        return int(np.count_nonzero(~np.isnan(self.decode(value)))), 0

    def measure_column(self, columns: Columns) -> Measured:
        """How many values of each row are present; columns of other types than numbers value by value."""
        read = [self._kind.present(column) for column in columns]
        if any(one is None for one in read):
            return measure_each(self.measure, columns)
        return _count_present(self.measure, columns, [one for one in read if one is not None])

    def measured_by(self, fitted: Fitted) -> Fitted:
        """Nothing: what is there is there, whatever the statistics."""
        return {}

    def grid(self, extent: Extent) -> tuple[int, int]:
        """One column of as many tokens."""
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.float64]:
        """The numbers (of dates days since 1970), float64 `[C]`, NaN where missing. Raises RecordError."""
        return np.array([self._kind.read(v, c) for v, c in zip(value, self._columns, strict=True)], np.float64)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Unchanged: tables have no augmentation."""
        return decoded

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """Patches float32 of the values that are present."""
        columns = np.flatnonzero(~np.isnan(decoded))
        scores = np.minimum(np.maximum((decoded[columns] - self._means[columns]) / self._stds[columns], -MAX_Z), MAX_Z)
        values = self._kind.patches(decoded[columns], columns, scores, len(self._columns))
        return Tokens(values=values.astype(np.float32), grid=(len(columns), 1))

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """`column = value` of the values that are present."""
        pairs = zip(self._columns, decoded.tolist(), strict=True)
        return tuple(f"{column} = {self._kind.word(x)}" for column, x in pairs if not math.isnan(x))


@final
class CategoriesModality(Modality):
    """Columns of categories. Ids of a column: first its `unknown`, then its fitted categories."""

    varies = False

    def __init__(self, name: str, field: TableField, fitted: Fitted) -> None:
        self._columns = field.categories
        self._unknown: list[int] = []
        self._ids: list[dict[str | int, int]] = []
        self._words: list[str | None] = []
        size = 0
        for column, known in zip(self._columns, fitted["categories"], strict=True):
            self._unknown.append(size)
            self._ids.append({category: size + 1 + i for i, category in enumerate(known)})
            self._words += [None, *(f"{column} = {category}" for category in known)]
            size += 1 + len(known)
        self._spec = FieldSpec(name=name, kind="ids", vocab_size=size, max_grid=(len(self._columns), 1))

    @property
    def spec(self) -> FieldSpec:
        """Ids of all columns."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """How many values are present. Raises RecordError."""
        return len(self.decode(value)), 0

    def measure_column(self, columns: Columns) -> Measured:
        """How many values of each row are present; columns of other types than these value by value."""
        read = [_present_categories(column) for column in columns]
        if any(one is None for one in read):
            return measure_each(self.measure, columns)
        return _count_present(self.measure, columns, [one for one in read if one is not None])

    def measured_by(self, fitted: Fitted) -> Fitted:
        """Nothing: a category that is not known is a token too."""
        return {}

    def grid(self, extent: Extent) -> tuple[int, int]:
        """One column of as many tokens."""
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.int32]:
        """Ids of the values that are present, int32 `[n]`. Raises RecordError."""
        row = zip(value, self._columns, self._ids, self._unknown, strict=True)
        found = [(_category(v, column), ids, unknown) for v, column, ids, unknown in row]
        return np.array([ids.get(c, unknown) for c, ids, unknown in found if c is not None], np.int32)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Unchanged: tables have no augmentation."""
        return decoded

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """The ids themselves."""
        return Tokens(values=decoded, grid=(len(decoded), 1))

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """`column = category` of the values that are present."""
        return tuple(self._words[i] for i in decoded.tolist())


@final
class _Moments(Learner):
    """Mean and deviation of each column."""

    def __init__(self, columns: tuple[str, ...], kind: ColumnKind) -> None:
        self._columns = columns
        self._kind = kind
        self._moments = Moments(len(columns))

    def partial(self, values: Values) -> State:
        moments = Moments(len(self._columns))
        rows = np.array([[self._number(v, c) for v, c in zip(row, self._columns, strict=True)] for row in values])
        moments.add_rows(rows.reshape(-1, len(self._columns)))
        return moments.state()

    def _number(self, value: Any, column: str) -> float:
        try:
            return self._kind.read(value, column)
        except RecordError:
            return math.nan

    def merge(self, partial: State) -> None:
        self._moments.merge(np.arange(len(self._columns)), partial)

    def finish(self) -> Fitted:
        return {"means": self._moments.means.tolist(), "stds": self._moments.stds.tolist()}


@final
class _Categories(Learner):
    """Counts of the distinct values of each column, cut to the most frequent; ties go by type and value."""

    def __init__(self, field: TableField) -> None:
        self._field = field
        self._counts: list[Counter[str | int]] = [Counter() for _ in field.categories]

    def partial(self, values: Values) -> list[list[tuple[str | int, int]]]:
        counts: list[Counter[str | int]] = [Counter() for _ in self._counts]
        for value in values:
            for raw, column, counter in zip(value, self._field.categories, counts, strict=True):
                try:
                    category = _category(raw, column)
                except RecordError:
                    continue
                if category is not None:
                    counter[category] += 1
        return [list(c.items()) for c in counts]

    def merge(self, partial: list[list[tuple[str | int, int]]]) -> None:
        for total, more in zip(self._counts, partial, strict=True):
            total.update(dict(more))

    def finish(self) -> Fitted:
        ranked = [sorted(c, key=lambda k, c=c: (-c[k], isinstance(k, str), k)) for c in self._counts]  # type: ignore[misc]
        return {"categories": [r[: self._field.max_categories] for r in ranked]}


def _count_present(measure: Callable[[tuple[Any, ...]], Extent], columns: Columns, marks: Sequence[Marks]) -> Measured:
    """Extents of rows by the marks of their columns; rows with a doubtful value are measured."""
    there = present_rows(columns)
    doubtful = np.logical_or.reduce([m[1] for m in marks]) & there
    extents = missing_extents(len(there))
    extents[there, 0] = np.stack([m[0] for m in marks], axis=1)[there].sum(axis=1)
    extents[there, 1] = 0
    return extents, measure_rows(measure, columns, np.flatnonzero(doubtful), extents)


def _present_categories(column: pa.Array) -> Marks | None:
    """Which categories of a column are there, and which must be looked at; None for all of them."""
    kind = column.type
    if is_text(column) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return valid(column), np.zeros(len(column), np.bool_)
    numbers = plain_numbers(column)
    if numbers is None:
        return None
    present = ~np.isnan(numbers)
    return present, present & (numbers != np.floor(numbers)) | np.isinf(numbers)


def _category(value: Any, column: str) -> str | int | None:
    """The value as a string or an integer, None where missing.

    Whole floats are taken as integers: that is what pandas makes of integers beside missing values.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return str(value)  # also of numpy's kind
    if isinstance(value, int | np.integer | np.bool_):
        return int(value)
    if isinstance(value, float | np.floating) and math.isnan(value):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)
    raise RecordError(
        f"expected a string, an integer or a boolean in column `{column}`, but is {type(value).__name__} {shown(value)}"
    )
