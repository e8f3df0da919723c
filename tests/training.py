"""A recipe trained in this process, on one thread, with its CPU time: the reference of runs, and what is measured."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from interlace.contract.batch import to_batch
from interlace.contract.sample import Pack
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.read.share import read_share
from interlace.model.network import Network
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.results.evaluate import evaluate_subsets, field_subsets
from interlace.train.build import network_for
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("INTERLACE_TEST_DATA", ROOT.parent / "shared" / "data"))
RECIPES = ROOT / "jobs" / "recipes"
FULL_RECIPES = ROOT / "tests" / "recipes" / "full"
CPU_S = 130.0
"""CPU seconds of one thread: what 100 s of two hyperthreads of one core give at least."""
WARM_STEPS, PROBE_STEPS = 20, 30

Found = dict[tuple[str, ...], float]
"""Percent right, by the fields given."""


@dataclass(slots=True, kw_only=True)
class Trained:
    """A trained network, its data, and CPU seconds of the training loop and of reading (decoding, augmenting).

    In a run, data tasks read on other CPUs.
    """

    recipe: Recipe
    network: Network
    index: Index
    steps: int
    train_s: float = 0.0
    read_s: float = 0.0

    def accuracies(self) -> Found:
        """Accuracy in percent on the validation split, for every subset of fields; the first task counts."""
        return accuracies(self.recipe, self.index, self.network)


def accuracies(
    recipe: Recipe, index: Index, network: Network, subsets: Sequence[tuple[str, ...]] | None = None
) -> Found:
    """See `Trained.accuracies`; recipe and index may name another validation split, and only some subsets count."""
    reader = open_reader(index, recipe, "validation", training=False)
    subsets = subsets or field_subsets(list(recipe.fields))
    results = evaluate_subsets(network, read_share(reader), recipe, subsets, CPU)
    return {r.fields: 100 * r.metrics[f"{next(iter(recipe.tasks))}/accuracy"] for r in results}


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    """The recipe with some settings changed."""
    return parse_recipe(recipe.model_dump(mode="json"), overrides)


def lasting(recipe: Recipe, seconds: float, spare: float = 0.05) -> Recipe:
    """The recipe with as many steps as fit in so many CPU seconds of the training loop here and now.

    A few steps of a network that is thrown away tell what a step costs; the share `spare` is left for what they don't.
    """
    probe = changed(recipe, "train.epochs=null", f"train.steps={WARM_STEPS + PROBE_STEPS}")
    spent = train(probe, skip=WARM_STEPS).train_s
    steps = int((1 - spare) * seconds * PROBE_STEPS / spent)
    return changed(recipe, "train.epochs=null", f"train.steps={steps}")


def only(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one field alone, with as many samples in a pack as all fields have on average."""
    tree = recipe.model_dump(mode="json")
    tree["fields"] = {name: tree["fields"][name]}
    tokens = {n: _mean_tokens(r) for n, r in (("all", recipe), (name, parse_recipe(tree)))}
    tree["batch"]["token_budget"] = round(tree["batch"]["token_budget"] * tokens[name] / tokens["all"])
    tree["model"]["modality_dropout"] = 0.0
    return parse_recipe(tree)


def _mean_tokens(recipe: Recipe) -> float:
    return float(open_reader(build_index(recipe), recipe, "train", training=False).plan().num_tokens.mean())


def start(recipe: Recipe, index: Index) -> tuple[Loop, Iterator[Pack]]:
    """The loop of a recipe before its first step, and all packs of the run from the in-process reader."""
    reader = open_reader(index, recipe, "train", training=True)
    plan = reader.plan()
    schedule = plan.schedule(epochs=recipe.train.epochs, steps=recipe.train.steps)
    torch.manual_seed(recipe.seed)
    network = network_for(recipe, index.fitted)
    optimizer = make_optimizer(recipe.optim, network)
    loop = Loop(network=network, optimizer=optimizer, recipe=recipe, num_steps=schedule.num_steps, device=CPU)
    return loop, (p for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop, plan=plan))


def train(recipe: Recipe, log_every: int = 0, skip: int = 0) -> Trained:
    """Train a recipe to its end, as a worker does, averaged weights where it has them; `skip` steps are not timed."""
    torch.set_num_threads(1)
    index = build_index(recipe)
    loop, packs = start(recipe, index)
    done = Trained(recipe=recipe, network=loop.network, index=index, steps=loop.num_steps)

    def timed() -> Iterator[Pack]:
        while True:
            began = time.process_time()
            pack = next(packs, None)
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
            print(f"step {report.step} of {loop.num_steps}, loss {report.loss:.3f}, {spent:.0f} s", flush=True)  # noqa: T201
    done.train_s = time.process_time() - began - done.read_s
    if loop.average is not None:
        loop.network.load_state_dict(loop.average.tensors(), strict=False)  # buffers have no average
    return done


def metrics(trained: Trained, recipe: Recipe, split: str) -> dict[str, float]:
    """All metrics over a whole split."""
    reader: Reader = open_reader(trained.index, recipe, split, training=False)
    return evaluate_subsets(trained.network, read_share(reader), recipe, [tuple(recipe.fields)], CPU)[0].metrics


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
