"""Importance of settings against scipy and scikit-learn, and on results whose causes are known."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.feature_selection import f_classif

from interlace.results.importance import bins, explained, importances, spearman


@pytest.mark.parametrize("seed", range(5))
def test_the_share_follows_from_the_f_statistic(seed: int) -> None:
    """With F = MS between / MS within, adjusted eta squared is (F - 1)(k - 1) / (F (k - 1) + n - k)."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 3, 40)
    results = rng.normal(size=40) + 0.8 * groups
    f = float(f_classif(results[:, None], groups)[0][0])
    n, k = 40, 3
    expected = (f - 1) * (k - 1) / (f * (k - 1) + n - k)
    assert explained(groups.tolist(), results) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_scipys_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 6, 30).astype(float), rng.normal(size=30).round(1)
    assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)


def test_what_moves_the_result_is_told_from_what_does_not() -> None:
    rng = np.random.default_rng(0)
    shares: dict[str, list[float]] = {"rate": [], "fusion": [], "void": [], "off": []}
    for _ in range(50):
        settings = [
            {
                "rate": float(10 ** rng.uniform(-4, -2)),
                "fusion": str(rng.choice(["mid", "early"])),
                "void": float(rng.random()),
                "off": bool(rng.random() < 0.5),
            }
            for _ in range(27)
        ]
        results = [-abs(np.log10(s["rate"]) + 3) + 0.1 * (s["fusion"] == "mid") + 0.05 * rng.normal() for s in settings]
        for item in importances(settings, results):
            shares[item.path].append(item.share)
    means = {path: float(np.mean(values)) for path, values in shares.items()}
    assert means["rate"] > 0.5
    assert means["void"] < 3 / 26  # what chance explains without the adjustment; some is left, for none is below 0
    assert means["off"] < 1 / 26
    assert max(means, key=lambda p: means[p]) == "rate"


def test_bins_hold_equally_many_and_a_logarithm_changes_none() -> None:
    values = np.random.default_rng(0).lognormal(size=40).tolist()
    cut = bins(values)
    assert np.bincount(cut).tolist() == [10, 10, 10, 10]
    assert bins(np.log(values).tolist()) == cut
    assert bins([1, 2, 2, 1]) == [0, 0, 0, 0]  # too few trials for two bins of 3
    assert bins([1, 2, 2, 1, 1, 2]) == [0, 1, 1, 0, 0, 1]


def test_nothing_to_compare_explains_nothing() -> None:
    found = importances([{"a": 1.0, "b": "x"}, {"a": None, "b": "x"}], [0.5, 0.5])
    assert {i.path: (i.share, i.num_trials) for i in found} == {"a": (0.0, 1), "b": (0.0, 2)}
    assert importances([], []) == []
    assert explained([0, 0, 1, 1], np.array([1.0, 1.0, 1.0, 1.0])) == 0.0
    assert explained([0, 0, 1, 1], np.array([1.0, 1.0, 2.0, 2.0])) == 1.0
