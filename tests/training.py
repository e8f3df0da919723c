"""A recipe trained in this process, on one thread, with its CPU time: what learning figures are measured with."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from interlace.contract.batch import to_batch
from interlace.contract.sample import Pack
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.model.network import Network
from interlace.recipe.recipe import Recipe
from interlace.results.evaluate import evaluate_subsets
from interlace.train.build import network_for
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer
from interlace.train.worker import read_share

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("INTERLACE_TEST_DATA", ROOT.parent / "shared" / "data"))
RECIPES = ROOT / "jobs" / "recipes"


@dataclass(slots=True, kw_only=True)
class Trained:
    """A trained network, its data, and CPU seconds of the training loop and of reading (decoding, augmenting)."""

    network: Network
    index: Index
    steps: int
    train_s: float
    read_s: float = 0.0


WARM_STEPS, PROBE_STEPS = 20, 30


def lasting(recipe: Recipe, seconds: float) -> Recipe:
    """The recipe with as many steps as fit in so many CPU seconds of the training loop here and now.

    A few steps of a network that is thrown away tell what a step costs; 5 % are left for what they don't tell.
    """
    probe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"epochs": None, "steps": WARM_STEPS + PROBE_STEPS})}
    )
    spent = train(probe, skip=WARM_STEPS).train_s
    steps = int(0.95 * seconds * PROBE_STEPS / spent)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": None, "steps": steps})})


def train(recipe: Recipe, log_every: int = 0, skip: int = 0) -> Trained:
    """Train a recipe to its end, as a worker does, averaged weights where it has them; `skip` steps are not timed."""
    torch.set_num_threads(1)
    index = build_index(recipe)
    reader = open_reader(index, recipe, "train", training=True)
    plan = reader.plan()
    schedule = plan.schedule(epochs=recipe.train.epochs, steps=recipe.train.steps)
    torch.manual_seed(recipe.seed)
    network = network_for(recipe, index.fitted)
    optimizer = make_optimizer(recipe.optim, network)
    loop = Loop(network=network, optimizer=optimizer, recipe=recipe, num_steps=schedule.num_steps, device=CPU)
    done = Trained(network=network, index=index, steps=schedule.num_steps, train_s=0.0)

    def packs() -> Iterator[Pack]:
        for window in schedule.windows:
            yield from reader.read(window, first=0, stop=window.start + window.num_packs, plan=plan)

    def timed() -> Iterator[Pack]:
        source = packs()
        while True:
            began = time.process_time()
            pack = next(source, None)
            done.read_s += time.process_time() - began
            if pack is None:
                return
            yield pack

    began = time.process_time()
    for report in loop.steps(timed(), 0):
        if report.step == skip:
            began, done.read_s = time.process_time(), 0.0
        if log_every and report.step % log_every == 0:
            spent = time.process_time() - began - done.read_s
            print(f"step {report.step} of {schedule.num_steps}, loss {report.loss:.3f}, {spent:.0f} s", flush=True)  # noqa: T201
    done.train_s = time.process_time() - began - done.read_s
    if loop.average is not None:
        network.load_state_dict(loop.average.tensors(), strict=False)  # buffers have no average
    return done


def metrics(trained: Trained, recipe: Recipe, split: str) -> dict[str, float]:
    """All metrics over a whole split."""
    reader: Reader = open_reader(trained.index, recipe, split, training=False)
    return evaluate_subsets(trained.network, reader, recipe, [tuple(recipe.fields)], CPU)[0].metrics


@dataclass(slots=True)
class Lines:
    """What a benchmark must show: prints each line with its figure, and remembers whether all hold."""

    failed: int = 0

    def check(self, text: str, holds: bool) -> None:
        """Say a line that must hold."""
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'} {text}", flush=True)  # noqa: T201


def batches(trained: Trained, recipe: Recipe, split: str):
    """The batches of one pass over a split, not augmented."""
    return (to_batch(pack) for pack in read_share(open_reader(trained.index, recipe, split, training=False)))
