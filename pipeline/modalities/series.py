"""Sensor readings over time -> windows, one token for each window that holds a reading.

In, regular: lists of one length, one a channel, or one list of rows `[n, C]`. Out: patches float32 `[n, 2 * W * C]` for
windows of W readings: z-scores `[W, C]` (0 where a reading is absent), then 1 where it is present `[W, C]`.
In, irregular: see `interlace.modalities.irregular`.

None and NaN are absent readings, and so is all that a window lacks at the end of a series: nothing is imputed, and a
window without any reading is no token. Worked example: 5 readings at 2 Hz in windows of 1 s are 3 tokens at 0.5, 1.5
and 2.5 s, or 2 tokens at 0.5 and 2.5 s where the third and fourth reading are absent.

Extent: (tokens, readings) of the part that is kept.
"""

from itertools import chain
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import DataError, RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Learner, Modality, Values
from interlace.modalities.columns import (
    Columns,
    Measured,
    is_list,
    measure_rows,
    missing_extents,
    offsets_of,
    plain_numbers,
    present_rows,
    sums_within,
    valid,
)
from interlace.modalities.irregular import MAX_PATCH, MAX_TIME_S, IrregularLearner, IrregularSeries, check_windows
from interlace.modalities.numeric import MAX_NUMBER, MAX_Z, Moments, State, all_present, numbers, plain_list
from interlace.recipe.fields import SeriesField


def series_learner(field: SeriesField) -> Learner:
    """What learns statistics of the readings that are kept.

    The state is `{"means": [C], "stds": [C]}`, population standard deviation, 1 for a constant or empty channel;
    irregular also `{"channels": [C]}`, names, most frequent first. Rows of a `column` are as wide as most of the
    readings say.

    Raises:
        DataError: windows of the settings are too many or too large.
    """
    return IrregularLearner(field) if field.time else _Regular(field)


def make_series(name: str, field: SeriesField, fitted: Fitted) -> Modality:
    """The modality of regular or irregular readings. Raises DataError for settings that can't be followed."""
    return IrregularSeries(name, field, fitted) if field.time else RegularSeries(name, field, fitted)


