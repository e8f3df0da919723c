"""Evaluation of a trained model over a split, for all its fields and for subsets of them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from interlace.contract.batch import to_batch
from interlace.contract.sample import Pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.read.share import read_share
from interlace.model.network import Network, Outputs
from interlace.recipe.recipe import Recipe
from interlace.train.build import network_for
from interlace.train.checkpoint import load_weights
from interlace.train.loop import States, add_states, evaluate, evaluated

ALL_SUBSETS_UP_TO = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldWeight:
    """What the fusion weighs a field with, over the samples that have it and in which anything is weighed."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetResult:
    """How well a model does when only some fields are given to it.

    Args:
        fields: the fields given; the others are missing from every sample.
        metrics: `task/metric`.
        states: the additive metric states, by task.
        weights: by field, where all fields are given and the fusion weighs them (see `model.fusions`); else empty.
    """

    fields: tuple[str, ...]
    metrics: dict[str, float]
    states: States
    weights: Mapping[str, FieldWeight]


class WeightSums:
    """Sums over batches of what the fusion weighs each field with."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, outputs: Outputs) -> None:
        """Count the samples of a batch."""
        if outputs.weights_SF is None:
            return
        weighed_S = outputs.weights_SF.sum(1) > 0
        for (name, state), weight_S in zip(outputs.fields.items(), outputs.weights_SF.unbind(1), strict=True):
            own_S = weight_S[state.present_S & weighed_S].double()
            sums = torch.stack([torch.ones_like(own_S), own_S, own_S.square()], dim=0).sum(1).cpu()
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def result(self) -> dict[str, FieldWeight]:
        """By field, those that no sample has left out."""
        found = {}
        for name, sums in self._sums.items():
            count, total, squares = sums.tolist()
            if count:
                mean = total / count
                found[name] = FieldWeight(mean=mean, std=max(squares / count - mean * mean, 0.0) ** 0.5)
        return found


def field_subsets(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """All fields first; then every subset, up to 5 fields; above that leave-one-out and only-one."""
    sizes = range(len(fields), 0, -1)
    if len(fields) > ALL_SUBSETS_UP_TO:
        sizes_kept = [n for n in sizes if n in (len(fields), len(fields) - 1, 1)]
        return [s for n in sizes_kept for s in combinations(fields, n)]
    return [s for n in sizes for s in combinations(fields, n)]


def evaluate_subsets(
    network: Network,
    packs: Iterable[Pack],
    recipe: Recipe,
    subsets: Sequence[tuple[str, ...]],
    device: torch.device,
) -> list[SubsetResult]:
    """Evaluate each subset of fields over the packs of a split, which are read once.

    A sample of which no given field is present still counts: the model then answers from nothing.
    """
    tasks = network.tasks
    for task in tasks.values():
        task.thorough = True
    totals: list[States] = [{n: {} for n in tasks} for _ in subsets]
    weights = [WeightSums() for _ in subsets]
    for pack in packs:
        batch = to_batch(pack, device)
        for total, subset, sums in zip(totals, subsets, weights, strict=True):
            whole = len(subset) == len(network.names)
            with network.measuring() if whole else nullcontext():
                found = evaluated(network, batch if whole else batch.only(frozenset(subset)), recipe, device)
            for _, states in found:
                add_states(total, states)
            if whole:
                sums.add(found[0][0])
    return [
        SubsetResult(
            fields=subset,
            metrics={f"{n}/{k}": v for n, s in total.items() for k, v in tasks[n].compute(s).items()},
            states=total,
            weights=sums.result(),
        )
        for subset, total, sums in zip(subsets, totals, weights, strict=True)
    ]


def evaluate_checkpoint(recipe: Recipe, checkpoint: Path) -> dict[str, float]:
    """Metrics of a checkpoint's weights on the validation split, `task/metric`, as training itself computes them."""
    index = build_index(recipe)
    network = network_for(recipe, index.fitted)
    load_weights(checkpoint, network)
    reader = open_reader(index, recipe, "validation", training=False)
    device = torch.device("cpu")
    return evaluate(network, (to_batch(pack, device) for pack in read_share(reader)), recipe, device)
