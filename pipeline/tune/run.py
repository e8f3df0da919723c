"""The driver of a search: trials run until they have ended, the time is over, or somebody stops it.

prepare_sweep (`plan.py`) -> open_sweep (`pipeline/tune/folder.py`) -> run_sweep (Ray Tune)
"""

import os
import shutil
import signal
import time
import uuid
from contextlib import AbstractContextManager
from typing import Any, Literal, final

from ray import tune

from interlace.train.stop import on_signal
from interlace.tune.folder import ENDED, Goal, Sweep, end_trial, read_json
from interlace.tune.plan import SweepPlan
from interlace.tune.schedulers import make_scheduler
from interlace.tune.searchers import Listener, make_searcher
from interlace.tune.trial import Shared, run_trial

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # journals are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # so is Ctrl-C
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # nothing of Tune is restored
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",  # a trial that is ended may be in the middle of an epoch; its folder is whole
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # what it prints, `interlace tune` says itself
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may fail before its first evaluation
}

Ending = Literal["complete", "time", "interrupted"]
"""All trials ended; the time budget did; somebody pressed Ctrl-C."""


def run_sweep(sweep: Sweep, plan: SweepPlan, concurrent: int, listener: Listener) -> Ending:
    """Run the trials that have not ended, until they have.

    Args:
        sweep: open; trials that it holds go on, then new ones come.
        plan: of the search.
        concurrent: trials at a time.
        listener: hears of trials.
    """
    numbers = [n for n in range(plan.search.trials) if not _has_ended(sweep, n)]
    if not numbers:
        return "complete"
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    clock = _Clock(plan.search.time_s)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1"
    launch = sweep.folder / "ray"
    next_trial = make_searcher(sweep, plan, numbers, listener)
    tuner = tune.Tuner(
        _trainable(sweep, plan),
        tune_config=tune.TuneConfig(
            search_alg=next_trial,
            scheduler=make_scheduler(plan.search, plan.goal, sweep.trials(plan.goal)),
            num_samples=next_trial.most,
            max_concurrent_trials=concurrent,
            reuse_actors=plan.recipe.world_sizes == (1,),
            trial_dirname_creator=lambda trial: f"{trial.config['number']:03d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"launch-{uuid.uuid4().hex[:8]}",
            storage_path=str(launch),
            failure_config=tune.FailureConfig(max_failures=plan.recipe.train.max_failures),
            callbacks=[_Ears(sweep, plan.goal, listener)],
            stop=clock,
            progress_reporter=_Silent(),
            verbose=0,
        ),
    )
    with clock.watched():
        tuner.fit()
    if not clock.interrupted:
        shutil.rmtree(launch, ignore_errors=True)
    if all(_has_ended(sweep, n) for n in numbers):
        return "complete"
    return "interrupted" if clock.interrupted else "time"


def _trainable(sweep: Sweep, plan: SweepPlan) -> Any:
    """The trial function with what it shares and what Tune reserves for it."""
    settings = plan.recipe.train
    own = {"CPU": settings.cpus_per_worker} | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {})
    # Several workers reserve for themselves. Their trial must reserve something, and a hundredth of a CPU would take
    # the last whole one from the data tasks: so it takes a byte.
    bundle = own if plan.recipe.world_sizes == (1,) else {"memory": 1}
    labels = [dict(settings.labels)] if settings.labels else None
    shared = Shared(recipe=plan.recipe, search=plan.search, goal=plan.goal, folder=str(sweep.folder / "trials"))
    return tune.with_resources(
        tune.with_parameters(run_trial, shared=shared),
        tune.PlacementGroupFactory([bundle], bundle_label_selector=labels),
    )


def _has_ended(sweep: Sweep, number: int) -> bool:
    return read_json(sweep.trial(number) / "result.json").get("status") in ENDED


@final
class _Silent(tune.ProgressReporter):  # type: ignore[misc] # ray has no types
    """Reports nothing: the listener does. In a notebook Tune's own clears what the cell has said so far."""

    def should_report(self, trials: Any, done: bool = False) -> bool:
        return False

    def report(self, trials: Any, done: bool, *sys_info: str) -> None:
        raise AssertionError("nothing is to be reported")


@final
class _Ears(tune.Callback):  # type: ignore[misc]
    """Hears from Tune of evaluations and ends, and writes down the ends that a trial can't know."""

    def __init__(self, sweep: Sweep, goal: Goal, listener: Listener) -> None:
        self._sweep, self._goal, self._listener = sweep, goal, listener

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """An evaluation."""
        self._listener.evaluated(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The scheduler ended it, unless it has said itself how it ended or waits for others."""
        number = trial.config["number"]
        if trial.config.get("stop") is not None and not _has_ended(self._sweep, number):
            return
        end_trial(self._sweep.trial(number), "stopped", "not among the best at its rung")
        self._ended(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed more often than `train.max_failures` allows."""
        number = trial.config["number"]
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        end_trial(self._sweep.trial(number), "failed", lines[-1] if lines else "")
        self._ended(number)

    def _ended(self, number: int) -> None:
        self._sweep.tidy(self._goal)
        self._listener.ended(number)


@final
class _Clock(tune.Stopper):  # type: ignore[misc]
    """Ends the search when its time is over or somebody presses Ctrl-C; at the second Ctrl-C it ends at once."""

    def __init__(self, time_s: float | None) -> None:
        self._deadline = time.monotonic() + time_s if time_s is not None else None
        self.interrupted = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are the scheduler's."""
        return False

    def stop_all(self) -> bool:
        """Whether it is time."""
        return self.interrupted or (self._deadline is not None and time.monotonic() >= self._deadline)

    def watched(self) -> AbstractContextManager[None]:
        """Listen for Ctrl-C during the body."""
        return on_signal(signal.SIGINT, self._interrupt)

    def _interrupt(self) -> None:
        self.interrupted = True
