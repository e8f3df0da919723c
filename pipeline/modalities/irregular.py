"""Readings of many channels at times of their own -> windows, one token for each window that holds a reading.

In: three aligned lists (times, channel names, readings), in any order. Out: patches float32 `[n, P * C]`, of the C
channels kept: each of `statistics` (by default the mean) of the scores of its readings in the window, 0 without one;
with `deviations` these without their sign; last log(1 + their number). Scores are z-scores or ranks (`quantiles`).

A reading is absent if it is None or NaN or of a channel that isn't kept. The length of a series is its largest time;
its last window is closed, so that a reading at 48 h lies in a series of 48 h. Extent: (tokens, readings) of the part
that is kept.
"""

import math
from itertools import compress, repeat
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interlace.contract.errors import DataError, RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Learner, Modality, Values
from interlace.modalities.columns import Columns, Measured, measure_each
from interlace.modalities.numeric import MAX_Z, Moments, all_present, numbers, plain_list, shown
from interlace.modalities.quantiles import NormalScores, Points, Quantiles, fit_knots
from interlace.recipe.fields import SeriesField, SeriesStatistic

MAX_WINDOWS = 100_000
"""Windows in `max_seconds` at most: more tokens than any pack holds."""

MAX_PATCH = 1_000_000
"""Numbers in a patch at most."""

Line = NDArray[np.float64]

MAX_TIME_S = 1e10
"""Times beyond are refused (they are in another unit); float64 tells a microsecond up to here."""


def check_windows(field: SeriesField, count: float) -> None:
    """Refuse settings that cut a series into more than `MAX_WINDOWS`. Raises DataError."""
    if count > MAX_WINDOWS:
        raise DataError(
            f"`window_s`: expected at most {MAX_WINDOWS:,} windows in `max_seconds`, but {field.max_seconds:g} s in"
            f" windows of {field.window_s:g} s are {count:,.0f}"
        )


@final
class IrregularLearner(Learner):
    """The most frequent channels and their statistics; ties go by type and name."""

    def __init__(self, field: SeriesField) -> None:
        check_windows(field, field.max_seconds / field.window_s)
        self._field = field
        self._ids: dict[str | int, int] = {}
        self._moments = Moments()
        self._quantiles: dict[str | int, Quantiles] = {}

    def partial(self, values: Values) -> list[tuple[str | int, list[float], Points | None]]:
        """Each channel with the state of its statistics, and of its quantiles where scores are ranks."""
        ids: dict[str | int, int] = {}
        channels: list[int] = []
        kept: list[NDArray[np.float64]] = [np.zeros(0)]
        for value in values:
            try:
                times, names, readings = _aligned(self._field, value)
            except RecordError:
                continue
            inside = _inside(self._field, times)[1]
            used = ~np.isnan(readings) if inside is None else inside & ~np.isnan(readings)
            channels += [ids.setdefault(name, len(ids)) for name in compress(names, used.tolist())]
            kept.append(readings[used])
        moments, readings = Moments(len(ids)), np.concatenate(kept)
        moments.add(np.array(channels, np.intp), readings)
        names = [str(c) if isinstance(c, str) else int(c) for c in ids]
        points: list[Points | None] = [None] * len(ids)
        if self._field.scores == "rank":
            at = np.array(channels, np.intp)
            points = [Quantiles(readings[at == c]).state() for c in range(len(ids))]
        return list(zip(names, moments.state(), points, strict=True))

    def merge(self, partial: list[tuple[str | int, list[float], Points | None]]) -> None:
        """Join the statistics of channels of the same name."""
        at = [self._ids.setdefault(name, len(self._ids)) for name, _, _ in partial]
        self._moments.merge(np.array(at, np.intp), [state for _, state, _ in partial])
        for name, _, points in partial:
            if points is not None:
                self._quantiles.setdefault(name, Quantiles()).merge(points)

    def finish(self) -> Fitted:
        """Names, means and deviations of the channels that are kept, and knots where scores are ranks."""
        ids, moments = self._ids, self._moments
        ranked = sorted(ids, key=lambda c: (-moments.counts[ids[c]], isinstance(c, str), c))[: self._field.max_channels]
        at = [ids[c] for c in ranked]
        fitted = {"channels": ranked, "means": moments.means[at].tolist(), "stds": moments.stds[at].tolist()}
        if self._field.scores == "rank":
            fitted["knots"] = [[part.tolist() for part in fit_knots(self._quantiles[c])] for c in ranked]
        return fitted


