"""Which trials go on: Ray Tune's schedulers, made from the section `search`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from interlace.tune.folder import Goal, Trial
from interlace.tune.search import Search
from interlace.tune.trial import PROGRESS, VALUE, progress

FEWEST_FOR_A_MEDIAN = 3


def make_scheduler(search: Search, goal: Goal, trials: Sequence[Trial]) -> TrialScheduler:
    """The scheduler of a search, knowing what its trials reported in earlier starts."""
    if search.scheduler in ("none", "pbt"):  # a population is not Tune's: see `population.py`
        return FIFOScheduler()
    common: dict[str, Any] = {"time_attr": PROGRESS, "metric": VALUE, "mode": goal.mode, "grace_period": 1}
    if search.scheduler == "asha":
        inner = AsyncHyperBandScheduler(
            **common, max_t=1 / search.first_rung, reduction_factor=search.reduction, stop_last_trials=False
        )
    else:
        # Without the infinite slice a trial would pause whenever others wait, and read its data again when it goes on.
        inner = MedianStoppingRule(
            **common, min_samples_required=FEWEST_FOR_A_MEDIAN, min_time_slice=float("inf"), hard_stop=True
        )
    judge = Judge(inner)
    judge.recall(trials, search.first_rung)
    return judge


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """What a scheduler sees of a trial: a name that is the same in every start. Tune's own ids are drawn anew."""

    trial_id: str


@final
class Judge(TrialScheduler):  # type: ignore[misc] # ray has no types
    """One of Tune's schedulers, told of trials by their number, so that it can be told again what it knew."""

    def __init__(self, inner: AsyncHyperBandScheduler | MedianStoppingRule) -> None:
        super().__init__()
        self._inner = inner

    def recall(self, trials: Sequence[Trial], first_rung: float) -> None:
        """Tell of the evaluations of earlier starts in the order of their times; verdicts on them were carried out."""
        for trial in trials:
            self._inner.on_trial_add(None, _Named(trial_id=str(trial.number)))
        reports = [(s.time_ms, t.number, s) for t in trials for s in t.scores]
        for _, number, score in sorted(reports, key=lambda item: item[:2]):
            named, result = (
                _Named(trial_id=str(number)),
                {VALUE: score.value, PROGRESS: progress(score.share, first_rung)},
            )
            if isinstance(self._inner, AsyncHyperBandScheduler):
                self._inner.on_trial_result(None, named, result)
            else:
                self._inner.on_trial_complete(None, named, result)  # only notes the result

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are known from the start."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial joins."""
        self._inner.on_trial_add(tune_controller, _named(trial))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial failed; what it reported stays."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after an evaluation."""
        return str(self._inner.on_trial_result(tune_controller, _named(trial), result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial ended; its last result was told as a result before."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial was taken out while it waited."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The trial that waits longest."""
        return self._inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """For Tune's own tables."""
        return str(self._inner.debug_string())

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the folder of the search is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


def _named(trial: Any) -> _Named:
    return _Named(trial_id=str(trial.config["number"]))
