"""What modalities of numbers share: numbers from raw values, statistics in one pass, values in messages."""

import math
from array import array
from decimal import Decimal
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import RecordError
from interlace.modalities.columns import plain_numbers

MAX_NUMBER = float(np.finfo(np.float32).max)
MAX_Z = 1000.0
"""z-scores are clipped to +- this: a far outlier stays far, but can't overflow the model's arithmetic."""

_NUMBERS = (int, float, np.integer, np.floating, np.bool_, Decimal)


def number(value: Any, column: str) -> float:
    """The value as a float, NaN where missing. Raises RecordError."""
    if value is None:
        return math.nan
    if not isinstance(value, _NUMBERS):
        raise RecordError(f"expected a number in column `{column}`, but is {type(value).__name__} {shown(value)}")
    try:
        found = float(value)
    except (OverflowError, ValueError):
        found = math.inf
    if abs(found) > MAX_NUMBER:
        raise RecordError(f"expected a finite number of float32 size in column `{column}`, but is {shown(value)}")
    return found


Marks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Bool `[N]` twice: which values of a column are there, and which of all must be read one by one."""


def present_numbers(column: pa.Array) -> Marks | None:
    """Which numbers of a column are there, and which `number` may refuse; None for a column of another type."""
    found = plain_numbers(column)
    return None if found is None else (~np.isnan(found), np.abs(found) > MAX_NUMBER)


def numbers(values: Any, column: str) -> NDArray[np.float64]:
    """A list of numbers as float64 `[n]`, NaN where None or NaN. Raises RecordError.

    `array` takes Python's numbers at least as fast as numpy and, unlike numpy, doesn't read numbers out of strings.
    """
    values = plain_list(values, "numbers", column)
    try:
        return np.asarray(array("q", values), np.float64)  # first, as a float ends it at once; none is too large
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        found = np.asarray(array("d", values), np.float64)
    except (TypeError, ValueError, OverflowError):  # None inside, or what is no number
        return np.array([number(v, column) for v in values], np.float64)
    if (np.abs(found) > MAX_NUMBER).any():
        far = values[int(np.argmax(np.abs(found) > MAX_NUMBER))]
        raise RecordError(f"expected finite numbers of float32 size in column `{column}`, but one is {shown(far)}")
    return found


def all_present(readings: NDArray[np.float64]) -> bool:
    """Whether none of these numbers (of float32 size) is NaN, by one sum."""
    return not math.isnan(readings.sum())


def plain_list(value: Any, of: str, column: str) -> list[Any] | tuple[Any, ...]:
    """The value as a list or tuple of Python objects. Raises RecordError that it is no list of these."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise RecordError(f"expected a list of {of} in column `{column}`, but is {type(value).__name__} {shown(value)}")
    return value


def shown(value: Any) -> str:
    """The value as a message quotes it, at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


State = list[list[float]]
"""What `Moments` hold as plain JSON. For each channel: count, first reading, mean less the first, sum of squares."""


@final
class Moments:
    """Mean and standard deviation of many channels, one batch of readings at a time.

    Batches are joined by the update of Chan, Golub and LeVeque (1983). Readings are taken relative to the first of
    their channel, so that those of a constant channel deviate by exactly 0.
    """

    def __init__(self, num_channels: int = 0) -> None:
        self.counts = np.zeros(num_channels, np.int64)
        self._first = np.zeros(num_channels)
        self._means = np.zeros(num_channels)
        self._squares = np.zeros(num_channels)

    def add_rows(self, rows: NDArray[np.float64]) -> None:
        """Readings `[n, C]` of all channels, NaN where absent."""
        if not len(rows):
            return
        present = ~np.isnan(rows)
        count = present.sum(0)
        first = np.where(count > 0, rows[present.argmax(0), np.arange(rows.shape[1])], 0.0)
        away = np.where(present, rows - first, 0.0)
        mean = away.sum(0) / np.maximum(count, 1)
        squares = (np.where(present, away - mean, 0.0) ** 2).sum(0)
        self._join(np.arange(rows.shape[1]), np.stack([count, first, mean, squares]))

    def add(self, channels: NDArray[np.intp], readings: NDArray[np.float64]) -> None:
        """Readings `[n]` of channels `[n]`, in any order; the number of channels grows as needed."""
        seen, places, at = np.unique(channels, return_index=True, return_inverse=True)
        first = readings[places]
        away = readings - first[at]
        count = np.bincount(at, minlength=len(seen))
        mean = np.bincount(at, away, len(seen)) / count
        squares = np.bincount(at, (away - mean[at]) ** 2, len(seen))
        self._join(seen, np.stack([count, first, mean, squares]))

    def merge(self, channels: NDArray[np.intp], state: State) -> None:
        """The readings of a `state`, whose channels are `channels` here, each once."""
        self._join(channels, np.array(state, np.float64).reshape(-1, 4).T)

    def state(self) -> State:
        """What was added so far, for `merge`."""
        rows: State = np.stack([self.counts, self._first, self._means, self._squares], axis=1).tolist()
        return rows

    def _join(self, channels: NDArray[np.intp], more: NDArray[np.float64]) -> None:
        """Join count, first, mean and squares `[4, n]` of channels `[n]`."""
        channels, (count, first, mean, squares) = channels[more[0] > 0], more[:, more[0] > 0]
        if not len(channels):
            return
        self._grow(int(channels.max()) + 1)
        before = self.counts[channels]
        own = np.where(before > 0, self._first[channels], first)
        delta, total = mean + (first - own) - self._means[channels], before + count
        self._first[channels] = own
        self._means[channels] += delta * count / total
        self._squares[channels] += squares + delta**2 * before * count / total
        self.counts[channels] = total

    @property
    def means(self) -> NDArray[np.float64]:
        """Float64 `[C]`, 0 for a channel without readings."""
        return self._first + self._means

    @property
    def stds(self) -> NDArray[np.float64]:
        """Population standard deviation, float64 `[C]`, 1 for a channel that is constant or without readings."""
        return np.where(self._squares > 0, np.sqrt(self._squares / np.maximum(self.counts, 1)), 1.0)

    def _grow(self, size: int) -> None:
        """Room for `size` channels, doubled so that many new names cost no copy each."""
        if size > len(self.counts):
            more = max(size, 2 * len(self.counts)) - len(self.counts)
            self.counts = np.pad(self.counts, (0, more))
            self._first, self._means, self._squares = (
                np.pad(a, (0, more)) for a in (self._first, self._means, self._squares)
            )
