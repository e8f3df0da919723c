"""A run that was trained in this process, with its evaluation and its exported model: what Ray Train would leave."""

from pathlib import Path

from interlace.recipe.recipe import Recipe
from interlace.results.evaluation import evaluate_run
from interlace.results.listener import Quiet
from interlace.results.predictor import export_model
from interlace.train.checkpoint import chosen_checkpoint
from interlace.train.run import fit_here, open_run, prepare


def trained_here(recipe: Recipe, *, ended: bool = True) -> Path:
    """The folder of a run of the recipe; one that has not `ended` has checkpoints and no evaluation."""
    prepared = prepare(recipe, map)
    with open_run(prepared, None) as run:
        fit_here(run, prepared)
        if ended:
            checkpoint, _ = chosen_checkpoint(run.folder, recipe.train.model_from)
            export_model(prepared.recipe, prepared.index.fitted, checkpoint, run.folder / "model")
            evaluate_run(run.folder, "validation", (), run.folder / "evaluation", Quiet())
    return run.folder
