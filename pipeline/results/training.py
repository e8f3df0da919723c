"""A run of a recipe to its end: from index to a model in MLflow.

connect -> preflight -> index, plan -> train (Ray Train) -> best checkpoint -> evaluate -> export -> MLflow
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interlace.cluster.connect import Cluster, connect
from interlace.cluster.probe import inspect_cluster, inspect_gpus
from interlace.contract.errors import StoppedError
from interlace.data.stream import map_units, read_split, run_data_on
from interlace.recipe.recipe import Recipe
from interlace.results.evaluation import Evaluation, evaluate_model, model_card
from interlace.results.listener import Listener
from interlace.results.mistakes import write_mistakes
from interlace.results.predictor import Predictor, export_model
from interlace.results.run_figures import Stages, draw_contributions, draw_lengths, points_since
from interlace.store.journal import Journal, journal_path
from interlace.store.places import child_of
from interlace.tracking import Tracker, TrackingReport, context_tags, make_target, tracking_server
from interlace.train.checkpoint import chosen_checkpoint
from interlace.train.placement import fit_into
from interlace.train.run import Prepared, Run, fit, open_run, prepare
from interlace.train.summary import describe

CLOSE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a run is started: see the flags of `interlace train`."""

    run_name: str | None = None
    address: str | None = None
    resume: bool = False
    fresh: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Look at the name before anything starts. Raises RecipeError."""
        if self.run_name is not None:
            child_of(Path(), self.run_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave: its folder, the checkpoint its model is from, its evaluation, what MLflow got."""

    run: Path
    checkpoint: Path
    evaluation: Evaluation
    tracking: TrackingReport


def train(recipe: Recipe, launch: Launch, listener: Listener) -> Outcome | None:
    """Run a recipe to the end; None after a dry run.

    Args:
        recipe: as it was read.
        launch: its name, where it runs, whether it goes on.
        listener: is told of what happens.

    Raises:
        InterlaceError, DoesNotFitError, NotReadyError: recipe, data, cluster or folder are not as needed.
        StoppedError: SIGTERM came; a checkpoint is written.
    """
    there = connect(launch.address)
    stages = Stages()
    section, allotment = fit_into(there, recipe.train, recipe.world_sizes, recipe.data.labels)
    recipe = recipe.model_copy(update={"train": section})
    run_data_on(recipe.data.labels)
    with stages.timed("index and plan"):
        prepared = prepare(recipe, listener.data_job(map_units))
    for line in describe(prepared, allotment, whole_recipe=launch.dry_run):
        listener.say(line)
    for warning in cluster_warnings(there, recipe, prepared.state_bytes):
        listener.say(f"note: {warning}")
    if launch.dry_run:
        return None
    with open_run(prepared, launch.run_name, resume=launch.resume, fresh=launch.fresh) as run:
        listener.opened(run)
        if run.was_steps is not None:
            listener.say(
                f"length: {run.was_steps} steps before, {run.num_steps} now; the learning rate goes on as a run of"
                f" {run.num_steps} steps has it there"
            )
        tracker = _open_tracker(run, prepared)
        try:
            path = journal_path(run.folder)
            before = path.stat().st_size if path.exists() else 0
            if not run.finished:
                with listener.training(run.folder, prepared.schedule.num_steps, allotment), stages.timed("train"):
                    fit(run, prepared)
            stages.split_training(points_since(run.folder, before), recipe.tracking.log_every)
            checkpoint, evaluation = _conclude(run, prepared, tracker, stages, listener)
            tracker.status("FINISHED")
        except (KeyboardInterrupt, StoppedError):
            tracker.status("KILLED")
            raise
        except BaseException:
            tracker.status("FAILED")
            raise
        finally:
            report = tracker.close(CLOSE_TIMEOUT_S)
    listener.say(f"checkpoint {checkpoint}\nmodel {run.folder / 'model'}\n{report}")
    return Outcome(run=run.folder, checkpoint=checkpoint, evaluation=evaluation, tracking=report)


def cluster_warnings(there: Cluster, recipe: Recipe, num_bytes: int) -> tuple[str, ...]:
    """What may go wrong, after a look at the GPUs, and at all of a cluster that was not started here.

    Raises:
        NotReadyError: the job would fail there.
    """
    found = inspect_gpus(recipe.train.gpus_per_worker, recipe.train.labels)
    if not there.embedded:
        found += inspect_cluster(str(Path(recipe.storage).absolute()), tracking_server(recipe.tracking.uri), num_bytes)
    return found


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
    tracker.params(prepared.settings)
    train_data = prepared.index.manifests["train"]
    tracker.tags(context_tags(recipe, data_digest=train_data.digest, world_size=recipe.world_sizes[-1]))
    for split, manifest in prepared.index.manifests.items():
        profile: dict[str, Any] = {"rows": manifest.num_rows, "bad": manifest.num_bad}
        tracker.dataset(
            f"{recipe.name}-{split}", manifest.digest, source=recipe.data.root, context=split, profile=profile
        )
    tracker.artifact(run.folder / "recipe.yaml")
    return tracker


def _conclude(
    run: Run, prepared: Prepared, tracker: Tracker, stages: Stages, listener: Listener
) -> tuple[Path, Evaluation]:
    """Export the best checkpoint's model, evaluate it, and hand everything to the tracker."""
    folder = run.folder / "model"
    with stages.timed("report"):
        checkpoint, warning = chosen_checkpoint(run.folder, prepared.recipe.train.model_from)
        if warning is not None:
            listener.say(warning)
        export_model(prepared.recipe, prepared.index.fitted, checkpoint, folder)
        split = next(s for s in ("test", "validation", "train") if s in prepared.index.manifests)
        torch.set_num_threads(max(torch.get_num_threads(), prepared.threads))
        reader = prepared.reader(split)
        evaluation = evaluate_model(folder, reader, split, listener.data_job(read_split))
        listener.show(evaluation)
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