@final
class RegularSeries(Modality):
    """Readings at a constant rate."""

    def __init__(self, name: str, field: SeriesField, fitted: Fitted) -> None:
        self._field = field
        self._window, self._most, windows = _windows(field)
        self._means = np.array(fitted["means"], np.float64)
        self._stds = np.array(fitted["stds"], np.float64)
        self._width = len(self._means)
        size = 2 * self._window * self._width
        if size > MAX_PATCH:
            raise DataError(
                f"`window_s`: expected at most {MAX_PATCH:,} numbers in a patch, but {self._window:,} readings of"
                f" {self._width:,} channels are {size:,}"
            )
        if field.shift and round(field.shift * self._window) == 0:
            raise DataError(
                f"`shift`: expected to move windows by a reading or more, but {field.shift} of a window of"
                f" {self._window} readings is less"
            )
        self._spec = FieldSpec(name=name, kind="patches", patch_dim=size, max_grid=(windows, 1), clocked=True)

    @property
    def spec(self) -> FieldSpec:
        """Clocked patches of 2 W C numbers."""
        return self._spec

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return self._field.channels or tuple(f"{self._field.column}[{i}]" for i in range(self._width))

    @property
    def window_s(self) -> float:
        """Seconds in a window."""
        return self._window / self._field.rate_hz

    def readings(self, decoded: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Decoded windows as a line: times in seconds `[m]` at the constant rate, readings `[m, C]`, NaN if absent."""
        if not len(decoded):
            return np.zeros(0), np.zeros((0, self._width))
        places = self._places(decoded)
        line = np.full((places[-1] + 1, self._window * self._width), np.nan)
        line[places] = decoded[:, 1:]
        readings = line.reshape(-1, self._width)
        return decoded[0, 0] + (np.arange(len(readings)) - self._window / 2) / self._field.rate_hz, readings

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """How many windows hold a reading, and how many readings there are. Raises RecordError."""
        kept = _kept(_readings(self._field, value, self._width), self._field, self._most)[0]
        if all_present(kept):
            return -(-len(kept) // self._window), kept.size
        present = ~np.isnan(kept)
        windows = np.flatnonzero(present.any(1)) // self._window
        return int(np.count_nonzero(np.diff(windows, prepend=-1))), int(np.count_nonzero(present))

    def measure_column(self, columns: Columns) -> Measured:
        """By lengths alone where every reading is there; others value by value."""
        extents = missing_extents(len(columns[0]))
        lengths = _whole_lengths(self._field, columns, self._width)
        kept = np.minimum(lengths, self._most)
        sure = (lengths >= 0) & (lengths / self._field.rate_hz <= MAX_TIME_S)
        extents[sure, 0] = -(-kept[sure] // self._window)
        extents[sure, 1] = kept[sure] * self._width
        return extents, measure_rows(self.measure, columns, np.flatnonzero(present_rows(columns) & ~sure), extents)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """The number of channels."""
        return {"width": len(fitted["means"])}

    def grid(self, extent: Extent) -> tuple[int, int]:
        """One column of as many tokens."""
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.float64]:
        """A row for each token, float64 `[n, 1 + W * C]`. Raises RecordError.

        A row is the middle of its window in seconds from the beginning of the series, then the readings, NaN if absent.
        """
        width = self._width
        kept, start = _kept(_readings(self._field, value, width), self._field, self._most)
        whole, rest = divmod(len(kept), self._window)
        rows = np.empty((whole + (rest > 0), 1 + self._window * width))
        rows[:whole, 1:] = kept[: whole * self._window].reshape(whole, self._window * width)
        if rest:
            rows[whole, 1 : 1 + rest * width] = kept[whole * self._window :].reshape(rest * width)
            rows[whole, 1 + rest * width :] = np.nan
        rows[:, 0] = (start + (np.arange(len(rows)) + 0.5) * self._window) / self._field.rate_hz
        return rows if all_present(kept) else rows[~np.isnan(rows[:, 1:]).all(1)]

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Move the windows over the readings, scale each channel, add noise, and make a stretch of time absent.

        Windows, and with them their times, move by a whole number of readings; those that come from outside the kept
        windows are absent. Factors apply to raw readings, as a sensor's gain does. Every window stays a token, if need
        be one without a reading.
        """
        field, width = self._field, self._width
        if not (field.jitter or field.scale or field.shift or field.time_mask) or not len(decoded):
            return decoded
        move, begin, length = rng.uniform(-1, 1), rng.random(), rng.random()
        factors = 1 + field.scale * rng.uniform(-1, 1, width)
        rows = self._moved(decoded, round(move * field.shift * self._window))
        cells = rows[:, 1:].reshape(len(rows), self._window, width)
        cells *= factors
        if field.jitter:
            cells += rng.standard_normal(cells.shape) * (field.jitter * self._stds)
        places = self._places(decoded)[:, None] * self._window + np.arange(self._window)
        span = places[-1, -1] + 1
        masked = round(length * field.time_mask * span)
        first = round(begin * (span - masked))
        cells[(places >= first) & (places < first + masked)] = np.nan
        return rows

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """Patches float32 `[n, 2 * W * C]`, with the middle of each window."""
        size = self._window * self._width
        scores = decoded[:, 1:].reshape(len(decoded), self._window, self._width) - self._means
        scores /= self._stds
        np.clip(scores, -MAX_Z, MAX_Z, out=scores)
        present = ~np.isnan(scores)
        values = np.empty((len(decoded), 2 * size), np.float32)
        values[:, :size] = np.where(present, scores, 0.0).reshape(len(decoded), size)
        values[:, size:] = present.reshape(len(decoded), size)
        return Tokens(values=values, grid=(len(decoded), 1), times=decoded[:, 0].astype(np.float32))

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """None at all: patches are looked at."""
        return ()

    def _places(self, decoded: NDArray[np.float64]) -> NDArray[np.intp]:
        """Number of each window, counted from the first that is a token."""
        steps = (decoded[:, 0] - decoded[0, 0]) * (self._field.rate_hz / self._window)
        places: NDArray[np.intp] = np.rint(steps).astype(np.intp)
        return places

    def _moved(self, decoded: NDArray[np.float64], by: int) -> NDArray[np.float64]:
        """A copy whose windows begin `by` readings later, at most W either way."""
        if by == 0:
            return decoded.copy()
        places = self._places(decoded) + 1  # with room for a window before the first and after the last
        line = np.full((places[-1] + 2, self._window * self._width), np.nan)
        line[places] = decoded[:, 1:]
        taken = (places * self._window + by)[:, None] + np.arange(self._window)
        readings = line.reshape(-1, self._width)[taken]
        times = decoded[:, :1] + by / self._field.rate_hz
        return np.concatenate([times, readings.reshape(len(decoded), -1)], axis=1)


@final
class _Regular(Learner):
    """Statistics by width, of which those with the most readings count; ties go to the smaller width."""

    def __init__(self, field: SeriesField) -> None:
        self._field = field
        self._most = _windows(field)[1]
        width = len(field.channels) or 1
        self._by_width: dict[int, Moments] = {width: Moments(width)}

    def partial(self, values: Values) -> list[tuple[int, State]]:
        found: dict[int, list[NDArray[np.float64]]] = {}
        for value in values:
            try:
                kept = _kept(_readings(self._field, value, None), self._field, self._most)[0]
            except RecordError:
                continue
            found.setdefault(kept.shape[1], []).append(kept)
        return [(width, _moments(np.concatenate(rows)).state()) for width, rows in found.items()]

    def merge(self, partial: list[tuple[int, State]]) -> None:
        for width, state in partial:
            self._by_width.setdefault(width, Moments(width)).merge(np.arange(width), state)

    def finish(self) -> Fitted:
        by_width = self._by_width
        width = min(by_width, key=lambda w: (-by_width[w].counts.sum(), w))
        return {"means": by_width[width].means.tolist(), "stds": by_width[width].stds.tolist()}


def _moments(rows: NDArray[np.float64]) -> Moments:
    moments = Moments(rows.shape[1])
    moments.add_rows(rows)
    return moments


def _whole_lengths(field: SeriesField, columns: Columns, width: int) -> NDArray[np.int64]:
    """Readings of each channel of each row, int64 `[N]`; -1 unless all are numbers that can be used."""
    unsure = np.full(len(columns[0]), -1, np.int64)
    found: NDArray[np.int64] | None = None
    for column in columns:
        own = _whole_rows(column, width) if field.column is not None else _whole_lists(column)
        if own is None:
            return unsure
        found = own if found is None else np.where(found == own, found, -1)
    return unsure if found is None else found


def _whole_lists(column: pa.Array) -> NDArray[np.int64] | None:
    """Length of each list of numbers, -1 where one is absent or of no use; None for a column of another type."""
    if not is_list(column):
        return None
    offsets, values = offsets_of(column)
    numbers = plain_numbers(values)
    if numbers is None:
        return None
    strange = sums_within(~(np.abs(numbers) <= MAX_NUMBER), offsets)
    return np.where(valid(column) & (strange == 0), np.diff(offsets), -1)


def _whole_rows(column: pa.Array, width: int) -> NDArray[np.int64] | None:
    """As `_whole_lists`, of lists of rows of `width` numbers."""
    if not is_list(column):
        return None
    offsets, rows = offsets_of(column)
    inner = _whole_lists(rows)
    if inner is None:
        return None
    return np.where(valid(column) & (sums_within(inner != width, offsets) == 0), np.diff(offsets), -1)


def _windows(field: SeriesField) -> tuple[int, int, int]:
    """Readings in a window, readings kept at most, and the windows that these fill. Raises DataError."""
    window, most = (max(1, round(min(t * field.rate_hz, 1e15))) for t in (field.window_s, field.max_seconds))
    windows = -(-most // window)
    check_windows(field, windows)
    return window, most, windows


def _kept(readings: NDArray[np.float64], field: SeriesField, most: int) -> tuple[NDArray[np.float64], int]:
    """The part of a series that is used, and the number of its first reading. Raises RecordError."""
    if len(readings) / field.rate_hz > MAX_TIME_S:
        raise RecordError(
            f"expected a series of at most {MAX_TIME_S:g} s, but {len(readings)} readings at {field.rate_hz:g} Hz"
            " are more"
        )
    spare = max(0, len(readings) - most)
    start = {"first": 0, "middle": spare // 2, "last": spare}[field.keep]
    return readings[start : start + most], start


def _readings(field: SeriesField, value: tuple[Any, ...], width: int | None) -> NDArray[np.float64]:
    """All readings, float64 `[n, C]`, NaN where absent; `width` is C where it is known. Raises RecordError."""
    if field.column is not None:
        return _rows(value[0], field.column, width)
    lists = [(c, numbers(v, c)) for c, v in zip(field.channels, value, strict=True) if v is not None]
    first, length = lists[0][0], len(lists[0][1])
    readings = np.full((length, len(value)), np.nan) if len(lists) < len(value) else np.empty((length, len(value)))
    places = (i for i, v in enumerate(value) if v is not None)
    for place, (column, found) in zip(places, lists, strict=True):
        if len(found) != length:
            raise RecordError(
                f"expected as many readings in each channel, but `{first}` has {length} and `{column}` {len(found)}"
            )
        readings[:, place] = found
    return readings


def _rows(value: Any, column: str, width: int | None) -> NDArray[np.float64]:
    """Rows of readings as float64 `[n, C]`; a row that is None is absent."""
    rows = [r if r is None else plain_list(r, "rows of numbers", column) for r in plain_list(value, "rows", column)]
    widths = sorted({len(r) for r in rows if r is not None})
    if len(widths) > 1:
        raise RecordError(
            f"expected rows of one length in column `{column}`, but they have {widths[0]} and {widths[1]}"
        )
    found = widths[0] if widths else width or 1
    if found == 0 or found != (width or found):
        raise RecordError(f"expected rows of {width or 'some'} readings in column `{column}`, but they have {found}")
    absent = (None,) * found
    return numbers(list(chain.from_iterable(absent if r is None else r for r in rows)), column).reshape(-1, found)
