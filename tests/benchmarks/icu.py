"""Death in intensive care over five folds: `python -m tests.benchmarks.icu [DATA] [FOLD ...]`.

DATA is the folder of real data (default: `INTERLACE_TEST_DATA`). Trains `jobs/recipes/icu.yaml` on four fifths of set A
(by the hash of `record_id`) in this process, one thread, for its epochs, and judges the averaged weights of the last
step on the other fifth: all fields, series and table alone given to that model, and each trained alone. Nothing is
chosen by the fold that is judged. Prints AUROC, AUPRC and the best min(recall, precision) of each fold and their means.

Exit 1 unless, over the folds, the fused AUROC is at least 0.835 and above series alone and table alone.
"""

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from interlace.contract.batch import to_batch
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.data.read.share import read_share
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from tests.training import start

NUM_FOLDS = 5
LEAST = 0.835
METRICS = ("auroc", "auprc", "min_recall_precision")
RECIPE = Path(__file__).parents[2] / "jobs" / "recipes" / "icu.yaml"
PARTS = {"series": ("vitals",), "table": ("body", "unit")}


def write_folds(source: Path, out: Path) -> None:
    """Stays of fold k to `fold-k.parquet`, with nothing that tells the outcome but the label."""
    table = pq.read_table(source / "icu2012" / "set_a.parquet")
    table = table.drop_columns(["saps_i", "sofa", "length_of_stay_days", "survival_days"])
    gender = table.schema.get_field_index("gender")
    table = table.set_column(gender, "gender", table["gender"].cast(pa.int8()))
    hashes = [hashlib.sha256(str(record).encode()).digest() for record in table["record_id"].to_pylist()]
    fold = np.array([int.from_bytes(h[:4], "big") % NUM_FOLDS for h in hashes])
    for k in range(NUM_FOLDS):
        pq.write_table(table.filter(pa.array(fold == k)), out / f"fold-{k}.parquet", row_group_size=64)


def recipe_of(folder: Path, fold: int, fields: tuple[str, ...] | None = None) -> Recipe:
    """The shipped recipe, trained on all folds but one, with all or only these fields."""
    tree: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    tree["storage"] = str(folder / "storage")
    tree["data"] |= {
        "root": str(folder),
        "train": {"paths": [f"fold-{k}.parquet" for k in range(NUM_FOLDS) if k != fold]},
        "validation": {"paths": [f"fold-{fold}.parquet"]},
    }
    if fields:
        tree["fields"] = {name: tree["fields"][name] for name in fields}
    tree["optim"]["lr"] = float(tree["optim"]["lr"])  # YAML 1.1 reads 1e-3 as text
    return parse_recipe(tree)


def train_and_judge(recipe: Recipe) -> dict[str, dict[str, float]]:
    """Metrics of the trained model given all its fields, and given each part of them, by name."""
    index = build_index(recipe)
    loop, packs = start(recipe, index)
    for _ in loop.steps(packs, 0):
        pass
    batches = [to_batch(p) for p in read_share(open_reader(index, recipe, "validation", training=False))]
    given = {"all": tuple(recipe.fields)}
    if len(recipe.fields) == sum(map(len, PARTS.values())):
        given |= PARTS
    return {n: loop.evaluate(b.only(frozenset(names)) for b in batches) for n, names in given.items()}


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def judge_fold(folder: Path, fold: int) -> dict[str, list[float]]:
    """The three metrics of each model of a fold, by what it was trained on and given; prints them."""
    began = time.process_time()
    judged = train_and_judge(recipe_of(folder, fold))
    fused_s = time.process_time() - began
    rows = {"fused": judged["all"], **{f"fused, {part} given": judged[part] for part in PARTS}}
    rows |= {f"{part} alone": train_and_judge(recipe_of(folder, fold, names))["all"] for part, names in PARTS.items()}
    found = {name: [metrics[f"death/{m}"] for m in METRICS] for name, metrics in rows.items()}
    shown = "  ".join(f"{name} {values[0]:.4f}" for name, values in found.items())
    say(f"fold {fold}: AUROC {shown}  ({fused_s:.0f} CPU s for fused, all told)")
    return found


def main() -> int:
    """Run the folds."""
    torch.set_num_threads(1)
    arguments = sys.argv[1:] or [os.environ["INTERLACE_TEST_DATA"]]
    folds = [int(k) for k in arguments[1:]] or list(range(NUM_FOLDS))
    with tempfile.TemporaryDirectory() as folder:
        write_folds(Path(arguments[0]), Path(folder))
        judged = [judge_fold(Path(folder), fold) for fold in folds]
    say(f"\nmean of {len(folds)} folds    AUROC   AUPRC   min(recall, precision)")
    means = {name: np.mean([fold[name] for fold in judged], axis=0) for name in judged[0]}
    for name, values in means.items():
        say(f"{name:20} " + "  ".join(f"{v:.4f}" for v in values))
    others = max(values[0] for name, values in means.items() if name != "fused")
    passed = means["fused"][0] >= LEAST and means["fused"][0] > others
    say(f"fused AUROC at least {LEAST} and above all others: {'yes' if passed else 'NO'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
