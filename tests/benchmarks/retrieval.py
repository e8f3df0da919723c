"""Emoji find their English names: `python -m tests.benchmarks.retrieval [validation] [seeds=N] [path=value ...]`.

Builds the emoji set, trains `jobs/recipes/emoji_retrieval.yaml` in this process on one thread (about 175 CPU seconds)
with each of `SEEDS` seeds (or of `seeds=N`: 0 to N - 1), and evaluates it over validation and test, each with the whole
split as gallery; with `validation` only over that, to choose settings without a look at test. Prints recall at 1, 5, 10
and median rank of both directions, recall@10 over chance, and the largest difference to a plain full-matrix
computation. Ends with status 1 where the mean over the seeds of a direction's recall@10 on the last split is below 8
times chance, or a figure differs.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from interlace.contract.batch import to_batch
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.data.read.share import read_share
from interlace.jobs.datasets.emoji import build
from interlace.model.network import Network
from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe
from interlace.tasks.retrieval import DIRECTIONS
from interlace.train.loop import evaluate
from tests.training import start

RECIPE = Path(__file__).parents[2] / "jobs" / "recipes" / "emoji_retrieval.yaml"
TIMES_CHANCE = 8.0
AT = 10
SEEDS = 2


def train(recipe: Recipe, index: Index) -> Network:
    """The network of a recipe after its last step, with averaged weights where the recipe has `optim.ema`."""
    loop, packs = start(recipe, index)
    for report in loop.steps(packs, 0):
        if report.step % 100 == 0:
            print(f"step {report.step}: loss {report.loss:.3f}, {time.process_time():.0f} CPU s", flush=True)  # noqa: T201
    if loop.average is not None:
        loop.network.load_state_dict(loop.average.tensors(), strict=False)  # buffers have no average
    return loop.network


def whole_matrix(network: Network, recipe: Recipe, index: Index, split: str) -> dict[str, float]:
    """The figures from one matrix of all similarities, with sorted rows instead of counts."""
    sides: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    network.eval()
    task = network.tasks["pair"]
    for pack in read_share(open_reader(index, recipe, split, training=False)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.train.precision == "bf16"):
            rows = task.predict(network(to_batch(pack)))
        for row in rows:
            if row["left"] is not None and row["right"] is not None:
                sides[0].append(torch.tensor(row["left"]))
                sides[1].append(torch.tensor(row["right"]))
    matrix = torch.stack(sides[0]) @ torch.stack(sides[1]).T
    found = {}
    for name, likeness in zip(DIRECTIONS, (matrix, matrix.T), strict=True):
        rows, own = likeness.sort(dim=1).values.contiguous(), likeness.diagonal().unsqueeze(1).contiguous()
        first = rows.size(1) - torch.searchsorted(rows, own + 1e-6, right=True) + 1
        last = rows.size(1) - torch.searchsorted(rows, own - 1e-6)
        rank = (first + last).flatten().float() / 2  # equal pictures, as of two flags, share their ranks
        found |= {f"{name}_recall_{k}": float((rank <= k).float().mean()) for k in (1, 5, AT)}
        found[f"{name}_median_rank"] = float(rank.quantile(0.5))
    return found


def judge(network: Network, recipe: Recipe, index: Index, split: str) -> list[float]:
    """Print the figures of a split; recall@10 over chance of both directions, none where figures differ."""
    packs = read_share(open_reader(index, recipe, split, training=False))
    metrics = evaluate(network, (to_batch(p) for p in packs), recipe, torch.device("cpu"))
    plain = whole_matrix(network, recipe, index, split)
    for name, value in metrics.items():
        print(f"{split} {name:36s} {value:.4f}")  # noqa: T201
    gains = [metrics[f"pair/{d}_recall_{AT}"] * metrics["pair/pairs"] / AT for d in DIRECTIONS]
    apart = max(abs(metrics[f"pair/{name}"] - value) for name, value in plain.items())
    print(f"seed {recipe.seed}, {told(split, gains)}; differs from the whole matrix by {apart:.1e}", flush=True)  # noqa: T201
    return gains if apart < 1e-6 else [0.0, 0.0]


def told(split: str, gains: Sequence[float]) -> str:
    """The line of a split."""
    both = f"picture -> name {gains[0]:.1f}, name -> picture {gains[1]:.1f}"
    return f"{split} recall@{AT} over chance: {both} (at least {TIMES_CHANCE:g})"


def run(folder: Path, seed: int, overrides: Sequence[str], splits: Sequence[str]) -> list[list[float]]:
    """Train with a seed; what `judge` says of each split."""
    places = [f"data.root={folder}/emoji", f"storage={folder}/output", f"seed={seed}"]
    recipe = load_recipe(RECIPE, [*overrides, *places])
    index = build_index(recipe)
    before = time.process_time()
    network = train(recipe, index)
    print(f"seed {seed}: trained in {time.process_time() - before:.0f} CPU s")  # noqa: T201
    return [judge(network, recipe, index, split) for split in splits]


def main() -> int:
    """Train, judge."""
    torch.set_num_threads(1)
    given = sys.argv[1:]
    splits = ("validation",) if "validation" in given else ("validation", "test")
    seeds = next((int(g.removeprefix("seeds=")) for g in given if g.startswith("seeds=")), SEEDS)
    overrides = [g for g in given if g != "validation" and not g.startswith("seeds=")]
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "emoji")
        found = [run(Path(folder), seed, overrides, splits) for seed in range(seeds)]
    means = torch.tensor(found, dtype=torch.float64).mean(0)
    for split, gains in zip(splits, means.tolist(), strict=True):
        print(f"mean of {seeds} seeds, {told(split, gains)}")  # noqa: T201
    return int(float(means[-1].min()) < TIMES_CHANCE)


if __name__ == "__main__":
    sys.exit(main())
