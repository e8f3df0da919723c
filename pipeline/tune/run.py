"""The driver of a search: from a recipe and its section `search` to trials that have ended.

prepare_sweep (recipes of all trials, indexes, arithmetic of the metric) -> open_sweep -> run_sweep (Ray Tune)
"""

import os
import shutil
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, final

from ray import tune
from ray.tune.search import Searcher

from pipeline.data.index import build_index
from pipeline.data.sources import Mapper
from pipeline.errors import InterlaceError, RecipeError
from pipeline.recipe import Recipe
from pipeline.search import Search, active, overridden, sample, values_of
from pipeline.sweep import ENDED, Goal, Sweep, end_trial, read_json
from pipeline.train.build import network_for
from pipeline.train.run import Prepared, prepare
from pipeline.tune import tpe
from pipeline.tune.schedulers import make_scheduler
from pipeline.tune.trial import Shared, run_trial

CACHE_GB = 2.0
"""Bound of the cache of decoded values that trials share where the recipe has none: decoding is then paid once."""

CHECKPOINTS = 4
"""Of a trial, kept by population based training for others to take over."""

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


class Listener(Protocol):
    """Hears what happens to trials, in the driver."""

    def suggested(self, number: int, overrides: Mapping[str, Any]) -> None:
        """A trial is about to start or to go on."""

    def evaluated(self, number: int) -> None:
        """A trial was evaluated."""

    def ended(self, number: int) -> None:
        """A trial has come to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """A search with its data: all that can be known before trials start.

    Args:
        recipe: that trials start from, with paths made absolute and the cache of decoded values turned on.
        search: the section.
        goal: what trials are compared by.
        base: trial 0, the recipe as it stands.
    """

    recipe: Recipe
    search: Search
    goal: Goal
    base: Prepared


def prepare_sweep(recipe: Recipe, search: Search, mapper: Mapper) -> SweepPlan:
    """Build every index that trials need, once, and settle what they are compared by.

    Raises:
        InterlaceError: the data is not as a trial needs it, the metric is none, or Optuna is missing.
    """
    if search.searcher == "tpe":
        tpe.require_optuna()
    recipe = _in_place(recipe)
    base = prepare(recipe, mapper)
    goal = _goal(search, base)
    if search.searcher == "random":
        seen = [_about_data(recipe, {})]
        for number in range(1, search.trials):
            overrides = _about_data(recipe, sample(search, number))
            if overrides not in seen:
                seen.append(overrides)
                _build(recipe, overrides, mapper, number)
    return SweepPlan(recipe=recipe, search=search, goal=goal, base=base)


def _build(recipe: Recipe, overrides: Mapping[str, Any], mapper: Mapper, number: int) -> None:
    try:
        build_index(overridden(recipe, overrides), mapper)
    except InterlaceError as error:
        raise RecipeError((f"search.space: trial {number} would fail: {error}",)) from error


def _in_place(recipe: Recipe) -> Recipe:
    """The recipe for processes with other current folders, and with decoded values shared."""
    root = recipe.data.root
    data = {"root": root if "://" in root else str(Path(root).absolute())}
    shared = {} if recipe.data.cache_gb else {"cache_gb": CACHE_GB}
    return recipe.model_copy(
        update={
            "storage": str(Path(recipe.storage).absolute()),
            "data": recipe.data.model_copy(update={**data, **shared}),
        }
    )


def _about_data(recipe: Recipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those overrides that an index depends on."""

    def counts(path: str) -> bool:
        section, *rest = path.split(".")
        if section == "fields" and len(rest) > 1:
            return rest[1] not in recipe.fields[rest[0]].training_only
        if section == "tasks":
            return rest[1] in recipe.tasks[rest[0]].target_keys
        return section in ("fields", "data") or path == "batch.token_budget"  # which every sample must fit into

    return {path: value for path, value in overrides.items() if counts(path)}


