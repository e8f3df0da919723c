"""Population based training without Tune around it: what is handed on, and that it may be killed at any point."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from interlace.recipe.load import parse_recipe, parse_tree
from interlace.tune import population as populations
from interlace.tune import trial as trials
from interlace.tune.folder import Sweep, open_sweep
from interlace.tune.plan import SweepPlan, prepare_sweep
from interlace.tune.search import Search
from interlace.tune.searchers import make_searcher
from interlace.tune.suggest import sample
from interlace.tune.trial import Shared, run_trial
from tests.data import EmojiLike

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRIALS, STEPS, EVERY = 4, 12, 2


class Killed(BaseException):
    """Ends the driver, or the trial that it waits for."""


class Nobody:
    """A listener that does nothing."""

    def suggested(self, number: int, overrides: Mapping[str, Any]) -> None:
        pass

    def evaluated(self, number: int) -> None:
        pass

    def ended(self, number: int) -> None:
        pass


@contextmanager
def search_in(shapes: EmojiLike, storage: Path) -> Iterator[tuple[Sweep, SweepPlan]]:
    train = {"steps": STEPS, "eval_every": EVERY, "precision": "fp32", "threads": 1, "model_from": "last"}
    recipe = parse_recipe(shapes.tree(storage, train=train))
    space = {"optim.lr": {"log_uniform": [1e-6, 1e-2]}, "optim.clip": {"choice": [0.5, 1.0, 2.0]}}
    section = {"space": space, "trials": TRIALS, "scheduler": "pbt", "first_rung": 0.33, "seed": 1}
    search: Search = parse_tree(section, (), "search", Search)
    plan = prepare_sweep(recipe, search, map)
    with open_sweep(plan.recipe, search, {}, "s") as sweep:
        yield sweep, plan


def drive(sweep: Sweep, plan: SweepPlan) -> None:
    """What Tune does, one trial at a time."""
    searcher = make_searcher(sweep, plan, list(range(TRIALS)), Nobody())
    shared = Shared(recipe=plan.recipe, search=plan.search, goal=plan.goal, folder=str(sweep.folder / "trials"))
    for number in map(str, count()):
        config = searcher.suggest(number)
        if config == Searcher.FINISHED:
            return
        assert config is not None
        run_trial(config, shared)
        searcher.on_trial_complete(number)


def state(sweep: Sweep) -> dict[str, Any]:
    """All that a search decided and reached: settings, journals without times, exchanges."""
    found: dict[str, Any] = {p.name: json.loads(p.read_text()) for p in (sweep.folder / "exchanges").iterdir()}
    for folder in sorted((sweep.folder / "trials").iterdir()):
        lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        wanted = ("train/loss", "val/color/accuracy", "optim/lr")
        points = {(x["step"], k): v for x in lines for k, v in x["m"].items() if k in wanted}
        result = json.loads((folder / "result.json").read_text())["status"]
        found[folder.name] = (json.loads((folder / "trial.json").read_text()), result, points)
    return found


@pytest.fixture(autouse=True)
def without_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.tune, "report", lambda metrics: None)


def at_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but the call of this number (from 0) is a kill."""
    calls = count()

    def called(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            raise Killed
        return function(*arguments, **named)

    return called


KILLS = (("report", 3), ("write", 0), ("copy", 0), ("write", 1), ("report", 5), ("write", 2))
"""In the middle of a segment, before a decision is written, in the middle of carrying it out."""


def test_a_population_is_the_same_wherever_it_was_killed(
    shapes: EmojiLike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with search_in(shapes, tmp_path / "undisturbed") as (sweep, plan):
        drive(sweep, plan)
        wanted = state(sweep)
    check_exchanges(wanted, plan.search)

    with search_in(shapes, tmp_path / "killed") as (sweep, plan):
        for what, number in KILLS:
            with monkeypatch.context() as patch:
                if what == "report":
                    patch.setattr(trials.tune, "report", at_call(number, lambda metrics: None))
                elif what == "write":
                    patch.setattr(populations, "write_json", at_call(number, populations.write_json))
                else:
                    patch.setattr(populations.shutil, "copytree", at_call(number, populations.shutil.copytree))
                with pytest.raises(Killed):
                    drive(sweep, plan)
        drive(sweep, plan)
        assert state(sweep) == wanted


def check_exchanges(found: Mapping[str, Any], search: Search) -> None:
    """The worst trial takes settings and weights of the best one, and goes on from there."""
    exchanges = [found[name] for name in ("001.json", "002.json")]
    assert [e["step"] for e in exchanges] == [4, 8]
    settings = {n: sample(search, n) for n in range(TRIALS)}
    for exchange in exchanges:
        values = exchange["values"]
        (copy,) = exchange["copies"]
        assert values[str(copy["number"])] == min(values.values())
        assert values[str(copy["source"])] == max(values.values())
        settings[copy["number"]] = copy["overrides"]
    for number, overrides in settings.items():
        trial, status, points = found[f"{number:03d}"]
        assert (trial["overrides"], trial["exchange"], status) == (overrides, 2, "finished")
        assert [s for s, k in points if k == "train/loss"] == list(range(1, STEPS + 1))
    assert sum(settings[n] != sample(search, n) for n in settings) in (1, 2)
