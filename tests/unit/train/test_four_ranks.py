"""Four workers (gloo, one process each, without Ray) compute what one computes, also in groups that hold copies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from interlace.train.checkpoint import MODEL, verify
from tests.ranks import HALF, LATER, STEPS, Case, run, state, together

pytestmark = pytest.mark.slow

WORKERS = 4
CASES = {
    "ddp": Case(parallel="ddp", workers=WORKERS),
    "fsdp": Case(parallel="fsdp", workers=WORKERS),
    "hybrid": Case(parallel="fsdp", workers=WORKERS, shard_over=2, save="halves"),
    "hybrid resumed": Case(parallel="fsdp", workers=WORKERS, shard_over=2, first=HALF, last=LATER, load="halves"),
    "quarters of halves": Case(parallel="fsdp", workers=WORKERS, first=HALF, last=LATER, load="halves"),
    "ddp of halves": Case(parallel="ddp", workers=WORKERS, first=HALF, last=LATER, load="halves"),
    "hybrid rare": Case(parallel="fsdp", workers=WORKERS, shard_over=2, last=3, rare=True),
    "hybrid numbers": Case(parallel="fsdp", workers=WORKERS, shard_over=2, last=3, fusion="weighted_sum"),
    "hybrid muon": Case(parallel="fsdp", workers=WORKERS, shard_over=2, last=4, optimizer="muon"),
    "hybrid muon unread": Case(parallel="fsdp", workers=WORKERS, shard_over=2, last=4, optimizer="muon", unread=True),
}
"""`hybrid`: two groups of two, each of which holds the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Losses of one worker, its weights, what the ranks found, and their folder."""

    folder: Path
    alone: dict[str, list[float]]
    weights: dict[str, torch.Tensor]
    found: list[dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("four")
    torch.set_num_threads(1)
    whole, losses, _ = run(Case(parallel="ddp"), folder)
    return Results(
        folder=folder,
        alone={
            "whole": losses,
            "rare": run(Case(parallel="ddp", last=3, rare=True), folder).losses,
            "numbers": run(Case(parallel="ddp", last=3, fusion="weighted_sum"), folder).losses,
            "muon": run(Case(parallel="ddp", last=4, optimizer="muon"), folder).losses,
        },
        weights={k: v.clone() for k, v in whole.network.state_dict().items()},
        found=together(CASES, folder, WORKERS),
    )


def losses_of(results: Results, name: str) -> list[float]:
    every = [found[name]["losses"] for found in results.found]
    assert len(every) == WORKERS
    assert all(losses == every[0] for losses in every), "ranks report different losses"
    return list(every[0])


@pytest.mark.parametrize("name", ["ddp", "fsdp", "hybrid"])
def test_four_workers_equal_one_over_20_steps(results: Results, name: str) -> None:
    losses = losses_of(results, name)
    assert len(losses) == STEPS
    assert losses == pytest.approx(results.alone["whole"], abs=1e-5)
    weights = safetensors.torch.load_file(results.folder / f"{name}.weights")
    assert weights.keys() == results.weights.keys()
    assert max(float((weights[k] - results.weights[k]).abs().max()) for k in weights) < 1e-4


@pytest.mark.parametrize(
    ("name", "alone"), [(f"hybrid {x}", x.split()[0]) for x in ("rare", "numbers", "muon", "muon unread")]
)
def test_groups_that_hold_copies_equal_one_worker(results: Results, name: str, alone: str) -> None:
    assert losses_of(results, name) == pytest.approx(results.alone[alone], abs=1e-5)


@pytest.mark.parametrize(("name", "share"), [("ddp", 2.0), ("fsdp", 0.5), ("hybrid", 1.0)])
def test_each_holds_its_part_of_what_its_group_holds(results: Results, name: str, share: float) -> None:
    """Adam keeps two numbers for each weight."""
    assert [found[name]["held"] for found in results.found] == pytest.approx([share] * WORKERS, abs=0.1)


def test_one_group_writes_and_any_number_of_workers_goes_on(results: Results) -> None:
    folder = results.folder / "halves"
    assert verify(folder) == state(HALF)
    assert len(list(folder.glob("*-of-00002.safetensors"))) == 4
    assert not (folder / MODEL).exists()
    uninterrupted = losses_of(results, "hybrid")[HALF:LATER]
    assert losses_of(results, "hybrid resumed") == uninterrupted
    for name in ("quarters of halves", "ddp of halves"):
        assert losses_of(results, name) == pytest.approx(uninterrupted, abs=1e-5)