def _goal(search: Search, base: Prepared) -> Goal:
    network = network_for(base.recipe, base.index.fitted)
    name = (search.metric or next(iter(base.recipe.tasks))).partition("/")[0]
    task = network.tasks[name]
    metric = search.metric or f"{name}/{task.main_metric}"
    mode = search.mode
    if mode is None and metric == f"{name}/{task.main_metric}":
        mode = "max" if task.higher_is_better else "min"
    if mode is None and metric.endswith("/loss"):
        mode = "min"
    if mode is None:
        raise RecipeError((f"search.mode: required for `{metric}` (max or min), but not given",))
    return Goal(metric=metric, mode=mode, last=base.recipe.train.model_from == "last")


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
    pbt = plan.search.scheduler == "pbt"
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(len(numbers)) if pbt else "1"
    launch = sweep.folder / "ray"
    tuner = tune.Tuner(
        _trainable(sweep, plan),
        tune_config=tune.TuneConfig(
            search_alg=_Numbers(sweep, plan, numbers, listener),
            scheduler=make_scheduler(plan.search, plan.goal, sweep.trials(plan.goal)),
            num_samples=len(numbers),
            max_concurrent_trials=None if pbt else concurrent,  # a population is larger than the cluster
            reuse_actors=plan.recipe.world_sizes == (1,),
            trial_dirname_creator=lambda trial: f"{trial.config['number']:03d}",
        ),
        run_config=tune.RunConfig(
            name=f"launch-{uuid.uuid4().hex[:8]}",
            storage_path=str(launch),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=CHECKPOINTS),
            failure_config=tune.FailureConfig(max_failures=plan.recipe.train.max_failures),
            callbacks=[_Ears(sweep, listener)],
            stop=clock,
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
    several = {"CPU": 0.01}  # workers reserve for themselves; `slots` has done the arithmetic
    shared = Shared(recipe=plan.recipe, search=plan.search, goal=plan.goal, folder=str(sweep.folder / "trials"))
    return tune.with_resources(
        tune.with_parameters(run_trial, shared=shared), own if plan.recipe.world_sizes == (1,) else several
    )


def _has_ended(sweep: Sweep, number: int) -> bool:
    return read_json(sweep.trial(number) / "result.json").get("status") in ENDED


@final
class _Numbers(Searcher):  # type: ignore[misc] # ray has no types
    """What Tune asks for the next trial: those begun earlier first, then new ones."""

    def __init__(self, sweep: Sweep, plan: SweepPlan, numbers: list[int], listener: Listener) -> None:
        super().__init__()
        known = set(sweep.numbers())
        self._queue = deque(sorted(numbers, key=lambda n: (n not in known, n)))
        self._sweep, self._plan, self._listener = sweep, plan, listener

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given; nothing of it is ever read back

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial, or that there is none."""
        if not self._queue:
            return Searcher.FINISHED
        number = self._queue.popleft()
        overrides = suggestion(self._sweep, self._plan, number)
        self._listener.suggested(number, overrides)
        if self._plan.search.scheduler != "pbt":
            return {"number": number}
        whole = values_of(self._plan.search, self._plan.recipe, overrides)
        return {"number": number, "space": active(self._plan.search, whole)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: suggestions look at the folder."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept; Tune wants a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


def suggestion(sweep: Sweep, plan: SweepPlan, number: int) -> dict[str, Any]:
    """What a trial tries: as suggested before, or suggested now and kept. Data that do not fit end it as failed."""
    before = read_json(sweep.trial(number) / "trial.json")
    if before:
        return dict(before["overrides"])
    if plan.search.searcher == "tpe":
        overrides = tpe.suggest(plan.search, plan.recipe, sweep.trials(plan.goal), plan.goal, number)
    else:
        overrides = sample(plan.search, number)
    sweep.suggest(number, overrides)
    try:
        build_index(overridden(plan.recipe, overrides))  # here, so that no two trials build the same one
    except InterlaceError as error:
        end_trial(sweep.trial(number), "failed", f"{type(error).__name__}: {error}")
    return overrides


@final
class _Ears(tune.Callback):  # type: ignore[misc]
    """Hears from Tune of evaluations and ends, and writes down the ends that a trial can't know."""

    def __init__(self, sweep: Sweep, listener: Listener) -> None:
        self._sweep, self._listener = sweep, listener

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """An evaluation."""
        self._listener.evaluated(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The scheduler ended it, unless it has said itself how it ended."""
        number = trial.config["number"]
        end_trial(self._sweep.trial(number), "stopped", "not among the best at its rung")
        self._listener.ended(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed more often than `train.max_failures` allows."""
        number = trial.config["number"]
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        end_trial(self._sweep.trial(number), "failed", lines[-1] if lines else "")
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

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Listen for Ctrl-C during the body."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
