"""Networks with tasks of any kind, and batches that have targets for them: what tests of tasks share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from interlace.contract.batch import Batch, TargetBatch
from interlace.model.network import Network
from interlace.recipe import tasks as recipe
from interlace.recipe.model import Model
from interlace.tasks import TASKS
from tests.networks import FIELDS, SPECS, context

SETTINGS: dict[str, Any] = {
    "classification": recipe.ClassificationTask,
    "regression": recipe.RegressionTask,
    "retrieval": recipe.RetrievalTask,
    "reconstruction": recipe.ReconstructionTask,
}
NUMBERS = {"means": [10.0, -2.0], "stds": [4.0, 0.5], "lows": [0.0, -4.0], "highs": [20.0, 0.0]}
"""What two columns of numbers learned in training."""


def task_of(kind: str, name: str = "it", *, names: Sequence[str] = tuple(SPECS), **settings: Any) -> Any:
    """A task of a kind over the fields of `tests.networks`, width 32; numbers have the statistics of `NUMBERS`."""
    columns = len(settings.get("columns", ()))
    fitted = {key: value[:columns] for key, value in NUMBERS.items()} if kind == "regression" else {}
    made = SETTINGS[kind].model_validate({"task": kind} | settings)
    return TASKS[kind](made, context(name, model(), names, **fitted))


def model(fusion: str = "mid", **settings: Any) -> Model:
    """Small, without dropout."""
    name, _, query = fusion.partition(" by ")
    small = {
        "fusion": name,
        "query": query or None,
        "dim": 32,
        "head_dim": 16,
        "dropout": 0.0,
        "field_layers": 1,
        "joint_layers": 1,
    }
    return Model.model_validate(small | settings)


def network_of(tasks: Mapping[str, Any], fusion: str = "mid", *, seed: int = 0, **settings: Any) -> Network:
    """A network with these tasks, over all fields of `tests.networks`, its weights large enough to show differences."""
    torch.manual_seed(seed)
    network = Network(SPECS, FIELDS, model(fusion, **settings), tasks)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def with_targets(batch: Batch, **targets: TargetBatch) -> Batch:
    """The batch with these targets alone."""
    return dataclasses.replace(batch, targets=targets)


def numbers(rows: Sequence[Sequence[float] | None]) -> TargetBatch:
    """Numbers of each sample, None where it has no target at all."""
    there = [row for row in rows if row is not None]
    return TargetBatch(
        values=torch.tensor([v for row in there for v in row], dtype=torch.float32),
        lengths=torch.tensor([len(row or ()) for row in rows]),
        present=torch.tensor([row is not None for row in rows]),
    )


def classes(rows: Sequence[int | None]) -> TargetBatch:
    """One class of each sample, None where it has none; also groups."""
    present = torch.tensor([row is not None for row in rows])
    values = torch.tensor([row for row in rows if row is not None], dtype=torch.int64)
    return TargetBatch(values=values, lengths=present.long(), present=present)


def summed(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """States added key by key, as the loop adds them."""
    total = dict(states[0])
    for state in states[1:]:
        total = {key: total[key] + value for key, value in state.items()}
    return total
