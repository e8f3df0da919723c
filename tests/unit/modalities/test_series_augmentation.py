"""Laws of augmented series: each setting does what it says and no token comes or goes."""

import math

import numpy as np
import pytest

from interlace.modalities.base import Modality
from interlace.modalities.series import make_series
from interlace.recipe.fields import SeriesField

LENGTH = 400


def regular(**more) -> Modality:
    """Two channels in windows of 10 readings, at 10 Hz."""
    item = SeriesField(modality="series", channels=("a", "b"), rate_hz=10, **more)
    return make_series("s", item, {"means": [0.0, 0.0], "stds": [1.0, 3.0]})


def irregular(**more) -> Modality:
    """Two channels in windows of a second."""
    item = SeriesField(modality="series", time="t", channel="k", value="v", **more)
    return make_series("s", item, {"channels": ["a", "b"], "means": [0.0, 0.0], "stds": [1.0, 3.0]})


def line(with_gaps: bool = True) -> tuple:
    """Readings that tell their place, with a gap of two windows and single gaps."""
    place = np.arange(1.0, LENGTH + 1)
    if with_gaps:
        place[100:123] = np.nan
        place[[7, 33, 250]] = np.nan
    return [None if math.isnan(v) else v for v in place.tolist()], (place * 2).tolist() if not with_gaps else None


def points() -> tuple:
    rng = np.random.default_rng(0)
    times = np.sort(np.concatenate([rng.uniform(0, 10, 150), rng.uniform(13, 40, 250)]))
    return times.tolist(), rng.choice(["a", "b"], LENGTH).tolist(), (times + 1).tolist()


CASES = [(regular, line()), (regular, line(with_gaps=False)), (irregular, points())]
seeds = pytest.mark.parametrize("seed", range(8))
cases = pytest.mark.parametrize(("make", "value"), CASES, ids=["gaps", "whole", "irregular"])


def readings(m: Modality, decoded: np.ndarray) -> np.ndarray:
    return decoded[:, 1:] if decoded.shape[1] > 4 else decoded[:, 3]


@cases
def test_without_settings_nothing_changes(make, value):
    decoded = make().decode(value)
    rng = np.random.default_rng(0)
    assert make().augment(decoded, rng) is decoded
    assert rng.random() == np.random.default_rng(0).random()
    nothing = make().decode(([],) * len(value))
    assert len(make(jitter=1, shift=0.5).augment(nothing, rng)) == 0


@cases
@pytest.mark.parametrize("setting", [{"jitter": 0.3}, {"scale": 0.3}, {"shift": 0.9}, {"time_mask": 0.9}], ids=str)
def test_every_setting_keeps_the_tokens_and_changes_something(make, value, setting):
    m = make(**setting)
    decoded = m.decode(value)
    tokens = m.encode(decoded)
    changed = 0
    for seed in range(20):
        varied = m.encode(m.augment(decoded, np.random.default_rng(seed)))
        assert varied.values.shape == tokens.values.shape
        assert varied.times.shape == tokens.times.shape
        assert np.isfinite(varied.values).all()
        assert (varied.times.tobytes() == tokens.times.tobytes()) or "shift" in setting
        changed += varied.values.tobytes() != tokens.values.tobytes()
    assert changed >= 15  # a shift or a mask may be drawn shorter than a reading


@cases
def test_draws_are_the_same_whatever_else_is_on(make, value):
    alone, both = make(scale=0.3), make(scale=0.3, jitter=1e-12)
    decoded = alone.decode(value)
    one, two = (readings(m, m.augment(decoded, np.random.default_rng(4))) for m in (alone, both))
    assert one == pytest.approx(two, rel=1e-9, nan_ok=True)


