"""What the benchmarks of accuracy share: a recipe trained in this process on one thread, CPU seconds counted.

Seconds are those of the training loop. Reading and augmenting are left out: in a run, data tasks do that on other CPUs.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from interlace.contract.sample import Pack
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.model.network import Network
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.results.evaluate import evaluate_subsets, field_subsets
from interlace.train.build import network_for
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("INTERLACE_TEST_DATA", ROOT.parent / "shared" / "data"))
RECIPES = ROOT / "tests" / "recipes" / "full"
CPU_S = 130.0
"""CPU seconds of one thread: what 100 s of two hyperthreads of one core give at least."""

WARM_UP, TIMED = 3, 12

Found = dict[tuple[str, ...], float]
"""Percent right, by the fields given."""


@dataclass(slots=True, kw_only=True)
class Stopwatch:
    """CPU seconds of this process since it was made, without those spent in a generator of packs."""

    began: float = field(default_factory=time.process_time)
    reading_s: float = 0.0

    def read(self, packs: Iterator[Pack]) -> Iterator[Pack]:
        """The same packs, their making timed."""
        while True:
            before = time.process_time()
            pack = next(packs, None)
            self.reading_s += time.process_time() - before
            if pack is None:
                return
            yield pack

    @property
    def seconds(self) -> float:
        """CPU seconds outside of `read`."""
        return time.process_time() - self.began - self.reading_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained network, how long it took (CPU seconds of the loop), and in how many steps."""

    recipe: Recipe
    index: Index
    network: Network
    cpu_s: float
    num_steps: int

    def accuracies(self) -> Found:
        """Accuracy in percent on the validation split, for every subset of fields; the first task counts."""
        return accuracies(self.recipe, self.index, self.network)


def accuracies(
    recipe: Recipe, index: Index, network: Network, subsets: Sequence[tuple[str, ...]] | None = None
) -> Found:
    """See `Trained.accuracies`; recipe and index may name another validation split, and only some subsets count."""
    reader = open_reader(index, recipe, "validation", training=False)
    subsets = subsets or field_subsets(list(recipe.fields))
    results = evaluate_subsets(network, reader, recipe, subsets, torch.device("cpu"))
    return {r.fields: 100 * r.metrics[f"{next(iter(recipe.tasks))}/accuracy"] for r in results}


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    """The recipe with some settings changed."""
    return parse_recipe(recipe.model_dump(mode="json"), overrides)


def train(recipe: Recipe) -> Trained:
    """Train as the recipe says."""
    index = build_index(recipe)
    loop, packs = _start(recipe, index)
    watch = Stopwatch()
    for _ in loop.steps(watch.read(packs), 0):
        pass
    return Trained(recipe=recipe, index=index, network=loop.network, cpu_s=watch.seconds, num_steps=loop.num_steps)


def with_steps_for(recipe: Recipe, cpu_s: float) -> Recipe:
    """The recipe with as many steps as fit into a time, by some steps of a network that is thrown away."""
    probe = changed(recipe, "train.epochs=null", f"train.steps={WARM_UP + TIMED}")
    loop, packs = _start(probe, build_index(probe))
    watch = Stopwatch()
    steps = loop.steps(watch.read(packs), 0)
    for _ in islice(steps, WARM_UP):
        pass
    before = watch.seconds
    for _ in steps:
        pass
    num_steps = int(cpu_s * TIMED / (watch.seconds - before))
    return changed(recipe, "train.epochs=null", f"train.steps={num_steps}")


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


def _start(recipe: Recipe, index: Index) -> tuple[Loop, Iterator[Pack]]:
    torch.manual_seed(recipe.seed)
    network = network_for(recipe, index.fitted)
    reader = open_reader(index, recipe, "train", training=True)
    plan = reader.plan()
    schedule = plan.schedule(epochs=recipe.train.epochs, steps=recipe.train.steps)
    loop = Loop(
        network=network,
        optimizer=make_optimizer(recipe.optim, network),
        recipe=recipe,
        num_steps=schedule.num_steps,
        device=torch.device("cpu"),
    )
    return loop, (p for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop, plan=plan))
