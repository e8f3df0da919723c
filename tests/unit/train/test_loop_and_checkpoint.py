"""Laws of the loop and of checkpoints, without Ray."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from interlace.contract.errors import CheckpointError, NonFiniteLossError, PositionError
from interlace.contract.sample import Pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.recipe.recipe import Recipe
from interlace.train.build import network_for
from interlace.train.checkpoint import (
    HASHES,
    MODEL,
    OPTIMIZER,
    STATE,
    RunState,
    checkpoint_folder,
    load_training,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    verify,
)
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer
from interlace.train.prefetch import prefetch
from interlace.train.report import StepReport
from tests.data import EmojiLike


@pytest.fixture
def recipe(shapes: EmojiLike, tmp_path: Path) -> Recipe:
    return shapes.recipe(tmp_path / "out", model={"modality_dropout": 0.2}, batch={"global_batch": 2})


class Here:
    """A recipe's loop in this process."""

    def __init__(self, recipe: Recipe, num_steps: int = 12) -> None:
        torch.set_num_threads(1)
        index = build_index(recipe)
        self.reader = open_reader(index, recipe, "train", training=True)
        self.plan = self.reader.plan()
        self.schedule = self.plan.schedule(steps=num_steps)
        torch.manual_seed(recipe.seed)
        network = network_for(recipe, index.fitted)
        self.loop = Loop(
            network=network,
            optimizer=make_optimizer(recipe.optim, network),
            recipe=recipe,
            num_steps=num_steps,
            device=torch.device("cpu"),
        )

    def packs(self, start: int = 0) -> Iterator[Pack]:
        for window in self.schedule.since(start):
            yield from self.reader.read(window, first=start, stop=self.schedule.stop, plan=self.plan)

    def run(self, first: int = 0, last: int | None = None) -> list[StepReport]:
        reports = []
        for report in self.loop.steps(self.packs(first * self.schedule.global_batch), first):
            reports.append(report)
            if report.step == last:
                break
        return reports


def state(step: int) -> RunState:
    return RunState(
        step=step,
        best_step=-1,
        best_value=float("nan"),
        evaluations_since_best=0,
        finished=False,
        recipe_digest="r",
        data_digest="d",
    )


@pytest.mark.parametrize(
    ("optimizer", "ema"), [("adamw", 0.0), ("adam", 0.0), ("sgd", 0.0), ("muon", 0.0), ("adamw", 0.9)]
)
def test_resume_equals_uninterrupted(recipe: Recipe, tmp_path: Path, optimizer: str, ema: float) -> None:
    recipe = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"name": optimizer, "ema": ema})})
    whole = Here(recipe)
    reference = [(r.step, r.loss, [t.sample_ids for t in r.traces]) for r in whole.run()]
    first = Here(recipe)
    before = [(r.step, r.loss, [t.sample_ids for t in r.traces]) for r in first.run(last=5)]
    save_checkpoint(tmp_path / "step", first.loop.network, first.loop.optimizer, state(5), first.loop.average)
    second = Here(recipe)
    torch.rand(7)  # randomness used up elsewhere must not matter
    load_training(tmp_path / "step", second.loop.network, second.loop.optimizer, second.loop.average)
    after = [
        (r.step, r.loss, [t.sample_ids for t in r.traces]) for r in second.run(first=verify(tmp_path / "step").step)
    ]
    assert before + after == reference
    weights, expected = second.loop.network.state_dict(), whole.loop.network.state_dict()
    assert all(weights[k].equal(expected[k]) for k in expected)
    assert (second.loop.average is not None) == bool(ema)
    if second.loop.average and whole.loop.average:
        averages, expected = second.loop.average.tensors(), whole.loop.average.tensors()
        assert all(averages[k].equal(expected[k]) for k in expected)
    assert len(reference) == 12


def test_accumulation_equals_one_large_pack_share(recipe: Recipe) -> None:
    """The loss of a step is over all its targets, so its gradient is that of the packs together."""
    still = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"dropout": 0.0, "modality_dropout": 0.0})}
    )
    here = Here(still, num_steps=1)
    (report,) = here.run()
    losses = [t.loss for t in report.traces]
    assert len(losses) == 2
    assert report.loss == pytest.approx(sum(losses), rel=1e-6)


def test_non_finite_loss_stops_before_the_update(recipe: Recipe) -> None:
    here = Here(recipe)
    with torch.no_grad():
        next(here.loop.network.parameters()).fill_(float("nan"))
    before = {k: v.clone() for k, v in here.loop.network.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"step 1: loss nan.*`optim.lr`"):
        here.run()
    after = here.loop.network.state_dict()
    assert all(torch.equal(before[k].nan_to_num(7), after[k].nan_to_num(7)) for k in before)
    assert not here.loop.optimizer.state


