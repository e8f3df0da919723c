"""Laws of regular series: windows, times, statistics, refusals. Augmentation is in test_series_augmentation.py."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.errors import DataError, RecordError
from interlace.modalities.base import Modality
from interlace.modalities.laws import check_value
from interlace.modalities.numeric import MAX_Z
from interlace.modalities.series import make_series
from interlace.recipe.fields import SeriesField
from tests.fitting import fit

BUSY = {"jitter": 0.1, "scale": 0.2, "shift": 0.5, "time_mask": 0.5}
readings = (
    st.none() | st.just(math.nan) | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False, width=32)
)


def field(*channels: str, **more) -> SeriesField:
    return SeriesField(modality="series", channels=channels, **more)


def fitted(item: SeriesField, values) -> Modality:
    return make_series("s", item, json.loads(json.dumps(fit(item, iter(values)))))


def check_laws(m: Modality, value: tuple) -> int:
    check_value(m, value)
    extent, decoded = m.measure(value), m.decode(value)
    tokens = m.encode(decoded)
    count = m.num_tokens(extent)
    assert tokens.grid == m.grid(extent) == (count, 1)
    assert tokens.values.shape == (count, m.spec.patch_dim)
    assert tokens.values.dtype == np.float32 == np.dtype(m.spec.patch_dtype)
    assert tokens.times.shape == (count,)
    assert tokens.times.dtype == np.float32
    assert np.isfinite(tokens.times).all()
    assert np.abs(tokens.values).max(initial=0) <= MAX_Z
    assert count <= m.spec.max_grid[0]
    assert (tokens.values[:, m.spec.patch_dim // 2 :].any(1)).all()  # no window without a reading
    assert m.decode(value).tobytes() == decoded.tobytes()
    before = decoded.copy()
    augmented = m.augment(decoded, np.random.default_rng(3))
    assert m.augment(decoded, np.random.default_rng(3)).tobytes() == augmented.tobytes()
    assert decoded.tobytes() == before.tobytes()
    varied = m.encode(augmented)
    assert varied.values.shape == tokens.values.shape
    assert varied.times.shape == tokens.times.shape
    assert np.abs(varied.values).max(initial=0) <= MAX_Z
    assert m.token_texts(decoded) == ()
    return count


@st.composite
def samples(draw) -> tuple:
    length = draw(st.integers(0, 12))
    lists = [draw(st.none() | st.lists(readings, min_size=length, max_size=length)) for _ in range(2)]
    return tuple(lists) if any(v is not None for v in lists) else ([], lists[1])


@settings(deadline=None)
@given(
    st.lists(samples(), min_size=1, max_size=4),
    st.sampled_from((0.1, 1.0, 3.0)),
    st.sampled_from((0.5, 4.0, 7.0, 60.0)),
    st.sampled_from(("first", "middle", "last")),
    st.booleans(),
)
def test_tokens_are_as_many_as_measured(values, window_s, max_seconds, keep, busy):
    more = BUSY | {"shift": 0.9 if window_s > 1 else 0.0} if busy else {}
    m = fitted(field("a", "b", window_s=window_s, max_seconds=max_seconds, keep=keep, **more), values[::2])
    rows = fitted(
        SeriesField(modality="series", column="r", window_s=window_s, max_seconds=max_seconds, keep=keep), [([[1, 2]],)]
    )
    for value in values:
        count = check_laws(m, value)
        length = max(len(v) for v in value if v is not None)
        table = [[None if v is None else v[i] for v in value] for i in range(length)]
        assert check_laws(rows, (table,)) == count  # the same readings as rows


def test_tokens_are_as_many_as_measured_on_real_series(exercises, pen_digits, pen_strokes):
    watch = fitted(field(*"abcdef", rate_hz=50, window_s=0.5, **BUSY), exercises)
    digits = fitted(field("x", "y", window_s=2, **BUSY), pen_digits)
    strokes = fitted(field("x", "y", rate_hz=100, window_s=0.1, max_seconds=2, **BUSY), pen_strokes)
    counts = [check_laws(watch, v) for v in exercises]
    assert len(counts) == 140
    assert counts == [math.ceil(len(v[0]) / 25) for v in exercises]
    assert (min(len(v[0]) for v in exercises), max(len(v[0]) for v in exercises)) == (947, 2618)
    assert {check_laws(digits, v) for v in pen_digits[::50]} == {4}
    assert len(pen_digits) == 7494
    assert len({check_laws(strokes, v) for v in pen_strokes[::20]}) > 5
    assert len(pen_strokes) == 2720
    assert round(np.mean([len(v[0]) for v in pen_strokes])) == 138


def test_statistics_and_scores_equal_numpys_over_real_rows(exercises):
    item = field(*"abcdef", rate_hz=50)
    m = fitted(item, exercises)
    whole = np.concatenate([np.array(v, np.float64).T for v in exercises])
    state = fit(item, iter(exercises))
    assert state["means"] == pytest.approx(whole.mean(0), rel=1e-9)
    assert state["stds"] == pytest.approx(whole.std(0), rel=1e-9)
    values = m.encode(m.decode(exercises[3])).values
    scores = (np.array(exercises[3]).T - whole.mean(0)) / whole.std(0)
    flat = values[:, :300].reshape(-1, 6)
    assert flat[: len(scores)] == pytest.approx(scores, rel=1e-5, abs=1e-6)
    assert not flat[len(scores) :].any()
    assert values[:, 300:].reshape(-1, 6).sum(0).tolist() == [len(scores)] * 6


@settings(deadline=None)
@given(st.lists(st.lists(readings, max_size=8), min_size=1, max_size=6), st.sampled_from((0, 1e6, -1e9)))
def test_streamed_statistics_equal_those_of_all_readings(lists, offset):
    lists = [[None if v is None else v / 1e30 + offset for v in values] for values in lists]
    state = fit(field("a"), ((v,) for v in lists))
    known = np.array([v for values in lists for v in values if v is not None and v == v])
    assert state["means"][0] == pytest.approx(known.mean() if len(known) else 0, rel=1e-9, abs=1e-6)
    if len(known) and np.ptp(known) > 1e-6:
        assert state["stds"][0] == pytest.approx(known.std(), rel=1e-3)
    elif not len(known) or not np.ptp(known):
        assert state["stds"] == [1.0]


def test_a_constant_channel_has_deviation_one_and_scores_of_zero():
    values = [([0.1] * 7, None), ([0.1] * 3, [None] * 3)]
    state = fit(field("a", "b"), iter(values))
    assert state == {"means": [0.1, 0.0], "stds": [1.0, 1.0]}
    m = fitted(field("a", "b"), values)
    assert not m.encode(m.decode(([0.1, 0.1], None))).values[:, :2].any()


def test_windows_lie_as_the_module_says():
    m = make_series("s", field("a", rate_hz=2), {"means": [1.0], "stds": [2.0]})
    tokens = m.encode(m.decode(([1, 3, 5, None, math.nan],)))
    assert tokens.values.tolist() == [[0, 1, 1, 1], [2, 0, 1, 0]]
    assert tokens.times.tolist() == [0.5, 1.5]
    tokens = m.encode(m.decode(([1, 3, None, None, 5],)))
    assert tokens.values.tolist() == [[0, 1, 1, 1], [2, 0, 1, 0]]
    assert tokens.times.tolist() == [0.5, 2.5]
    assert m.measure(([1, 3, None, None, 5],)) == (2, 3)
    assert m.measure(([None, math.nan],)) == m.measure(([],)) == (0, 0)


def test_an_absent_channel_and_an_absent_row_are_absent_readings():
    m = make_series("s", field("a", "b"), {"means": [0, 0], "stds": [1, 1]})
    assert m.encode(m.decode((None, [4, 5]))).values.tolist() == [[0, 4, 0, 1], [0, 5, 0, 1]]
    rows = make_series("s", SeriesField(modality="series", column="r"), {"means": [0, 0], "stds": [1, 1]})
    assert rows.encode(rows.decode(([[1, 2], None, (None, 4)],))).values.tolist() == [[1, 2, 1, 1], [0, 4, 0, 1]]
    assert rows.measure(([None, None],)) == rows.measure(([],)) == (0, 0)


@pytest.mark.parametrize(("keep", "first"), [("first", 0), ("middle", 3), ("last", 6)])
def test_a_longer_series_is_cut_and_keeps_its_clock(keep, first):
    m = make_series("s", field("a", window_s=2, max_seconds=4, keep=keep), {"means": [0], "stds": [1]})
    tokens = m.encode(m.decode((list(range(10)),)))
    assert tokens.values[:, :2].ravel().tolist() == list(range(first, first + 4))
    assert tokens.times.tolist() == [first + 1, first + 3]
    assert m.measure((list(range(10)),)) == (2, 4)
    assert fit(m._field, iter([(list(range(10)),)]))["means"] == [first + 1.5]


def test_rows_are_as_wide_as_most_readings_say():
    item = SeriesField(modality="series", column="r")
    state = fit(item, iter([([[1, 2, 3]],), ([[1, 2], [3, 4]],), ([[5, 6], [1]],), ([[]],)]))
    assert state == {"means": [2, 3], "stds": [1, 1]}
    assert fit(item, iter([])) == {"means": [0], "stds": [1]}
    with pytest.raises(RecordError, match="expected rows of 2 readings in column `r`, but they have 3"):
        make_series("s", item, state).measure(([[1, 2, 3]],))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (([1, 2], [1]), "expected as many readings in each channel, but `a` has 2 and `b` 1"),
        ((None, "12"), "expected a list of numbers in column `b`, but is str '12'"),
        ((b"12345678", None), "expected a list of numbers in column `a`, but is bytes"),
        (([1], 3.0), "expected a list of numbers in column `b`, but is float 3.0"),
        (([1, "2"], [1, 2]), "expected a number in column `a`, but is str '2'"),
        (([1, 2], [[1], [2]]), r"expected a number in column `b`, but is list \[1\]"),
        (([1, math.inf], [1, 2]), "expected finite numbers of float32 size in column `a`, but one is inf"),
        (([1, None, -math.inf], None), "expected a finite number of float32 size in column `a`, but is -inf"),
        ((None, [1e39]), r"expected finite numbers of float32 size in column `b`, but one is 1e\+39"),
        ((None, [10**400]), "expected a finite number of float32 size in column `b`, but is 1000"),
    ],
)
def test_what_is_no_series_is_refused_with_column_and_value(value, reason):
    m = fitted(field("a", "b"), [([1, 2], [3, 4]), value])
    assert m._means.tolist() == [1.5, 3.5]  # fitting passed over it
    for use in (m.measure, m.decode):
        with pytest.raises(RecordError, match=reason) as error:
            use(value)
        assert len(str(error.value)) < 150


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([[1, 2], [3]], "expected rows of one length in column `r`, but they have 1 and 2"),
        ([1, 2], "expected a list of rows of numbers in column `r`, but is int 1"),
        ([[]], "expected rows of 2 readings in column `r`, but they have 0"),
        ([["x", 1]], "expected a number in column `r`, but is str 'x'"),
        (5, "expected a list of rows in column `r`, but is int 5"),
    ],
)
def test_what_are_no_rows_is_refused_with_column_and_value(value, reason):
    m = make_series("s", SeriesField(modality="series", column="r"), {"means": [0, 0], "stds": [1, 1]})
    for use in (m.measure, m.decode):
        with pytest.raises(RecordError, match=reason):
            use((value,))


def test_numpy_arrays_are_lists():
    m = make_series("s", field("a", "b"), {"means": [0, 0], "stds": [1, 1]})
    lists = m.decode(([1.5, 2.5], [3, 4]))
    assert m.decode((np.array([1.5, 2.5], np.float32), np.array([3, 4], np.int8))).tobytes() == lists.tobytes()
    rows = make_series("s", SeriesField(modality="series", column="r"), {"means": [0, 0], "stds": [1, 1]})
    nested = np.empty(2, object)
    nested[:] = [np.array([1.5, 3]), np.array([2.5, 4])]
    assert rows.decode((nested,)).tobytes() == lists.tobytes()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"window_s": 0.01, "rate_hz": 100},
            "`window_s`: expected at most 100,000 windows in `max_seconds`, but 3600 s",
        ),
        ({"window_s": 3600, "rate_hz": 1e300}, "`window_s`: expected at most 1,000,000 numbers in a patch"),
        ({"shift": 0.4}, "`shift`: expected to move windows by a reading or more, but 0.4 of a window of 1 readings"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(more, reason):
    more = {"max_seconds": 3600} | more
    with pytest.raises(DataError, match=reason):
        fitted(field("a", **more), [([1],)])


def test_absurd_values_stay_bounded():
    m = fitted(field("a"), [([0.0, 1e-30],)])
    assert m.encode(m.decode(([3e38, -3e38, None],))).values.tolist() == [[MAX_Z, 1], [-MAX_Z, 1]]
    slow = make_series("s", field("a", rate_hz=1e-9), {"means": [0], "stds": [1]})
    with pytest.raises(
        RecordError, match=r"expected a series of at most 1e\+10 s, but 11 readings at 1e-09 Hz are more"
    ):
        slow.measure(([1] * 11,))
