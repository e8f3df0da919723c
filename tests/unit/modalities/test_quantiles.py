"""Laws of scores by rank: normal scores of exact ranks, few knots, bounded samples."""

import json
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from interlace.modalities.quantiles import MOST, NUM_QUANTILES, PART, NormalScores, Quantiles, fit_knots


def whole(readings: NDArray[np.float64]) -> Quantiles:
    quantiles = Quantiles()
    for part in np.array_split(readings, len(readings) // PART + 1):
        quantiles.merge(Quantiles(part).state())
    return quantiles


def test_normal_readings_score_as_themselves_up_to_the_outermost_knots() -> None:
    exact = np.array([NormalDist().inv_cdf((i + 0.5) / 5000) for i in range(5000)])
    ours = NormalScores([fit_knots(whole(exact))])(np.zeros(5000, np.intp), exact)
    clipped = exact.clip(exact[25], exact[-25])  # at 0.5 % and 99.5 %
    assert ours == pytest.approx(clipped / clipped.std(), abs=0.02)
    assert exact.max() > clipped.max() + 1


def test_a_rising_map_of_the_readings_changes_no_score_at_a_knot() -> None:
    readings = np.sort(np.random.default_rng(1).random(101 * 2 + 1))
    knots, scores = fit_knots(whole(readings))
    _, again = fit_knots(whole(np.log(readings)))
    assert scores == pytest.approx(again)
    assert (np.diff(scores) > 0).all()
    assert len(knots) == NUM_QUANTILES


def test_tied_readings_share_the_mean_of_their_scores() -> None:
    readings = np.sort(np.r_[np.full(300, 15.0), np.arange(100) / 10])
    knots, scores = fit_knots(whole(readings))
    tied = scores[knots == 15.0]
    assert len(tied) == 1
    assert 0 < tied[0] < 1
    assert fit_knots(whole(np.full(9, 4.0)))[1].tolist() == [0.0]
    assert NormalScores([fit_knots(whole(np.zeros(0)))])(np.zeros(2, np.intp), np.array([1.0, -1.0])).tolist() == [
        0.0,
        0.0,
    ]


def test_scores_equal_numpys_interpolation_of_each_channel() -> None:
    rng = np.random.default_rng(2)
    fits = [np.sort(rng.lognormal(0, 1, size)).round(digits) for size, digits in ((1, 3), (2, 3), (50, 0), (900, 9))]
    knots = [fit_knots(whole(readings)) for readings in fits]
    channels = rng.integers(0, 4, 3000)
    readings = np.where(rng.random(3000) < 0.3, rng.choice(fits[2], 3000), rng.normal(1, 5, 3000))
    want = [np.interp(x, *knots[c]) for c, x in zip(channels, readings, strict=True)]
    assert NormalScores(knots)(channels, readings) == pytest.approx(want, abs=1e-9)
    assert len(knots[3][0]) == NUM_QUANTILES
    assert NormalScores(knots)(channels[:0], readings[:0]).shape == (0,)


def test_merged_parts_are_small_and_close_to_the_whole() -> None:
    readings = np.random.default_rng(3).lognormal(0, 2, 300_000)
    merged = Quantiles()
    for part in np.array_split(readings, 60):
        state = json.loads(json.dumps(Quantiles(part).state()))
        assert len(state[0]) == PART
        merged.merge(state)
        assert len(merged) <= 2 * MOST
    shares = np.linspace(0.005, 0.995, 100)
    ranks = np.searchsorted(np.sort(readings), merged.at(shares)) / len(readings)
    assert ranks == pytest.approx(shares, abs=0.003)


def test_few_readings_are_kept_as_they_are() -> None:
    merged = Quantiles()
    for part in ([3.0, 1.0], [], [2.0]):
        merged.merge(Quantiles(np.array(part)).state())
    assert merged.state() == ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert merged.at(np.array([0.1, 1 / 3, 0.5, 0.9])).tolist() == [1.0, 1.0, 2.0, 3.0]
