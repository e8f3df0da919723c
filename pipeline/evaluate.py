"""Evaluation of a trained model over a split, for all its fields and for subsets of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from pipeline.batch import to_batch
from pipeline.data.reader import Reader
from pipeline.model.network import Network, Outputs
from pipeline.recipe import Recipe
from pipeline.train.loop import States, add_states, evaluated
from pipeline.train.worker import read_share

ALL_SUBSETS_UP_TO = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetResult:
    """How well a model does when only some fields are given to it.

    Args:
        fields: the fields given; the others are missing from every sample.
        metrics: `task/metric`.
        states: the additive metric states, by task.
        weights: mean of what the fusion weighs each field with, over the samples that have it; empty where the fusion
            has no weights or no task reads all fields.
    """

    fields: tuple[str, ...]
    metrics: dict[str, float]
    states: States
    weights: dict[str, float]


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
    for task in tasks.values():
        task.thorough = True
    totals: list[States] = [{n: {} for n in tasks} for _ in subsets]
    weights = [FieldWeights(tuple(recipe.fields)) for _ in subsets]
    for pack in read_share(reader):
        batch = to_batch(pack, device)
        for total, mean, subset in zip(totals, weights, subsets, strict=True):
            for outputs, states in evaluated(network, batch.only(frozenset(subset)), recipe, device):
                add_states(total, states)
                mean.add(outputs)
    return [
        SubsetResult(
            fields=subset,
            metrics={f"{n}/{k}": v for n, s in total.items() for k, v in tasks[n].compute(s).items()},
            states=total,
            weights=mean.compute(),
        )
        for subset, total, mean in zip(subsets, totals, weights, strict=True)
    ]


class FieldWeights:
    """The mean of what a fusion weighs each field with, over the samples that have it."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields
        self.sums = torch.zeros(len(fields), dtype=torch.float64)
        self.counts = torch.zeros(len(fields), dtype=torch.int64)

    def add(self, outputs: Outputs) -> None:
        """Add the samples of a pack; nothing where the fusion weighs none of their fields."""
        if outputs.weights_SF is None:
            return
        present_SF = torch.stack([outputs.fields[name].present_S for name in self.fields], dim=1)
        self.sums += outputs.weights_SF.double().sum(0).cpu()
        self.counts += present_SF.sum(0).cpu()

    def compute(self) -> dict[str, float]:
        """By field; empty where no field was weighed."""
        if not self.sums.any():
            return {}
        means = (self.sums / self.counts).tolist()
        return {name: mean for name, mean in zip(self.fields, means, strict=True) if mean == mean}
