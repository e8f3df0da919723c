"""Laws of dates: present ones are tokens, their features are what a calendar says."""

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.errors import RecordError
from interlace.modalities.base import Modality
from interlace.modalities.numeric import MAX_Z
from interlace.modalities.table import make_table
from interlace.recipe.fields import TableField
from tests.fitting import fit

dates = st.none() | st.just(math.nan) | st.dates() | st.datetimes() | st.datetimes().map(datetime.isoformat)


def fitted(rows, columns=("born", "seen")) -> Modality:
    field = TableField(modality="table", dates=columns)
    return make_table("row", field, json.loads(json.dumps(fit(field, iter(rows)))))


@settings(deadline=None)
@given(st.lists(st.tuples(dates, dates), min_size=1, max_size=20))
def test_dates_are_one_token_each_present_value(rows):
    m = fitted(rows[::2])
    for row in rows:
        extent, decoded = m.measure(row), m.decode(row)
        tokens = m.encode(decoded)
        count = sum(v is not None and v == v for v in row)
        assert extent == (count, 0)
        assert tokens.grid == m.grid(extent) == (count, 1)
        assert tokens.values.shape == (m.num_tokens(extent), m.spec.patch_dim) == (count, 9)
        assert tokens.values.dtype == np.float32 == np.dtype(m.spec.patch_dtype)
        assert np.abs(tokens.values).max(initial=0) <= MAX_Z
        assert len(m.token_texts(decoded)) == count <= m.spec.max_grid[0] == 2
        assert m.decode(row).tobytes() == decoded.tobytes()
        assert m.augment(decoded, np.random.default_rng(0)) is decoded


def test_features_are_those_of_the_calendar():
    m = fitted([("1970-01-01", None), ("1970-01-03", None)])
    values = m.encode(m.decode((None, "2024-07-01T18:00"))).values[0]
    assert values[:2].tolist() == [0, 1]
    days = (datetime(2024, 7, 1, 18) - datetime(1970, 1, 1)) / timedelta(days=1)
    assert values[2] == np.float32(min(days, MAX_Z))  # a column without training values is taken as it is
    for place, turn in ((3, (182 + 0.75) / 366), (5, 0.75 / 7), (7, 0.75)):  # a leap year; a Monday; the evening
        assert values[place : place + 2] == pytest.approx(
            [math.sin(math.tau * turn), math.cos(math.tau * turn)], abs=1e-6
        )
    first, second = (m.encode(m.decode((d, None))).values[0] for d in ("1970-01-01", "1970-01-03"))
    assert (first[2], second[2]) == (-1, 1)  # mean and deviation are a day each
    assert first[3:5].tolist() == first[7:9].tolist() == [0, 1]


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(1800, 1, 1), max_value=datetime(2200, 1, 1)))
def test_every_way_to_write_a_moment_is_the_same_token(moment):
    m = fitted([])
    east = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5, minutes=30)))
    ways = [moment, moment.isoformat(), moment.replace(tzinfo=UTC), east, east.isoformat(), pd.Timestamp(moment)]
    assert len({m.decode((way, None)).tobytes() for way in ways}) == 1
    day = moment.date()
    assert m.decode((day, day.isoformat())).tolist() == [day.toordinal() - date(1970, 1, 1).toordinal()] * 2
    assert m.token_texts(m.decode((None, day))) == (f"seen = {day.isoformat()}",)
    assert m.token_texts(m.decode((moment.replace(microsecond=0), None)))[0].startswith(f"born = {day.isoformat()}")


def test_statistics_equal_numpys_and_pass_over_what_is_no_date():
    rows = [(date(2000, 1, 1), "x"), ("2000-01-02", 3), (datetime(2000, 1, 4, 12), None), (pd.NaT, "2020-02-30")]
    field = TableField(modality="table", dates=("a", "b"))
    state = fit(field, iter(rows))
    days = np.array([10957, 10958, 10960.5])
    assert state["means"] == pytest.approx([days.mean(), 0])
    assert state["stds"] == pytest.approx([days.std(), 1])


@pytest.mark.parametrize("value", ["yesterday", "", "2023-02-29", 20240101, 1.5, b"2024-01-01", True, [1], math.inf])
def test_what_is_no_date_is_refused_with_column_and_value(value):
    m = fitted([])
    for use in (m.measure, m.decode):
        with pytest.raises(RecordError, match=r"expected a date, .* in column `seen`, but is ") as error:
            use((date(2024, 1, 1), value))
        assert len(str(error.value)) < 150


def test_a_moment_beyond_the_years_of_utc_is_refused():
    with pytest.raises(RecordError, match="expected a date"):
        fitted([]).decode((None, "9999-12-31T23:00:00-02:00"))
    assert fitted([]).token_texts(fitted([]).decode(("9999-12-31T23:59:59.999999", "0001-01-01"))) != ()
