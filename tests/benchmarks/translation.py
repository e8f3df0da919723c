"""What translation learns: `python -m tests.benchmarks.translation [overfit] [full]`.

Multi30k, English to German (`INTERLACE_TEST_DATA`), the shipped recipe, one thread. Exits 1 where a line fails:

- overfit: 2,000 pairs are learned to a BLEU above 90.
- full: BLEU of at least 28 on `val` after `SECONDS` CPU seconds of the training loop; of 200 of its sentences a beam of
  1 writes what greedy search writes, and a beam of 4 finds texts that are at least as likely.
"""

import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import torch

from interlace.contract.batch import Batch
from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe
from interlace.tasks import GenerationTask
from interlace.tasks.beam_search import beam_search, greedy
from interlace.tasks.generation import memory_of
from tests.realdata import multi30k
from tests.training import DATA, RECIPES, Lines, Trained, batches, lasting, metrics, train

SECONDS = 310
"""Of one thread: four minutes on two cores, one of which trains while the other reads."""

PAIRS, SENTENCES = 2000, 200
OVERFIT = (
    "train.epochs=40", "model.dropout=0", "tasks.german.label_smoothing=0", "tasks.german.beam=1",
    "tasks.german.length_penalty=0",
)  # fmt: skip


def overfit(folder: Path, lines: Lines) -> None:
    """Train and evaluate on the same pairs."""
    few = folder / "few"
    few.mkdir()
    rows = pq.read_table(folder / "all" / "train-0.parquet").slice(0, PAIRS)
    for side in ("train", "validation"):
        pq.write_table(rows, few / f"{side}-0.parquet", row_group_size=64)
    recipe = load_recipe(RECIPES / "translation.yaml", [f"data.root={few}", f"storage={folder / 'storage'}", *OVERFIT])
    trained = train(recipe, log_every=100)
    bleu = metrics(trained, recipe, "validation")["german/bleu"]
    lines.check(f"{PAIRS} pairs: BLEU {bleu:.1f} (must be above 90), {trained.train_s:.0f} CPU s", bleu > 90)


def full(folder: Path, lines: Lines) -> None:
    """Train on all pairs, translate `val`."""
    recipe = load_recipe(RECIPES / "translation.yaml", [f"data.root={folder / 'all'}", f"storage={folder / 'storage'}"])
    recipe = lasting(recipe, SECONDS)
    trained = train(recipe, log_every=100)
    told = f"{trained.steps} steps, reading took {trained.read_s:.0f} CPU s more"
    lines.check(f"training took {trained.train_s:.0f} CPU s (at most {SECONDS}), {told}", trained.train_s <= SECONDS)
    found = metrics(trained, recipe, "validation")
    bleu, chrf = found["german/bleu"], found["german/chrf"]
    lines.check(f"val: BLEU {bleu:.2f} (at least 28), chrF {chrf:.1f}", bleu >= 28)
    beams(trained, recipe, lines)


def beams(trained: Trained, recipe: Recipe, lines: Lines) -> None:
    """Greedy search and beams of 1 and 4 over the first sentences of `val`."""
    total, same, sums = 0, True, {1: 0.0, 4: 0.0}
    for batch in batches(trained, recipe, "validation"):
        if total >= SENTENCES:
            break
        plain, one, four = search(trained, batch)
        total, same = total + len(plain), same and [t.ids for t in plain] == [found[0].ids for found in one]
        sums[1] += sum(found[0].log_prob for found in one)
        sums[4] += sum(found[0].log_prob for found in four)
    lines.check(f"a beam of 1 writes what greedy search writes ({total} sentences)", same and total >= SENTENCES)
    means = {width: value / total for width, value in sums.items()}
    lines.check(f"mean log-probability: beam 4 {means[4]:.3f}, greedy {means[1]:.3f}", means[4] >= means[1])


@torch.no_grad()
def search(trained: Trained, batch: Batch) -> tuple:
    """Texts of a batch by greedy search, a beam of 1 and a beam of 4."""
    task = trained.network.tasks["german"]
    assert isinstance(task, GenerationTask)
    outputs = trained.network.eval()(batch)

    def decoding():
        return task.decoder.start(*task.tables(outputs), memory_of(outputs))

    limit = task.settings.max_tokens
    return greedy(decoding(), limit), beam_search(decoding(), limit, 1, 0.0), beam_search(decoding(), limit, 4, 0.0)


PARTS = {"overfit": overfit, "full": full}


def main() -> None:
    """Run the parts named as arguments, or all."""
    lines = Lines()
    with tempfile.TemporaryDirectory() as name:
        multi30k(DATA, Path(name) / "all")
        for part in sys.argv[1:] or PARTS:
            PARTS[part](Path(name), lines)
    sys.exit(bool(lines.failed))


if __name__ == "__main__":
    main()
