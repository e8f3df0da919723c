"""All fusions on the digits trio, with the same budget: `python -m tests.benchmarks.fusions [--steps N] [--out FILE]`.

A digit as picture, voice and pen (`tests/realdata.py`), every voice of one speaker held out. Each fusion trains with
each seed on the same packs for the same number of steps, on one thread, by `tests/recipes/digits.yaml` with modality
dropout. INTERLACE_TEST_DATA names the folder of real data (default ../shared/data). Written for each fusion:

- accuracy on the held-out speaker with all fields, and the mean of those with one field alone: mean and standard
  deviation over seeds, percent;
- parameters, without those of the task's heads on single fields where only the fields' own losses use them;
- FLOPs of a forward pass for a sample (a multiplication and an addition are two): matrix products and convolutions as
  they are computed, with what padded buckets add;
- samples a CPU second in training.
"""

import argparse
import csv
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.flop_counter import FlopCounterMode

from interlace.contract.batch import Batch, to_batch
from interlace.contract.sample import Pack
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.model.fusions import FUSIONS
from interlace.model.network import Network
from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe
from interlace.train.build import network_for
from interlace.train.loop import Loop, evaluate
from interlace.train.optim import make_optimizer
from tests.realdata import SETS

RECIPE = Path(__file__).parents[1] / "recipes" / "digits.yaml"
DATA = Path(os.environ.get("INTERLACE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run: accuracies in percent, and samples a CPU second in training."""

    together: float
    alone: float
    rate: float


def recipe_of(folder: Path, fusion: str, seed: int, steps: int) -> Recipe:
    """The recipe of a run."""
    changes = [f"data.root={folder / 'data'}", f"storage={folder / 'storage'}", f"model.fusion={fusion}"]
    changes += ["model.modality_dropout=0.3", "train.precision=fp32", "train.epochs=null", f"train.steps={steps}"]
    changes.append(f"seed={seed}")
    return load_recipe(RECIPE, changes)


def read(reader: Reader, steps: int) -> list[Pack]:
    """The packs of so many steps."""
    plan = reader.plan()
    schedule = plan.schedule(epochs=None, steps=steps)
    return [p for window in schedule.windows for p in reader.read(window, first=0, stop=schedule.stop, plan=plan)]


def whole(reader: Reader) -> list[Batch]:
    """All samples of a split."""
    plan = reader.plan()
    schedule = plan.schedule(epochs=1, steps=None)
    packs: Iterator[Pack] = (
        p for window in schedule.windows for p in reader.read(window, first=0, stop=schedule.stop, plan=plan)
    )
    return [to_batch(pack, CPU) for pack in packs]


def run(recipe: Recipe, index: Index, packs: Sequence[Pack], held_out: Sequence[Batch]) -> Outcome:
    """Train and evaluate."""
    torch.manual_seed(recipe.seed)
    network = network_for(recipe, index.fitted)
    optimizer = make_optimizer(recipe.optim, network)
    loop = Loop(network=network, optimizer=optimizer, recipe=recipe, num_steps=len(packs), device=CPU)
    start = time.process_time()
    for _ in loop.steps(iter(packs), 0):
        pass
    rate = sum(len(p.sample_ids) for p in packs) / (time.process_time() - start)
    subsets = [network.names, *((name,) for name in network.names)]
    found = [
        100 * evaluate(network, [b.only(frozenset(names)) for b in held_out], recipe, CPU)["digit/accuracy"]
        for names in subsets
    ]
    return Outcome(together=found[0], alone=statistics.mean(found[1:]), rate=rate)


def size(network: Network, batches: Sequence[Batch]) -> tuple[int, float]:
    """Parameters that a prediction from all fields needs, and FLOPs of a sample."""
    lit = 0 if network.model.fusion == "decision" else sum(
        p.numel() for task in network.tasks.values() for p in task.field_heads.parameters()
    )  # fmt: skip
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        for batch in batches:
            network.eval()(batch)
    samples = sum(b.num_samples for b in batches)
    return sum(p.numel() for p in network.parameters()) - lit, counter.get_total_flops() / samples


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description="all fusions on the digits trio")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("fusions.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, outcomes, sizes = time.process_time(), {name: [] for name in FUSIONS}, {}
    with TemporaryDirectory() as place:
        folder = Path(place)
        SETS["digits"].build(DATA, folder / "data")
        for seed in range(options.seeds):
            recipe = recipe_of(folder, "mid", seed, options.steps)
            index = build_index(recipe)
            packs = read(open_reader(index, recipe, "train", training=True), options.steps)
            held_out = whole(open_reader(index, recipe, "validation", training=False))
            for fusion, found in outcomes.items():
                chosen = recipe_of(folder, fusion, seed, options.steps)
                if fusion not in sizes:
                    sizes[fusion] = size(network_for(chosen, index.fitted), held_out)
                found.append(run(chosen, index, packs, held_out))
                print(f"seed {seed} {fusion:16s} {found[-1]}", flush=True)  # noqa: T201
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["fusion", "accuracy", "accuracy_std", "alone", "alone_std", "parameters", "flops", "samples_per_s"]
        )
        print(f"{'fusion':16s} {'all fields':>14s} {'one field':>14s} {'params':>9s} {'MFLOP':>7s} {'samples/s':>10s}")  # noqa: T201
        for fusion, found in outcomes.items():
            together, alone = spread([o.together for o in found]), spread([o.alone for o in found])
            rate, (parameters, flops) = statistics.median(o.rate for o in found), sizes[fusion]
            writer.writerow([fusion, *(f"{x:.2f}" for x in (*together, *alone)), parameters, round(flops), round(rate)])
            print(  # noqa: T201
                f"{fusion:16s} {together[0]:7.2f} ± {together[1]:4.2f} {alone[0]:7.2f} ± {alone[1]:4.2f}"
                f" {parameters:9,} {flops / 1e6:7.2f} {rate:10.0f}"
            )
    print(f"{options.steps} steps, {options.seeds} seeds, {time.process_time() - began:.0f} CPU s")  # noqa: T201


if __name__ == "__main__":
    main()
