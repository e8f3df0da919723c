"""A training run of a stored network in this process, on any device."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from interlace.contract.batch import Batch, to_batch
from interlace.contract.sample import Pack
from interlace.model.network import Network
from interlace.train.build import build_network
from interlace.train.checkpoint import RunState, load_training, save_checkpoint
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer
from tests.gpu.stored import Made, Stored

CPU = torch.device("cpu")
STEPS = 20


def network_of(made: Made, device: torch.device) -> Network:
    """With the weights that seed 0 draws on a CPU."""
    torch.manual_seed(0)
    return build_network(made.recipe, made.specs, made.targets).to(device)


@dataclass
class Run:
    """A loop over the stored packs, and the losses that it had."""

    stored: Stored
    made: Made
    device: torch.device
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        network = network_of(self.made, self.device)
        optimizer = make_optimizer(self.made.recipe.optim, network)
        self.loop = Loop(
            network=network, optimizer=optimizer, recipe=self.made.recipe, num_steps=STEPS, device=self.device
        )

    def to(self, last: int, packs: Sequence[Pack] | None = None) -> "Run":
        """Go on to step `last`, on packs that may be given."""
        first = len(self.losses)
        each = self.made.recipe.batch.global_batch
        own = list(self.stored.packs(last * each)) if packs is None else packs
        for report in self.loop.steps(iter(own[first * each :]), first):
            self.losses.append(report.loss)
            if report.step == last:
                break
        return self

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        state = RunState(
            step=len(self.losses), best_step=-1, best_value=0.0, evaluations_since_best=0, finished=False,
            recipe_digest="", data_digest="",
        )  # fmt: skip
        save_checkpoint(folder, self.loop.network, self.loop.optimizer, state, self.loop.average)

    def goes_on_at(self, device: torch.device, folder: Path) -> "Run":
        """A run on a device that goes on from this one's checkpoint."""
        self.save(folder)
        run = Run(self.stored, self.made, device, list(self.losses))
        load_training(folder, run.loop.network, run.loop.optimizer, run.loop.average)
        return run


@functools.cache
def losses_of_a_cpu(stored: Stored, fusion: str) -> list[float]:
    """Of 20 steps in fp32: the reference."""
    return Run(stored, stored.made(fusion), CPU).to(STEPS).losses


def batches(stored: Stored, count: int, device: torch.device) -> list[Batch]:
    """The first packs on a device."""
    return [to_batch(pack, device) for pack in stored.packs(count)]
