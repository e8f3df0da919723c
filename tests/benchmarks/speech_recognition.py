"""What speech recognition learns: `python -m tests.benchmarks.speech_recognition [overfit] [heldout]`.

English prompts of Asterisk (`INTERLACE_TEST_DATA`), the shipped recipe, one thread. Exits 1 where a line fails:

- overfit: 30 prompts are learned to WER 0 by greedy search (CTC's best path).
- heldout: CER of prompts that were held out is at most 40 after `SECONDS` CPU seconds of the training
  loop, in which as many steps are taken as this machine can.
"""

import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from interlace.recipe.load import load_recipe
from tests.realdata import asterisk_english
from tests.training import DATA, RECIPES, Lines, lasting, metrics, train

SECONDS = 230
"""Of one thread: three minutes on two cores, one of which trains while the other reads."""

PROMPTS = 30
OVERFIT = (
    "train.epochs=null", "train.steps=400", "optim.lr=2e-3", "model.dropout=0", "batch.token_budget=400",
    "fields.voice.speed=0", "fields.voice.pitch=0", "fields.voice.tempo=0",
    "fields.voice.masks=1", "fields.voice.time_mask=0", "fields.voice.band_mask=0",
)  # fmt: skip


def overfit(folder: Path, lines: Lines) -> None:
    """Train and evaluate on the same few prompts."""
    few = folder / "few"
    few.mkdir()
    rows = pq.read_table(folder / "all" / "train-0.parquet")
    short = rows.filter([n <= 40_000 for n in rows["num_samples"].to_pylist()]).slice(0, PROMPTS)
    for side in ("train", "validation"):
        pq.write_table(short, few / f"{side}-0.parquet")
    recipe = load_recipe(
        RECIPES / "speech_recognition.yaml", [f"data.root={few}", f"storage={folder / 'storage'}", *OVERFIT]
    )
    trained = train(recipe, log_every=100)
    wer = metrics(trained, recipe, "validation")["text/wer"]
    lines.check(f"{PROMPTS} prompts: WER {wer:.1f} (must be 0), {trained.train_s:.0f} CPU s", wer == 0)


def heldout(folder: Path, lines: Lines) -> None:
    """Train on all but the held-out prompts, evaluate on these."""
    recipe = load_recipe(
        RECIPES / "speech_recognition.yaml", [f"data.root={folder / 'all'}", f"storage={folder / 'storage'}"]
    )
    recipe = lasting(recipe, SECONDS)
    trained = train(recipe, log_every=200)
    found = metrics(trained, recipe, "validation")
    told = f"{trained.steps} steps, reading took {trained.read_s:.0f} CPU s more"
    lines.check(f"training took {trained.train_s:.0f} CPU s (at most {SECONDS}), {told}", trained.train_s <= SECONDS)
    cer, wer = found["text/cer"], found["text/wer"]
    lines.check(f"held-out prompts: CER {cer:.1f} (at most 40), WER {wer:.1f}", cer <= 40)


PARTS = {"overfit": overfit, "heldout": heldout}


def main() -> None:
    """Run the parts named as arguments, or all."""
    lines = Lines()
    with tempfile.TemporaryDirectory() as name:
        asterisk_english(DATA, Path(name) / "all")
        for part in sys.argv[1:] or PARTS:
            PARTS[part](Path(name), lines)
    sys.exit(bool(lines.failed))


if __name__ == "__main__":
    main()
