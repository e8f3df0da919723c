"""`interlace train`: one run of a recipe, from index to a model in MLflow. Also the body of `demo`.

connect -> preflight -> index, plan -> train (Ray Train) -> best checkpoint -> evaluate -> export -> MLflow
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interlace.cluster.connect import Cluster, connect
from interlace.cluster.probe import inspect_cluster, inspect_gpus
from interlace.contract.errors import CheckpointError, StoppedError
from interlace.data.read.open import open_reader
from interlace.data.stream import map_units, run_data_on
from interlace.jobs.console import say
from interlace.jobs.evaluation_table import print_evaluation
from interlace.jobs.progress import since_begin, watched
from interlace.jobs.silence import spoken
from interlace.recipe.identity import flatten
from interlace.recipe.recipe import Recipe
from interlace.results.evaluation import Evaluation, evaluate_model, model_card
from interlace.results.mistakes import write_mistakes
from interlace.results.predictor import Predictor, export_model
from interlace.results.run_figures import Stages, draw_contributions, draw_lengths, points_since
from interlace.store.journal import Journal, journal_path
from interlace.tracking import Tracker, TrackingReport, context_tags, make_target
from interlace.train.checkpoint import checkpoint_folder, newest_checkpoint, verify
from interlace.train.placement import fit_into
from interlace.train.run import Prepared, Run, fit, open_run, prepare
from interlace.train.summary import describe, state_bytes

CLOSE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a run is started: see the flags of `interlace train`."""

    run_name: str | None = None
    address: str | None = None
    resume: bool = False
    fresh: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave: its folder, the checkpoint its model is from, its evaluation, what MLflow got."""

    run: Path
    checkpoint: Path
    evaluation: Evaluation
    tracking: TrackingReport


def train(recipe: Recipe, launch: Launch) -> Outcome | None:
    """Run a recipe to the end; None after a dry run. Raises InterlaceError, DoesNotFitError, StoppedError."""
    there = connect(launch.address)
    stages = Stages()
    recipe, allotment = fit_into(recipe, there)
    run_data_on(recipe.data.labels)
    with stages.timed("index and plan"):
        prepared = prepare(recipe, spoken(map_units))
    for line in describe(prepared, allotment, whole_recipe=launch.dry_run):
        say(line)
    look_at(there, prepared)
    if launch.dry_run:
        return None
    with open_run(prepared, launch.run_name, resume=launch.resume, fresh=launch.fresh) as run:
        say(f"run {run.name}{' (goes on)' if run.resumed else ''} in {run.folder}, after {since_begin():.1f} s")
        tracker = _open_tracker(run, prepared)
        try:
            path = journal_path(run.folder)
            before = path.stat().st_size if path.exists() else 0
            if not run.finished:
                with watched(run.folder, prepared.schedule.num_steps, allotment), stages.timed("train"):
                    fit(run, prepared)
            stages.split_training(points_since(run.folder, before), recipe.tracking.log_every)
            checkpoint, evaluation = _conclude(run, prepared, tracker, stages)
            tracker.status("FINISHED")
        except (KeyboardInterrupt, StoppedError):
            tracker.status("KILLED")
            raise
        except BaseException:
            tracker.status("FAILED")
            raise
        finally:
            report = tracker.close(CLOSE_TIMEOUT_S)
    say(f"checkpoint {checkpoint}\nmodel {run.folder / 'model'}\n{report}")
    return Outcome(run=run.folder, checkpoint=checkpoint, evaluation=evaluation, tracking=report)


def look_at(there: Cluster, prepared: Prepared) -> None:
    """Check the GPUs, and all of a cluster that was not started here; say what may go wrong. Raises NotReadyError."""
    recipe = prepared.recipe
    doubts = inspect_gpus(recipe.train.gpus_per_worker, recipe.train.labels)
    if not there.embedded:
        doubts += inspect_cluster(str(Path(recipe.storage).absolute()), recipe.tracking.uri, state_bytes(prepared))
    for doubt in doubts:
        say(f"note: {doubt}")


def _open_tracker(run: Run, prepared: Prepared) -> Tracker:
    recipe = prepared.recipe
    target = make_target(
        uri=recipe.tracking.uri,
        storage=Path(recipe.storage),
        experiment=recipe.tracking.experiment,
        run_name=run.name,
        run_key=run.key,
    )
    tracker = Tracker(run.folder, target)
    tracker.params(flatten(recipe))
    train_data = prepared.index.manifests["train"]
    tracker.tags(context_tags(recipe, data_digest=train_data.digest, world_size=recipe.world_sizes[-1]))
    for split, manifest in prepared.index.manifests.items():
        profile: dict[str, Any] = {"rows": manifest.num_rows, "bad": len(manifest.bad)}
        tracker.dataset(
            f"{recipe.name}-{split}", manifest.digest, source=recipe.data.root, context=split, profile=profile
        )
    tracker.artifact(run.folder / "recipe.yaml")
    return tracker


def chosen_checkpoint(run: Path, recipe: Recipe) -> Path:
    """The checkpoint that `train.model_from` names; the last where no evaluation was. Raises CheckpointError."""
    newest = newest_checkpoint(run)
    if newest.folder is None or newest.state is None:
        raise CheckpointError(f"{run}: expected a whole checkpoint, but found none ({'; '.join(newest.refused)})")
    if newest.state.best_step < 0 or recipe.train.model_from == "last":
        return newest.folder
    best = checkpoint_folder(run, newest.state.best_step)
    try:
        verify(best)
    except CheckpointError as error:
        say(f"best checkpoint refused, the last one is taken: {error}")
        return newest.folder
    return best


def _conclude(run: Run, prepared: Prepared, tracker: Tracker, stages: Stages) -> tuple[Path, Evaluation]:
    """Export the best checkpoint's model, evaluate it, and hand everything to the tracker."""
    folder = run.folder / "model"
    with stages.timed("report"):
        checkpoint = chosen_checkpoint(run.folder, prepared.recipe)
        export_model(prepared.recipe, prepared.index.fitted, checkpoint, folder)
        split = next(s for s in ("test", "validation", "train") if s in prepared.index.manifests)
        torch.set_num_threads(max(torch.get_num_threads(), prepared.threads))
        reader = open_reader(prepared.index, prepared.recipe, split, training=False)
        evaluation = evaluate_model(folder, reader, split)
        print_evaluation(evaluation)
        evaluation.write(run.folder / "evaluation")
        predictor = Predictor.load(folder)
        draw_contributions(evaluation, predictor, run.folder / "evaluation")
        write_mistakes(predictor, reader, split, run.folder / "evaluation")
        draw_lengths(prepared, run.folder / "evaluation" / "tokens.png")
    stages.draw(run.folder / "evaluation" / "stages.png")
    journal = Journal(journal_path(run.folder))
    journal.log(prepared.schedule.num_steps, evaluation.journal_metrics() | stages.metrics())
    journal.close()
    tracker.artifact(run.folder / "evaluation", "evaluation")
    tracker.model(model_card(folder, prepared, metrics=f"{split}/"))
    return checkpoint, evaluation
