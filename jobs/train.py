"""`interlace train`: one run of a recipe, from index to a model in MLflow. Also the body of `demo`.

connect -> preflight -> index, plan -> train (Ray Train) -> best checkpoint -> evaluate -> export -> MLflow
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.connect import Cluster, connect
from cluster.preflight import Allotment, Need, allot
from cluster.probe import inspect_cluster
from jobs.arithmetic import describe, state_bytes
from jobs.console import say
from jobs.progress import since_begin, watched
from jobs.report import Evaluation, evaluate_model, model_card, print_evaluation
from pipeline.data.stream import map_units
from pipeline.errors import CheckpointError, StoppedError
from pipeline.journal import Journal, journal_path
from pipeline.predict import export_model
from pipeline.recipe import Recipe, flatten
from pipeline.tracking import Tracker, TrackingReport, context_tags, make_target
from pipeline.train.checkpoint import checkpoint_folder, newest_checkpoint, verify
from pipeline.train.run import Prepared, Run, fit, open_run, prepare

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
    recipe, allotment = fit_into(recipe, there)
    prepared = prepare(recipe, map_units)
    for line in describe(prepared, allotment, whole_recipe=launch.dry_run):
        say(line)
    look_at(there, prepared)
    if launch.dry_run:
        return None
    with open_run(prepared, launch.run_name, resume=launch.resume, fresh=launch.fresh) as run:
        say(f"run {run.name}{' (goes on)' if run.resumed else ''} in {run.folder}, after {since_begin():.1f} s")
        tracker = _open_tracker(run, prepared)
        try:
            if not run.finished:
                with watched(run.folder, prepared.schedule.num_steps):
                    fit(run, prepared)
            checkpoint, evaluation = _conclude(run, prepared, tracker)
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
    """Check a cluster that was not started here, and say what may go wrong on it. Raises NotReadyError."""
    if there.embedded:
        return
    recipe = prepared.recipe
    for doubt in inspect_cluster(str(Path(recipe.storage).absolute()), recipe.tracking.uri, state_bytes(prepared)):
        say(f"note: {doubt}")


def fit_into(recipe: Recipe, there: Cluster) -> tuple[Recipe, Allotment]:
    """The recipe with as many CPUs reserved for each worker as the cluster can give. Raises DoesNotFitError."""
    settings = recipe.train
    need = Need(
        workers=settings.workers, cpus_per_worker=settings.cpus_per_worker, gpus_per_worker=settings.gpus_per_worker
    )
    allotment = allot(need, there.cpus, there.gpus)
    changed = settings.model_copy(update={"cpus_per_worker": allotment.cpus_per_worker})
    return recipe.model_copy(update={"train": changed}), allotment


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
    tracker.tags(context_tags(recipe, data_digest=train_data.digest, world_size=recipe.train.workers))
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


def _conclude(run: Run, prepared: Prepared, tracker: Tracker) -> tuple[Path, Evaluation]:
    """Export the best checkpoint's model, evaluate it, and hand everything to the tracker."""
    checkpoint = chosen_checkpoint(run.folder, prepared.recipe)
    folder = run.folder / "model"
    export_model(prepared.recipe, prepared.index.fitted, checkpoint, folder)
    split = "test" if "test" in prepared.index.manifests else "validation"
    split = split if split in prepared.index.manifests else "train"
    torch.set_num_threads(max(torch.get_num_threads(), prepared.threads))
    evaluation = evaluate_model(folder, prepared.index.reader(prepared.recipe, split, training=False), split)
    print_evaluation(evaluation)
    evaluation.write(run.folder / "evaluation")
    journal = Journal(journal_path(run.folder))
    journal.log(prepared.schedule.num_steps, evaluation.journal_metrics())
    journal.close()
    tracker.artifact(run.folder / "evaluation", "evaluation")
    tracker.model(model_card(folder, prepared))
    return checkpoint, evaluation