@final
class IrregularSeries(Modality):
    """Readings at times of their own, as a patient's measurements are."""

    def __init__(self, name: str, field: SeriesField, fitted: Fitted) -> None:
        check_windows(field, field.max_seconds / field.window_s)
        self._field = field
        self._ids = {channel: i for i, channel in enumerate(fitted["channels"])}
        self._width = max(1, len(self._ids))  # a field without any training reading still has a shape
        self._means = np.array(fitted["means"], np.float64)
        self._stds = np.array(fitted["stds"], np.float64)
        self._last = max(0, math.ceil(field.max_seconds / field.window_s - 1e-9) - 1)
        knots = [(np.array(v, np.float64), np.array(s, np.float64)) for v, s in fitted.get("knots", ())]
        self._ranks = NormalScores(knots) if knots else None
        self._parts = len(field.statistics) * (1 + field.deviations) + 1
        self._spec = FieldSpec(
            name=name, kind="patches", patch_dim=self._parts * self._width, max_grid=(self._last + 1, 1), clocked=True
        )

    @property
    def spec(self) -> FieldSpec:
        """Clocked patches of P * C numbers."""
        return self._spec

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels kept, in order."""
        return tuple(map(str, self._ids))

    @property
    def window_s(self) -> float:
        """Seconds in a window."""
        return self._field.window_s

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """How many windows hold a reading, and how many readings there are. Raises RecordError."""
        windows = self._placed(value)[1]
        return int(np.count_nonzero(np.bincount(windows.astype(np.intp)))), len(windows)

    def measure_column(self, columns: Columns) -> Measured:
        """Value by value: times and channels of each series."""
        return measure_each(self.measure, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """Which channels are kept."""
        return {"channels": sorted(map(repr, fitted["channels"]))}

    def grid(self, extent: Extent) -> tuple[int, int]:
        """One column of as many tokens."""
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.float64]:
        """The present readings of kept channels, float64 `[m, 4]`. Raises RecordError.

        A row is the middle of its window and its own time, in seconds from the beginning; its channel; its value.
        """
        start, windows, times, channels, readings = self._placed(value)
        rows = np.empty((len(times), 4))
        rows[:, 0] = start + (windows + 0.5) * self._field.window_s
        rows[:, 1], rows[:, 2], rows[:, 3] = times, channels, readings
        return rows

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Move the windows over the readings, scale each channel, add noise, and make a stretch of time absent.

        Windows, and with them their times, begin earlier or later; readings that then lie outside of all are left out.
        Factors apply to raw readings, as a sensor's gain does. A window that loses all its readings stays a token: it
        keeps a row whose value is NaN.
        """
        field = self._field
        if not (field.jitter or field.scale or field.shift or field.time_mask) or not len(decoded):
            return decoded
        move, begin, length = rng.uniform(-1, 1), rng.random(), rng.random()
        factors = 1 + field.scale * rng.uniform(-1, 1, self._width)
        rows = self._moved(decoded, move * field.shift * field.window_s)
        channels = rows[:, 2].astype(np.intp)
        rows[:, 3] *= factors[channels]
        if field.jitter:
            rows[:, 3] += rng.standard_normal(len(rows)) * (field.jitter * self._stds[channels])
        first, last = decoded[:, 0].min() - field.window_s / 2, decoded[:, 0].max() + field.window_s / 2
        masked = length * field.time_mask * (last - first)
        since = rows[:, 1] - (first + begin * (last - first - masked))
        rows[(since >= 0) & (since < masked), 3] = np.nan
        return rows

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """Patches float32 `[n, P * C]`, with the middle of each window."""
        middles, at = self._windows_of(decoded)
        shape, width = (len(middles), self._width), self._width
        times, found, readings = decoded[:, 1], decoded[:, 2], decoded[:, 3]
        if not all_present(readings):
            present = ~np.isnan(readings)
            at, times, found, readings = at[present], times[present], found[present], readings[present]
        channels = found.astype(np.intp)
        cells = at * width + channels
        counts = np.bincount(cells, minlength=shape[0] * width).reshape(shape)
        scores = self._scores(channels, readings)
        values = np.empty((shape[0], self._parts * width), np.float32)
        if set(self._field.statistics) != {"mean"}:
            order = np.lexsort((scores, times, cells))
            cells, scores = cells[order], scores[order]
        for i, statistic in enumerate(self._field.statistics):
            part = _reduce(statistic, cells, scores, counts)
            values[:, i * width : (i + 1) * width] = np.clip(part, -MAX_Z, MAX_Z)
        if self._field.deviations:
            signed = len(self._field.statistics) * width
            np.abs(values[:, :signed], out=values[:, signed : 2 * signed])
        values[:, -width:] = np.log1p(counts)
        return Tokens(values=values, grid=(shape[0], 1), times=middles.astype(np.float32))

    def _scores(self, channels: NDArray[np.intp], readings: Line) -> Line:
        if self._ranks:
            return self._ranks(channels, readings)
        scores: Line = (readings - self._means[channels]) / self._stds[channels]
        return scores

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """None at all: patches are looked at."""
        return ()

    def _windows_of(self, decoded: NDArray[np.float64]) -> tuple[Line, NDArray[np.intp]]:
        """The middle of each window that has a row, ascending, and the window of each row; without a sort."""
        if not len(decoded):
            return np.zeros(0), np.zeros(0, np.intp)
        first = decoded[:, 0].min()
        steps = np.rint((decoded[:, 0] - first) / self._field.window_s).astype(np.intp)
        at = (np.bincount(steps) > 0).cumsum()[steps] - 1
        middles = np.empty(at.max() + 1)
        middles[at] = decoded[:, 0]
        return middles, at

    def _placed(self, value: tuple[Any, ...]) -> tuple[float, Line, Line, NDArray[np.intp], Line]:
        """Where windows begin, then window, time, channel and value of each present reading. Raises RecordError."""
        field = self._field
        times, names, readings = _aligned(field, value)
        channels = np.fromiter(map(self._ids.get, names, repeat(-1)), np.intp, len(names))
        start, inside = _inside(field, times)
        if inside is not None or channels.min(initial=0) < 0 or not all_present(readings):
            used = (channels >= 0) & ~np.isnan(readings)
            used = used if inside is None else used & inside
            times, channels, readings = times[used], channels[used], readings[used]
        return start, np.minimum((times - start) // field.window_s, self._last), times, channels, readings

    def _moved(self, decoded: NDArray[np.float64], by_s: float) -> NDArray[np.float64]:
        """A copy whose windows begin `by_s` later, at most a window either way."""
        if by_s == 0:
            return decoded.copy()
        origin, window_s = decoded[0, 0], self._field.window_s
        windows = np.unique(np.rint((decoded[:, 0] - origin) / window_s))
        now = np.floor((decoded[:, 1] - by_s - origin) / window_s + 0.5)
        stay = np.isin(now, windows)
        lost = np.setdiff1d(windows, now)
        rows = np.concatenate([decoded[stay], np.tile((0.0, 0.0, 0.0, np.nan), (len(lost), 1))])
        rows[:, 0] = origin + by_s + np.concatenate([now[stay], lost]) * window_s
        return rows


def _reduce(statistic: SeriesStatistic, cells: NDArray[np.intp], scores: Line, counts: NDArray[np.intp]) -> Line:
    """A statistic of the scores of each cell, in the shape of `counts`; 0 where a cell has none.

    But for the mean, entries are sorted by cell, then by time; at the same time the smaller score comes first.
    """
    if statistic == "mean":
        return np.bincount(cells, scores, minlength=counts.size).reshape(counts.shape) / np.maximum(counts, 1)
    out = np.zeros(counts.size)
    if not len(cells):
        return out.reshape(counts.shape)
    begins = np.flatnonzero(np.diff(cells, prepend=-1))
    if statistic == "first":
        out[cells[begins]] = scores[begins]
    elif statistic == "last":
        ends = np.append(begins[1:], len(cells)) - 1
        out[cells[ends]] = scores[ends]
    else:
        out[cells[begins]] = (np.minimum if statistic == "min" else np.maximum).reduceat(scores, begins)
    return out.reshape(counts.shape)


def _aligned(
    field: SeriesField, value: tuple[Any, ...]
) -> tuple[NDArray[np.float64], list[Any] | tuple[Any, ...], NDArray[np.float64]]:
    """Times in seconds `[m]`, channel names, readings `[m]` with NaN where absent. Raises RecordError."""
    time, channel, reading = field.columns
    times, names, readings = numbers(value[0], time), plain_list(value[1], "channel names", channel), value[2]
    readings = numbers(readings, reading)
    if not len(times) == len(names) == len(readings):
        raise RecordError(
            f"expected aligned lists, but `{time}` has {len(times)}, `{channel}` {len(names)} and `{reading}`"
            f" {len(readings)} entries"
        )
    strange = [k for k in set(map(type, names)) if not issubclass(k, str | int | np.integer)]
    if strange:
        found = next(n for n in names if type(n) in strange)
        raise RecordError(
            f"expected strings or integers in column `{channel}`, but one is {type(found).__name__} {shown(found)}"
        )
    last = MAX_TIME_S / field.time_unit_s
    if not (times.min(initial=0) >= 0 and times.max(initial=0) <= last):
        wrong = ~((times >= 0) & (times <= last))
        raise RecordError(
            f"expected times from 0 to {MAX_TIME_S:g} s in column `{time}`, but one is {times[wrong][0]:g} (times"
            f" {field.time_unit_s:g} s)"
        )
    return times * field.time_unit_s, names, readings


def _inside(field: SeriesField, times: NDArray[np.float64]) -> tuple[float, NDArray[np.bool_] | None]:
    """Where the part that is kept begins, in seconds, and which times lie in it; None where all do."""
    end = float(times.max(initial=0.0))
    spare = max(0.0, end - field.max_seconds)
    if not spare:
        return 0.0, None
    start = {"first": 0.0, "middle": spare / 2, "last": spare}[field.keep]
    stop = end if field.keep == "last" else start + field.max_seconds
    return start, (times >= start) & (times <= stop)