def test_jitter_is_noise_in_deviations_of_the_channel():
    m = regular(jitter=0.5)
    decoded = m.decode(line(with_gaps=False))
    noise = (m.augment(decoded, np.random.default_rng(0)) - decoded)[:, 1:].reshape(-1, 2)
    assert noise.std(0) == pytest.approx([0.5, 1.5], rel=0.1)
    assert noise.mean(0) == pytest.approx([0, 0], abs=0.2)
    m = irregular(jitter=0.5)
    decoded = m.decode(points())
    noise = m.augment(decoded, np.random.default_rng(0))[:, 3] - decoded[:, 3]
    assert [noise[decoded[:, 2] == c].std() for c in (0, 1)] == pytest.approx([0.5, 1.5], rel=0.2)


@cases
def test_scale_is_one_factor_a_channel(make, value):
    m = make(scale=0.4)
    decoded = m.decode(value)
    seen = []
    for seed in range(30):
        ratio = readings(m, m.augment(decoded, np.random.default_rng(seed))) / readings(m, decoded)
        at = np.tile([0, 1], ratio.size // 2).reshape(ratio.shape) if ratio.ndim == 2 else decoded[:, 2]
        factors = [np.unique(ratio[(at == c) & ~np.isnan(ratio)].round(9)) for c in (0, 1)]
        assert all(len(f) <= 1 for f in factors)
        seen += [f.item() for f in factors if len(f)]
    assert 0.6 <= min(seen) < 0.7
    assert 1.3 < max(seen) <= 1.4


@seeds
def test_shift_moves_the_windows_over_the_readings(seed):
    m = regular(shift=0.9)
    decoded = m.decode(line())
    moved = m.augment(decoded, np.random.default_rng(seed))
    by = round((moved[0, 0] - decoded[0, 0]) * 10)
    assert 0 <= abs(by) <= 9
    assert moved[:, 0] == pytest.approx(decoded[:, 0] + by / 10)
    begins = np.rint((moved[:, 0] - 0.5) * 10).astype(int)
    kept = set(np.rint((decoded[:, 0] - 0.5) * 10).astype(int))
    whole = line()[0]
    for begin, row in zip(begins, moved[:, 1:].reshape(-1, 10, 2)[:, :, 0], strict=True):
        for place, found in zip(range(begin, begin + 10), row, strict=True):
            inside = place - place % 10 in kept and whole[place] is not None
            assert found == whole[place] if inside else math.isnan(found)


@seeds
def test_shift_moves_windows_over_readings_at_times_of_their_own(seed):
    m = irregular(shift=0.9)
    decoded = m.decode(points())
    moved = m.augment(decoded, np.random.default_rng(seed))
    real = moved[~np.isnan(moved[:, 3])]
    assert (np.abs(real[:, 0] - real[:, 1]) <= 0.5 + 1e-9).all()  # each lies in its window
    assert {tuple(r) for r in real[:, 1:]} <= {tuple(r) for r in decoded[:, 1:]}
    steps = np.unique(moved[:, 0]) - np.unique(decoded[:, 0])
    assert np.ptp(steps) < 1e-9
    assert 0 < abs(steps[0]) <= 0.9
    windows = np.floor(decoded[:, 1])
    assert len(real) == np.isin(np.floor(decoded[:, 1] - steps[0]), windows).sum() < len(decoded)


@cases
def test_time_mask_makes_one_stretch_absent(make, value):
    m = make(time_mask=0.5)
    decoded = m.decode(value)
    shares = []
    for seed in range(40):
        masked = m.augment(decoded, np.random.default_rng(seed))
        present = ~np.isnan(readings(m, decoded)).reshape(len(decoded), -1)
        gone = np.isnan(readings(m, masked)).reshape(present.shape) & present
        assert np.array_equal(masked[~np.isnan(masked)], decoded[~np.isnan(masked)])
        hit = gone[present]
        if present.shape[1] == 1:
            hit = hit[np.argsort(decoded[:, 1])]
        edges = np.flatnonzero(np.diff(hit.astype(int)))
        assert len(edges) <= 2  # one block of what is present, in order of time
        shares.append(hit.mean())
    assert max(shares) < 0.62
    assert max(shares) > 0.35
    assert min(shares) < 0.1
