"""Laws of metrics of rankings: equal to torchmetrics and to plain definitions, whatever the order and the ties."""

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as reference
from numpy.typing import NDArray

from interlace.tasks.ranking import auroc, average_precision, macro, mean_defined, min_recall_precision

METRICS = (auroc, average_precision, min_recall_precision)


def drawn(size: int, levels: int | None, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores between 0 and 1, of few levels where ties are wanted, and hits that are likelier at high ones."""
    rng = np.random.default_rng(seed)
    scores = rng.random(size).astype(np.float32)
    hits = rng.random(size) < 0.05 + 0.5 * scores
    return (scores if levels is None else np.round(scores * levels) / np.float32(levels)), hits


@pytest.mark.parametrize("levels", [None, 7, 1])
@pytest.mark.parametrize("size", [2, 5, 400])
def test_binary_metrics_equal_torchmetrics(levels: int | None, size: int) -> None:
    seen = 0
    for seed in range(10):
        scores, hits = drawn(size, levels, seed)
        if not hits.any() or hits.all():
            continue
        preds, target = torch.from_numpy(scores), torch.from_numpy(hits).long()
        assert auroc(scores, hits) == pytest.approx(float(reference.binary_auroc(preds, target)), abs=1e-6)
        want = float(reference.binary_average_precision(preds, target))
        assert average_precision(scores, hits) == pytest.approx(want, abs=1e-6)
        precision, recall, _ = reference.binary_precision_recall_curve(preds, target)
        want = float(torch.minimum(precision, recall).max())
        assert min_recall_precision(scores, hits) == pytest.approx(want, abs=1e-6)
        seen += 1
    assert seen >= 2


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    scores, hits = drawn(60, 9, 3)
    pairs = np.sign(scores[hits][:, None] - scores[~hits][None, :]).astype(np.float64)
    assert auroc(scores, hits) == pytest.approx(float((pairs + 1).mean() / 2), rel=1e-12)
    assert (pairs == 0).any()


@pytest.mark.parametrize("metric", METRICS)
def test_order_of_samples_and_any_rising_map_of_scores_change_nothing(metric) -> None:
    scores, hits = drawn(200, 20, 5)
    order = np.random.default_rng(1).permutation(200)
    assert metric(scores[order], hits[order]) == metric(scores, hits)
    assert metric(np.exp(3 * scores.astype(np.float64)) - 7, hits) == metric(scores, hits)
    assert metric(scores, hits) != metric(-scores, hits)


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_rankings_are_one(metric) -> None:
    assert metric(np.array([3.0, 2.0, 1.0]), np.array([True, True, False])) == 1
    assert metric(np.array([1.0, 1.0]), np.array([True, False])) < 1


def test_what_is_not_defined_is_nan_and_left_out_of_means() -> None:
    none, some = np.zeros(0), np.array([0.1, 0.2])
    for metric in METRICS:
        assert math.isnan(metric(none, none > 0))
        assert math.isnan(metric(some, np.array([False, False])))
    assert math.isnan(auroc(some, np.array([True, True])))
    assert average_precision(some, np.array([True, True])) == 1
    assert mean_defined([0.5, math.nan, 1.0]) == 0.75
    assert math.isnan(mean_defined([math.nan]))
    hits = np.array([[True, False], [False, False]])
    assert macro(auroc, np.array([[0.9, 0.1], [0.2, 0.3]]), hits) == 1


def test_macro_of_several_classes_equals_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(4), 300).astype(np.float32)
    classes = np.array([rng.choice(4, p=p / p.sum()) for p in chances.astype(np.float64)])
    hits = classes[:, None] == np.arange(4)
    preds, target = torch.from_numpy(chances), torch.from_numpy(classes)
    for ours, theirs in ((auroc, "auroc"), (average_precision, "average_precision")):
        single = getattr(reference, f"multiclass_{theirs}")(preds, target, num_classes=4, average="macro")
        assert macro(ours, chances, hits) == pytest.approx(float(single), abs=1e-6)
        many = getattr(reference, f"multilabel_{theirs}")(preds, torch.from_numpy(hits).long(), 4, average="macro")
        assert macro(ours, chances, hits) == pytest.approx(float(many), abs=1e-6)
