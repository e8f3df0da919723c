"""Laws of irregular series: windows of aligned lists, channels kept, refusals."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.errors import DataError, RecordError
from interlace.modalities.series import make_series
from interlace.recipe.fields import SeriesField
from tests.fitting import fit
from tests.unit.modalities.test_series_modality import BUSY, check_laws

HOUR = {"time_unit_s": 60, "window_s": 3600, "max_seconds": 48 * 3600}
readings = st.none() | st.just(math.nan) | st.floats(allow_nan=False, allow_infinity=False, width=32)
entries = st.tuples(st.floats(0, 50) | st.integers(0, 50), st.sampled_from(("a", "b", "c", 7)), readings)


def field(**more) -> SeriesField:
    return SeriesField(modality="series", time="t", channel="k", value="v", **more)


def fitted(item: SeriesField, values):
    return make_series("s", item, json.loads(json.dumps(fit(item, iter(values)))))


def columns(rows) -> tuple:
    return tuple(map(list, zip(*rows, strict=True))) if rows else ([], [], [])


SUMMED = {"statistics": ("last", "mean", "max", "first", "min"), "deviations": True}


@settings(deadline=None)
@given(
    st.lists(st.lists(entries, max_size=12), min_size=1, max_size=4),
    st.sampled_from((0.3, 1.0, 8.0)),
    st.sampled_from((4.0, 7.0, 60.0)),
    st.sampled_from(("first", "middle", "last")),
    st.sampled_from(({}, BUSY, SUMMED, {"scores": "rank", "statistics": ("last",), **BUSY})),
)
def test_tokens_are_as_many_as_measured(values, window_s, max_seconds, keep, busy):
    item = field(window_s=window_s, max_seconds=max_seconds, keep=keep, max_channels=2, **busy)
    m = fitted(item, [columns(v) for v in values[::2]])
    for rows in values:
        check_laws(m, columns(rows))
        tokens, again = (m.encode(m.decode(columns(r))) for r in (rows, rows[::-1]))
        assert tokens.times.tolist() == again.times.tolist()  # the order of entries does not count
        assert tokens.values == pytest.approx(again.values, rel=1e-5, abs=1e-5)


def test_real_stays_have_a_token_for_each_hour_with_a_reading(measurements):
    m = fitted(field(**HOUR, **BUSY), measurements)
    counts = [check_laws(m, v) for v in measurements[::20]]
    hours = [len({min(t // 60, 47) for t in v[0]}) for v in measurements[::20]]
    assert counts == hours
    assert 40 < np.mean(counts) <= 48
    assert sum(m.measure(v)[1] for v in measurements) == sum(len(v[2]) for v in measurements) == 1_654_892
    assert len(m._ids) == 37
    assert len(measurements) == 4000


def test_statistics_equal_numpys_over_real_rows(measurements):
    item = field(**HOUR, max_channels=5)
    state = fit(item, iter(measurements))
    names = np.array([n for v in measurements for n in v[1]])
    values = np.array([x for v in measurements for x in v[2]])
    assert state["channels"] == [n for n, _ in Counter(names.tolist()).most_common(5)]
    for channel, mean, std in zip(state["channels"], state["means"], state["stds"], strict=True):
        mine = values[names == channel]
        assert mean == pytest.approx(mine.mean(), rel=1e-9)
        assert std == pytest.approx(mine.std(), rel=1e-9)


def test_tokens_are_means_and_counts_of_a_window():
    state = {"channels": ["a", 7], "means": [10, 0], "stds": [2, 1]}
    m = make_series("s", field(window_s=10, max_seconds=40, time_unit_s=2), state)
    value = ([16, 1, 4, 2, 3, 9, 20], ["a", "a", 7, "a", "unknown", "unknown", 7], [8, 11, 5, 15, 1, 1, 2])
    tokens = m.encode(m.decode(value))
    assert m.measure(value) == (2, 5)
    assert tokens.times.tolist() == [5, 35]
    one, two = np.log1p([1, 2]).astype(np.float32)
    assert tokens.values.tolist() == [[1.5, 5, two, one], [-1, 2, one, one]]


def plain_statistics(item: SeriesField, m, value) -> list[list[float]]:
    """Patches by loops over windows, channels and readings, scores taken one by one."""
    rows = [r for r in zip(*value, strict=True) if r[1] in m._ids and r[2] is not None]
    pick = {"mean": np.mean, "min": min, "max": max, "first": lambda x: x[0], "last": lambda x: x[-1]}
    patches = []
    for window in sorted({r[0] // item.window_s for r in rows}):
        parts: dict[str, list[float]] = {name: [] for name in item.statistics}
        counts = []
        for channel, c in m._ids.items():
            held = sorted((t, m._scores(np.array([c]), np.array([x]))[0]) for t, k, x in rows if k == channel
                          and t // item.window_s == window)  # fmt: skip
            counts.append(math.log1p(len(held)))
            for name, part in parts.items():
                part.append(pick[name]([score for _, score in held]) if held else 0.0)
        signed = [x for part in parts.values() for x in part]
        patches.append(signed + [abs(x) for x in signed] * item.deviations + counts)
    return patches


@pytest.mark.parametrize("scores", ["standard", "rank"])
@pytest.mark.parametrize("deviations", [False, True])
def test_statistics_of_windows_equal_a_plain_loop(scores, deviations):
    rng = np.random.default_rng(0)
    item = field(
        window_s=10, max_seconds=100, statistics=("last", "min", "mean", "first", "max"), scores=scores,
        deviations=deviations, max_channels=3,
    )  # fmt: skip
    draw = [
        (rng.choice(99, n).tolist(), rng.choice(["a", "b", "c", "d"], n, p=[0.4, 0.3, 0.2, 0.1]).tolist(),
         [None if x > 2 else float(np.round(x, 1)) for x in rng.standard_normal(n)])
        for n in (0, 1, 40, 200)
    ]  # fmt: skip
    m = fitted(item, draw)
    sizes = []
    for value in draw:
        tokens = m.encode(m.decode(value))
        want = plain_statistics(item, m, value)
        assert tokens.values.tolist() == [pytest.approx(row, abs=1e-6) for row in want]
        sizes.append(tokens.values.shape)
    assert sizes[-1] == (10, (5 * (1 + deviations) + 1) * 3)
    assert m.spec.patch_dim == sizes[-1][1]


def test_impossible_readings_score_as_the_edge_of_plausible_ones():
    rng = np.random.default_rng(1)
    usual = rng.normal(7.4, 0.1, 2000).tolist()
    train = [(list(range(1000)), ["pH"] * 1000, usual[i : i + 1000]) for i in (0, 1000)]
    spoilt = [*train, ([1, 2], ["pH", "pH"], [735.0, 1e6])]
    item = field(window_s=1e4, max_seconds=1e4, scores="rank", statistics=("last",))
    clean, broken = fitted(item, train), fitted(item, spoilt)

    def score(m, x: float) -> float:
        return float(m.encode(m.decode(([5], ["pH"], [x]))).values[0, 0])

    for x in (7.1, 7.4, 7.45, 7.7):
        assert score(broken, x) == pytest.approx(score(clean, x), abs=0.05)
    assert score(broken, 735.0) == score(broken, 1e6) < 4
    assert abs(score(fitted(field(window_s=1e4, max_seconds=1e4), spoilt), 7.7)) < 0.05, "z-scores are spoilt"


def test_settings_of_statistics_are_refused_where_they_have_no_effect():
    for more in ({"statistics": ("last",)}, {"scores": "rank"}, {"deviations": True}):
        with pytest.raises(ValueError, match=f"`{next(iter(more))}` has no effect without `time`"):
            SeriesField(modality="series", channels=("a",), **more)
    with pytest.raises(ValueError, match="each of `statistics` once"):
        field(statistics=("mean", "mean"))


def test_absent_readings_and_unknown_channels_are_no_tokens():
    m = make_series("s", field(), {"channels": ["a"], "means": [0], "stds": [1]})
    value = ([0, 1, 2, 3], ["a", "a", "b", "a"], [None, math.nan, 4.0, 5.0])
    assert m.measure(value) == (1, 1)
    assert m.encode(m.decode(value)).times.tolist() == [3.5]
    assert m.measure(([1, 2], ["b", "c"], [1, 2])) == m.measure(([], [], [])) == (0, 0)
    assert m.grid((0, 0)) == (0, 1)
    assert fitted(field(), []).measure(([1], ["a"], [1])) == (0, 0)


@pytest.mark.parametrize(("keep", "times"), [("first", [0.5, 1.5, 2.5]), ("middle", [4.5]), ("last", [6.5, 7.5, 8.5])])
def test_a_longer_series_is_cut_and_keeps_its_clock(keep, times):
    m = make_series("s", field(max_seconds=3, keep=keep), {"channels": ["a"], "means": [0], "stds": [1]})
    value = ([0, 1, 2.5, 4, 6.2, 9, 8.6, 7], ["a", "a", "a", "a", "a", "b", "a", "a"], [1] * 8)
    assert m.encode(m.decode(value)).times.tolist() == times
    assert m.measure(value)[0] <= m.spec.max_grid[0] == 3


def test_the_last_window_is_closed():
    m = make_series("s", field(**HOUR), {"channels": ["a"], "means": [0], "stds": [1]})
    assert m.spec.max_grid == (48, 1)
    assert m.encode(m.decode(([2879, 2880], ["a", "a"], [1, 1]))).times.tolist() == [47.5 * 3600]


@given(st.permutations([(0, "b", 1), (1, "a", 1), (2, "a", 3), (3, 5, 1), (4, 5, 1), (5, "c", 1), (6, "c", None)]))
def test_the_most_frequent_channels_are_kept_ties_by_name(rows):
    state = fit(field(max_channels=3), iter([columns(rows)]))
    assert state == {"channels": [5, "a", "b"], "means": [1, 2, 1], "stds": [1, 1, 1]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (([1, 2], ["a"], [1]), "expected aligned lists, but `t` has 2, `k` 1 and `v` 1 entries"),
        (([1], None, [1]), "expected a list of channel names in column `k`, but is NoneType None"),
        ((None, ["a"], [1]), "expected a list of numbers in column `t`, but is NoneType None"),
        (([1], "a", [1]), "expected a list of channel names in column `k`, but is str 'a'"),
        (([1], [None], [1]), "expected strings or integers in column `k`, but one is NoneType None"),
        (([1], [["a"]], [1]), r"expected strings or integers in column `k`, but one is list \['a'\]"),
        (([-1], ["a"], [1]), r"expected times from 0 to 1e\+10 s in column `t`, but one is -1 \(times 60 s\)"),
        (([None], ["a"], [1]), "expected times from 0 .* in column `t`, but one is nan"),
        (([1e12], ["a"], [1]), r"expected times from 0 .* in column `t`, but one is 1e\+12"),
        (([math.inf], ["a"], [1]), "expected finite numbers of float32 size in column `t`, but one is inf"),
        (([1], ["a"], [math.inf]), "expected finite numbers of float32 size in column `v`, but one is inf"),
        (([1], ["a"], ["1"]), "expected a number in column `v`, but is str '1'"),
    ],
)
def test_what_is_no_series_is_refused_with_column_and_value(value, reason):
    m = fitted(field(**HOUR), [([1], ["a"], [3]), value])
    assert m._means.tolist() == [3]  # fitting passed over it
    for use in (m.measure, m.decode):
        with pytest.raises(RecordError, match=reason) as error:
            use(value)
        assert len(str(error.value)) < 150


def test_too_many_windows_are_refused():
    with pytest.raises(DataError, match="`window_s`: expected at most 100,000 windows in `max_seconds`, but 3600 s"):
        fitted(field(window_s=0.01), [])


def test_absurd_values_stay_bounded():
    m = make_series("s", field(keep="last"), {"channels": ["a"], "means": [0], "stds": [1e-30]})
    tokens = m.encode(m.decode(([0, 1e10], ["a", "a"], [1, -3e38])))
    assert tokens.values.tolist() == [[-1000, np.float32(np.log(2))]]
    assert tokens.times.tolist() == [np.float32(1e10)]