def test_a_step_that_goes_wrong_is_read_a_step_later_and_changes_nothing(recipe: Recipe) -> None:
    here = Here(recipe)
    steps = here.loop.steps(here.packs(), 0)
    good = next(steps)
    before = {k: v.clone() for k, v in here.loop.network.state_dict().items()}
    state = copy.deepcopy(here.loop.optimizer.state_dict()["state"])
    spoil = here.loop.losses.register_forward_hook(lambda module, given, out: (out[0] * float("inf"), out[1]))
    bad = next(steps)
    spoil.remove()
    with pytest.raises(NonFiniteLossError, match=r"step 2: loss inf.*the weights of step 1 are kept"):
        next(steps)
    with pytest.raises(NonFiniteLossError, match="step 2"):
        bad.metrics  # noqa: B018
    assert math.isfinite(good.loss)
    after = here.loop.network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before), "nor has the good step after it"
    torch.testing.assert_close(here.loop.optimizer.state_dict()["state"], state, atol=0, rtol=0)


def test_the_last_step_is_read_before_the_loop_ends(recipe: Recipe) -> None:
    here = Here(recipe, num_steps=1)
    with torch.no_grad():
        next(here.loop.network.parameters()).fill_(float("nan"))
    steps = here.loop.steps(here.packs(), 0)
    assert next(steps).step == 1
    with pytest.raises(NonFiniteLossError, match="step 1"):
        next(steps)


def test_a_pack_out_of_place_stops_the_run(recipe: Recipe) -> None:
    here = Here(recipe)
    swapped = list(here.packs())
    swapped[2], swapped[3] = swapped[3], swapped[2]
    with pytest.raises(PositionError, match="expected the pack at position 2 on rank 0 of 1, but got position 3"):
        list(here.loop.steps(iter(swapped), 0))
    with pytest.raises(PositionError, match="the end of the stream"):
        list(here.loop.steps(iter(list(here.packs())[:3]), 0))


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE, HASHES])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_taken(
    recipe: Recipe, tmp_path: Path, name: str, damage: str
) -> None:
    here = Here(recipe, num_steps=4)
    for step in (2, 4):
        here.run(first=step - 2, last=step)
        save_checkpoint(checkpoint_folder(tmp_path, step), here.loop.network, here.loop.optimizer, state(step))
    assert newest_checkpoint(tmp_path).state == state_like(4)
    path = checkpoint_folder(tmp_path, 4) / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    found = newest_checkpoint(tmp_path)
    assert found.folder == checkpoint_folder(tmp_path, 2)
    assert len(found.refused) == 1
    assert "step-00000004" in found.refused[0]
    with pytest.raises(CheckpointError):
        verify(checkpoint_folder(tmp_path, 4))


def state_like(step: int) -> object:
    """Equal to a state of that step, NaN counted as equal."""

    class Like:
        def __eq__(self, other: object) -> bool:
            assert isinstance(other, RunState)
            return dataclasses.replace(other, best_value=0.0) == dataclasses.replace(state(step), best_value=0.0)

        __hash__ = None  # type: ignore[assignment]

    return Like()


def test_pruning_keeps_the_newest_and_the_best(recipe: Recipe, tmp_path: Path) -> None:
    here = Here(recipe, num_steps=1)
    for step in range(1, 7):
        save_checkpoint(checkpoint_folder(tmp_path, step), here.loop.network, here.loop.optimizer, state(step))
    prune_checkpoints(tmp_path, keep=2, best_step=3)
    assert [p.name[-1] for p in sorted((tmp_path / "checkpoints").iterdir())] == ["3", "5", "6"]


def test_prefetch_keeps_order_raises_errors_and_speaks_while_waiting(recipe: Recipe) -> None:
    packs = list(Here(recipe, num_steps=4).packs())
    assert [p.position for p in prefetch(packs, 2, print)] == list(range(8))

    def broken() -> Iterator[Pack]:
        yield packs[0]
        raise OSError("gone")

    stream = prefetch(broken(), 2, print)
    assert next(stream).position == 0
    with pytest.raises(OSError, match="gone"):
        next(stream)
    said: list[str] = []

    def late() -> Iterator[Pack]:
        while not said:
            pass
        yield packs[0]

    assert next(prefetch(late(), 2, said.append, warn_after_s=0.05)).position == 0
    assert "waiting for data" in said[0]
    assert "`train.cpus_per_worker`" in said[0]
