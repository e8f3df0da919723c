"""Columns of dates of one table row: days since 1970, and the patch of each date that is present.

In: `datetime.date`, `datetime.datetime` or ISO 8601 strings; times with a zone are converted to UTC, those without are
taken as they are. Out: patches float32 `[n, C + 7]`: 1 at the date's column, then the z-score of the days since 1970,
and sine and cosine of the time of year, of the week (from Monday) and of the day, each a turn from beginning to end.

A missing date is None, NaN or NaT. The modality is that of numbers: `interlace.modalities.table`.
"""

import math
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import RecordError
from interlace.modalities.columns import valid
from interlace.modalities.numeric import Marks, shown

DAY_S = 86_400
NUM_FEATURES = 7
"""Numbers of a date's patch beside those that name its column."""
_EPOCH = datetime(1970, 1, 1)
_EPOCH_WEEKDAY = 3
"""1970 began on a Thursday."""
_SURE_S = 1900 * 365 * DAY_S
"""Times this near to 1970 lie in the years that Python knows, whatever their zone."""


def date_patches(
    days: NDArray[np.float64], columns: NDArray[np.intp], scores: NDArray[Any], width: int
) -> NDArray[Any]:
    """Patches `[n, C + 7]` of dates `[n]` in these columns of `width`, with their z-scores."""
    turns = 2 * np.pi * np.stack([_of_year(days), (days + _EPOCH_WEEKDAY) % 7 / 7, days % 1], axis=1)
    waves = np.stack([np.sin(turns), np.cos(turns)], axis=2).reshape(len(days), 6)
    return np.concatenate([np.eye(width)[columns], scores[:, None], waves], axis=1)


def _of_year(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of its year has gone, 0 to 1, leap years being longer."""
    year = np.floor(days).astype("datetime64[D]").astype("datetime64[Y]")
    begins, ends = ((y.astype("datetime64[D]").astype(np.float64)) for y in (year, year + 1))
    return (days - begins) / (ends - begins)


def date_word(days: float) -> str:
    """The date, to the second where the day is not whole."""
    return str(np.datetime64(round(days * DAY_S), "s")).removesuffix("T00:00:00")


def present_dates(column: pa.Array) -> Marks | None:
    """Which dates of a column are there, and which `days_of` may refuse; None for all of them.

    Strings are parsed one by one, and so are times in nanoseconds or near the ends of the calendar.
    """
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_date(kind):
        return valid(column), np.zeros(len(column), np.bool_)
    if not pa.types.is_timestamp(kind) or kind.unit == "ns":
        return None
    times = column.cast(pa.timestamp(kind.unit)).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    inside = np.abs(times.astype(np.float64)) < _SURE_S * {"s": 1, "ms": 1e3, "us": 1e6}[kind.unit]
    return None if not inside.all() else (valid(column), np.zeros(len(column), np.bool_))


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
