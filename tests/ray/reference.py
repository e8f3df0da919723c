"""An undisturbed run of a recipe in this process, without Ray: what every other way of running it must equal."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from interlace.data.index.build import build_index
from interlace.recipe.recipe import Recipe
from tests.training import start


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """`(step, position) -> (sample ids, loss)` of every pack, loss by step, final weights."""

    packs: dict[tuple[int, int], tuple[tuple[int, ...], float]]
    losses: dict[int, float]
    weights: dict[str, Tensor]


def run_here(recipe: Recipe) -> Trace:
    """Train in this process on one thread, packs from the in-process reader."""
    torch.set_num_threads(1)
    index = build_index(recipe)
    loop, packs = start(recipe, index)
    reports = list(loop.steps(packs, 0))
    return Trace(
        packs={(t.step, t.position): (t.sample_ids, t.loss) for r in reports for t in r.traces},
        losses={r.step: r.loss for r in reports},
        weights={k: v.clone() for k, v in loop.network.state_dict().items()},
    )


def read_traces(folder: Path) -> tuple[dict[tuple[int, int], tuple[tuple[int, ...], float]], int]:
    """The traces of all ranks of a run folder, and how many packs were computed more than once.

    Asserts that a pack computed again gave the same samples and the same loss.
    """
    found: dict[tuple[int, int], tuple[tuple[int, ...], float]] = {}
    again = 0
    for path in sorted(folder.glob("trace-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            key, value = (item["step"], item["position"]), (tuple(item["ids"]), item["loss"])
            if key in found:
                again += 1
                assert found[key] == value, f"pack {key} differs when computed again"
            found[key] = value
    return found, again
