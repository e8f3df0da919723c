"""Evaluation of a trained model over a split, for all its fields and for subsets of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from pipeline.batch import to_batch
from pipeline.data.index import build_index
from pipeline.data.reader import Reader
from pipeline.model.network import Network
from pipeline.recipe import Recipe
from pipeline.train.build import network_for
from pipeline.train.checkpoint import load_weights
from pipeline.train.loop import States, add_states, batch_states, evaluate
from pipeline.train.worker import read_share

ALL_SUBSETS_UP_TO = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetResult:
    """How well a model does when only some fields are given to it.

    Args:
        fields: the fields given; the others are missing from every sample.
        metrics: `task/metric`.
        states: the additive metric states, by task.
    """

    fields: tuple[str, ...]
    metrics: dict[str, float]
    states: States


def field_subsets(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """All fields first; then every subset, up to 5 fields; above that leave-one-out and only-one."""
    sizes = range(len(fields), 0, -1)
    if len(fields) > ALL_SUBSETS_UP_TO:
        sizes_kept = [n for n in sizes if n in (len(fields), len(fields) - 1, 1)]
        return [s for n in sizes_kept for s in combinations(fields, n)]
    return [s for n in sizes for s in combinations(fields, n)]


def evaluate_subsets(
    network: Network, reader: Reader, recipe: Recipe, subsets: Sequence[tuple[str, ...]], device: torch.device
) -> list[SubsetResult]:
    """Evaluate each subset of fields over a split, read once and packed as in training.

    A sample of which no given field is present still counts: the model then answers from nothing.
    """
    tasks = network.tasks
    totals: list[States] = [{n: {} for n in tasks} for _ in subsets]
    for pack in read_share(reader):
        batch = to_batch(pack, device)
        for total, subset in zip(totals, subsets, strict=True):
            add_states(total, batch_states(network, batch.only(frozenset(subset)), recipe, device))
    return [
        SubsetResult(
            fields=subset,
            metrics={f"{n}/{k}": v for n, s in total.items() for k, v in tasks[n].compute(s).items()},
            states=total,
        )
        for subset, total in zip(subsets, totals, strict=True)
    ]


def evaluate_checkpoint(recipe: Recipe, checkpoint: Path) -> dict[str, float]:
    """Metrics of a checkpoint's weights on the validation split, `task/metric`, as training itself computes them."""
    index = build_index(recipe)
    network = network_for(recipe, index.fitted)
    load_weights(checkpoint, network)
    reader = index.reader(recipe, "validation", training=False)
    device = torch.device("cpu")
    return evaluate(network, (to_batch(pack, device) for pack in read_share(reader)), recipe, device)
