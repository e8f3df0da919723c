"""What Tune asks for the next trial: trials in the order of their numbers, or a population from stop to stop."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

from ray.tune.search import Searcher

from interlace.contract.errors import InterlaceError
from interlace.data.index.build import build_index
from interlace.recipe.plugins import Joined
from interlace.recipe.recipe import Recipe
from interlace.tune import tpe
from interlace.tune.exchange import stops
from interlace.tune.folder import Goal, Sweep, Trial, end_trial, read_json
from interlace.tune.plan import SweepPlan
from interlace.tune.population import Population
from interlace.tune.search import Search
from interlace.tune.suggest import overridden, sample

Ask = Callable[[Search, Recipe, Sequence[Trial], Goal, int], Mapping[str, Any]]

SEARCHERS: Mapping[str, Ask] = Joined("searchers", {"tpe": tpe.suggest}, lambda found: found.part(found.plugin.make))
"""Those that look at the trials so far. The values of `random` are known before the first (`sample`)."""


class Listener(Protocol):
    """Hears what happens to trials, in the driver."""

    def suggested(self, number: int, overrides: Mapping[str, Any]) -> None:
        """A trial is about to start or to go on."""

    def evaluated(self, number: int) -> None:
        """A trial was evaluated."""

    def ended(self, number: int) -> None:
        """A trial has come to its end."""


def make_searcher(sweep: Sweep, plan: SweepPlan, numbers: list[int], listener: Listener) -> "Numbers | Segments":
    """What Tune asks, for the trials that have not ended: those begun earlier come first."""
    known = set(sweep.numbers())
    ordered = sorted(numbers, key=lambda n: (n not in known, n))
    if plan.search.scheduler != "pbt":
        return Numbers(sweep, plan, ordered, listener)
    steps = stops(plan.base.schedule.num_steps, plan.base.eval_every, plan.search.first_rung)
    population = Population(sweep, plan.search, plan.recipe, plan.goal, steps)
    return Segments(sweep, plan, ordered, listener, population, most=len(numbers) * (len(steps) + 1))


class _Suggestions(Searcher):  # type: ignore[misc] # ray has no types
    """What Tune asks for the next trial. It keeps nothing of it: the folder is the memory."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given; nothing of it is ever read back

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept; Tune wants a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


@final
class Numbers(_Suggestions):
    """Trials that go from their beginning to their end."""

    def __init__(self, sweep: Sweep, plan: SweepPlan, numbers: list[int], listener: Listener) -> None:
        super().__init__()
        self.most = len(numbers)
        self._queue = deque(numbers)
        self._sweep, self._plan, self._listener = sweep, plan, listener

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial, or that there is none."""
        if not self._queue:
            return Searcher.FINISHED
        number = self._queue.popleft()
        self._listener.suggested(number, suggestion(self._sweep, self._plan, number))
        return {"number": number}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: suggestions look at the folder."""


@final
class Segments(_Suggestions):
    """Trials of a population: each is a trial of Tune from one stop to the next, and waits there for all others."""

    def __init__(
        self,
        sweep: Sweep,
        plan: SweepPlan,
        numbers: list[int],
        listener: Listener,
        population: Population,
        most: int,
    ) -> None:
        super().__init__()
        self.most = most
        self._numbers = numbers
        self._queue: deque[int] = deque()
        self._running: set[str] = set()
        self._sweep, self._plan, self._listener, self._population = sweep, plan, listener, population

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next segment, None while others have to come to their stop, or that all is done."""
        if not self._queue:
            if self._running:
                return None
            self._queue.extend(self._population.advance(self._numbers))
            if not self._queue:
                return Searcher.FINISHED
        number = self._queue.popleft()
        self._running.add(trial_id)
        self._listener.suggested(number, suggestion(self._sweep, self._plan, number))
        return {"number": number, "stop": self._population.stop}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """A segment is over."""
        self._running.discard(trial_id)


def suggestion(sweep: Sweep, plan: SweepPlan, number: int) -> dict[str, Any]:
    """What a trial tries: as suggested before, or suggested now and kept. Data that do not fit end it as failed."""
    before = read_json(sweep.trial(number) / "trial.json")
    if before:
        return dict(before["overrides"])
    if plan.search.searcher == "random":
        overrides = sample(plan.search, number)
    else:
        ask = SEARCHERS[plan.search.searcher]
        overrides = dict(ask(plan.search, plan.recipe, sweep.trials(plan.goal), plan.goal, number))
    sweep.suggest(number, overrides)
    try:
        build_index(overridden(plan.recipe, overrides))  # here, so that no two trials build the same one
    except InterlaceError as error:
        end_trial(sweep.trial(number), "failed", f"{type(error).__name__}: {error}")
    return overrides
