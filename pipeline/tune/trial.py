"""One trial, in a process that Ray Tune has started and may use for many."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from ray import tune

from interlace.contract.errors import InterlaceError, ResumeError
from interlace.recipe.identity import to_yaml
from interlace.recipe.recipe import Recipe
from interlace.store.journal import journal_path, open_lines, read, write_line
from interlace.train.checkpoint import newest_checkpoint
from interlace.train.run import Prepared, Run, fit, fit_here, prepare
from interlace.tune.folder import Goal, end_trial, read_json, write_json
from interlace.tune.search import Search
from interlace.tune.suggest import overridden

CURVE_POINTS = 200
"""Points of training metrics that a trial journals at most: enough for a curve, and cheap to ship."""
POLL_S = 0.5

VALUE, PROGRESS = "value", "progress"
"""What a trial reports: the search's metric, and steps in units of the first rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all trials of a search have in common: base recipe, section `search`, what counts, folder of the trials."""

    recipe: Recipe
    search: Search
    goal: Goal
    folder: str


class _AtStop(Exception):
    """A trial has come to its stop, with a checkpoint."""


def run_trial(config: Mapping[str, Any], shared: Shared) -> None:
    """The function that Tune runs: trains trial `config["number"]` on from its newest checkpoint.

    Errors that trying again would not mend end the trial as failed; others are raised, for Tune to start it again.
    """
    folder = Path(shared.folder) / f"{config['number']:03d}"
    if (folder / "result.json").exists():
        return
    with _usage(folder):
        try:
            _train(folder, config.get("stop"), shared)
        except _AtStop:
            return
        except ResumeError:  # a process of an earlier start still holds the folder
            raise
        except InterlaceError as error:
            end_trial(folder, "failed", f"{type(error).__name__}: {error}")
            return
        end_trial(folder, "finished")


def _train(folder: Path, stop: int | None, shared: Shared) -> None:
    """Train to the end, or to a stop where population based training goes over all trials."""
    overrides = read_json(folder / "trial.json")["overrides"]
    prepared = trial_run(overridden(shared.recipe, overrides), shared.search)
    steps = prepared.schedule.num_steps
    write_json(folder / "plan.json", {"num_steps": steps})
    (folder / "recipe.yaml").write_text(to_yaml(prepared.recipe), encoding="utf-8")
    run = Run(
        name=folder.name,
        folder=folder,
        key="",
        resumed=newest_checkpoint(folder).folder is not None,
        num_steps=steps,
        patience=prepared.recipe.train.patience,
    )

    def report(step: int, finished: bool, metrics: Mapping[str, float]) -> None:
        if finished:
            end_trial(folder, "finished")  # nobody may stop it now
        at = progress(step / steps, shared.search.first_rung)
        tune.report({VALUE: _value(metrics, shared.goal), PROGRESS: at})
        if stop is not None and step >= stop and not finished:
            raise _AtStop

    if prepared.recipe.world_sizes == (1,):
        fit_here(run, prepared, lambda state, metrics: report(state.step, state.finished, metrics))  # may raise _AtStop
    else:
        _fit_and_follow(run, prepared, report)


def trial_run(recipe: Recipe, search: Search) -> Prepared:
    """A trial's recipe with its data (from the cache of indexes), and with the settings of its place that suit a trial.

    Raises:
        InterlaceError: the data does not go with it.
    """
    prepared = prepare(recipe, map)
    every = max(recipe.tracking.log_every, ceil(prepared.schedule.num_steps / CURVE_POINTS))
    changes: dict[str, Any] = {"tracking": recipe.tracking.model_copy(update={"log_every": every})}
    if search.scheduler == "pbt":
        changes["train"] = recipe.train.model_copy(update={"checkpoint_every": prepared.eval_every})
    return replace(prepared, recipe=prepared.recipe.model_copy(update=changes))


def progress(share: float, first_rung: float) -> float:
    """A share of the length in units of the first rung, rounded so that a rung's own step has reached it."""
    return round(share / first_rung, 9)


def _value(metrics: Mapping[str, float], goal: Goal) -> float:
    if goal.metric not in metrics:
        raise InterlaceError(f"search.metric: `{goal.metric}` is not among {', '.join(metrics)}")
    return metrics[goal.metric]


def _fit_and_follow(run: Run, prepared: Prepared, report: Callable[[int, bool, Mapping[str, float]], None]) -> None:
    """Train several workers by Ray Train, and report what they journal.

    When Tune stops the trial, `report` raises SystemExit; the workers end with this process, which owns them.
    """
    failed: list[BaseException] = []

    def train() -> None:
        try:
            fit(run, prepared)
        except BaseException as error:  # handed to the thread that Tune watches
            failed.append(error)

    thread = threading.Thread(target=train, name="ray-train", daemon=True)
    thread.start()
    offset = _journal_size(run.folder) if run.resumed else 0
    while thread.is_alive() or offset < _journal_size(run.folder):
        thread.join(POLL_S)
        points, offset = read(journal_path(run.folder), offset)
        for point in points:
            metrics = {k.removeprefix("val/"): v for k, v in point.metrics.items() if k.startswith("val/")}
            finished = point.step == prepared.schedule.num_steps
            if finished:
                thread.join()  # it ends with a checkpoint, which is part of a finished trial
            if metrics and not failed:
                report(point.step, finished, metrics)
    if failed:
        raise failed[0]


def _journal_size(folder: Path) -> int:
    path = journal_path(folder)
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _usage(folder: Path) -> Iterator[None]:
    """Add seconds and CPU seconds of the body to the trial's account; a killed process adds nothing."""
    wall, cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        with open_lines(folder / "usage.jsonl") as file:
            write_line(
                file, {"wall_s": round(time.monotonic() - wall, 3), "cpu_s": round(time.process_time() - cpu, 3)}
            )
