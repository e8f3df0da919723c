"""Columns of dates of one table row -> one token for each date that is present.

In: `datetime.date`, `datetime.datetime` or ISO 8601 strings; times with a zone are converted to UTC, those without are
taken as they are. Out: patches float32 `[n, C + 7]`: 1 at the date's column, then the z-score of the days since 1970,
and sine and cosine of the time of year, of the week (from Monday) and of the day, each a turn from beginning to end.

A missing date (None, NaN, NaT) is no token. Extent: (number of present dates, 0).
"""

import math
from datetime import UTC, date, datetime
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interlace.contract.errors import RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Modality
from interlace.modalities.numeric import MAX_Z, shown
from interlace.recipe.fields import TableField

DAY_S = 86_400
_FEATURES = 7
_EPOCH = datetime(1970, 1, 1)
_EPOCH_WEEKDAY = 3
"""1970 began on a Thursday."""


@final
class DatesModality(Modality):
    """Columns of dates: how far apart they lie, and where in the year, the week and the day."""

    def __init__(self, name: str, field: TableField, fitted: Fitted) -> None:
        self._columns = field.dates
        self._means = np.array(fitted["means"], np.float64)
        self._stds = np.array(fitted["stds"], np.float64)
        width = len(self._columns)
        self._spec = FieldSpec(name=name, kind="patches", patch_dim=width + _FEATURES, max_grid=(width, 1))

    @property
    def spec(self) -> FieldSpec:
        """Patches of C + 7 numbers."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """How many dates are present. Raises RecordError."""
        return int(np.count_nonzero(~np.isnan(self.decode(value)))), 0

    def grid(self, extent: Extent) -> tuple[int, int]:
        """One column of as many tokens."""
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.float64]:
        """Days since 1970 with their fraction, float64 `[C]`, NaN where missing. Raises RecordError."""
        return np.array([days_of(v, c) for v, c in zip(value, self._columns, strict=True)], np.float64)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Unchanged: tables have no augmentation."""
        return decoded

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """Patches float32 `[n, C + 7]` of the dates that are present."""
        columns = np.flatnonzero(~np.isnan(decoded))
        days = decoded[columns]
        turns = 2 * np.pi * np.stack([_of_year(days), (days + _EPOCH_WEEKDAY) % 7 / 7, days % 1], axis=1)
        scores = (days - self._means[columns]) / self._stds[columns]
        waves = np.stack([np.sin(turns), np.cos(turns)], axis=2).reshape(len(days), 6)
        one_hot = np.eye(len(self._columns))[columns]
        values = np.concatenate([one_hot, np.clip(scores, -MAX_Z, MAX_Z)[:, None], waves], axis=1)
        return Tokens(values=values.astype(np.float32), grid=(len(columns), 1))

    def words(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """`column = date` of the dates that are present, to the second where the day is not whole."""
        pairs = zip(self._columns, decoded.tolist(), strict=True)
        return tuple(f"{column} = {_iso(days)}" for column, days in pairs if not math.isnan(days))


def _of_year(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of its year has gone, 0 to 1, leap years being longer."""
    year = np.floor(days).astype("datetime64[D]").astype("datetime64[Y]")
    begins, ends = ((y.astype("datetime64[D]").astype(np.float64)) for y in (year, year + 1))
    return (days - begins) / (ends - begins)


def _iso(days: float) -> str:
    return str(np.datetime64(round(days * DAY_S), "s")).removesuffix("T00:00:00")


def days_of(value: Any, column: str) -> float:
    """Days since 1970, NaN where missing. Raises RecordError."""
    if value is None or (isinstance(value, float | date) and value != value):  # also pandas' NaT
        return math.nan
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            if value.tzinfo is not None:
                value = value.astimezone(UTC).replace(tzinfo=None)
            return float((value - _EPOCH).total_seconds() / DAY_S)
    except (ValueError, OverflowError):  # no ISO date; or UTC lies outside the years 1 to 9999
        pass
    else:
        if isinstance(value, date):
            return float(value.toordinal() - _EPOCH.toordinal())
    raise RecordError(
        f"expected a date, a timestamp or an ISO 8601 string in column `{column}`, but is {type(value).__name__}"
        f" {shown(value)}"
    )
