"""`interlace evaluate`: a run's model over a split, read in this process."""

import json
from dataclasses import replace
from pathlib import Path

from interlace.contract.errors import InterlaceError
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.jobs.evaluation_table import print_evaluation
from interlace.jobs.train import chosen_checkpoint
from interlace.recipe.load import load_recipe
from interlace.results.evaluation import evaluate_model
from interlace.results.predictor import export_model
from interlace.train.checkpoint import verify


def run_evaluate(place: Path, split: str, overrides: list[str], out: Path | None) -> None:
    """Evaluate the chosen checkpoint of a run folder, or one given checkpoint folder.

    Raises:
        InterlaceError: the folder is neither, the checkpoint is damaged, or the recipe has no such split.
    """
    is_checkpoint = (place / "hashes.json").exists()
    run = place.parent.parent if is_checkpoint else place
    if not (run / "recipe.yaml").exists():
        raise InterlaceError(f"{place}: expected the folder of a run or of a checkpoint, but it is neither")
    recipe = load_recipe(run / "recipe.yaml", overrides)
    checkpoint = place if is_checkpoint else chosen_checkpoint(run, recipe)
    verify(checkpoint)
    fitted = json.loads((run / "fitted.json").read_text(encoding="utf-8"))
    index = build_index(recipe, map)
    if split not in index.manifests:
        raise InterlaceError(f"expected a split of the recipe ({', '.join(index.manifests)}), but is {split!r}")
    reader = open_reader(replace(index, fitted=fitted), recipe, split, training=False)
    out = out or run / "evaluation" / f"{checkpoint.name}-{split}"
    export_model(recipe, fitted, checkpoint, out / "model")
    evaluation = evaluate_model(out / "model", reader, split)
    print_evaluation(evaluation)
    evaluation.write(out)
