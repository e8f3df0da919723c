"""The folder of a search: what it remembers, which trial is best, which search may go on."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interlace.contract.better import is_better
from interlace.contract.errors import ResumeError
from interlace.recipe.load import parse_tree
from interlace.recipe.recipe import Recipe
from interlace.results.search_figures import Drawn, curves_figure, parallel_figure, slices_figure
from interlace.store.journal import Journal, journal_path
from interlace.tune.folder import Goal, Score, Sweep, Trial, best_trial, end_trial, open_sweep, write_json
from interlace.tune.search import Search
from tests.data import EmojiLike

GOAL = Goal(metric="a/accuracy", mode="max", last=False)
SEARCH: Search = parse_tree({"space": {"optim.lr": {"uniform": [0.1, 1]}}}, (), "search", Search)


def trial(number: int, status: Any, *values: float) -> Trial:
    scores = tuple(Score(step=i + 1, share=(i + 1) / 4, value=v, time_ms=i) for i, v in enumerate(values))
    return Trial(
        number=number, overrides={}, status=status, reason="", scores=scores, num_steps=4, cpu_s=0.0, wall_s=0.0
    )


@pytest.fixture
def recipe(shapes: EmojiLike, tmp_path: Path) -> Recipe:
    return shapes.recipe(tmp_path)


@pytest.mark.parametrize("higher", [True, False])
def test_nan_is_never_the_better_value_and_any_number_is_better_than_it(higher: bool) -> None:
    nan, inf = math.nan, math.inf
    assert is_better(0.2, 0.1, higher=higher) is higher
    assert is_better(0.1, 0.2, higher=higher) is not higher
    assert is_better(inf, 0.1, higher=higher) is higher
    for than in (0.1, nan, None, inf, -inf):
        assert not is_better(nan, than, higher=higher)
    for value in (0.1, inf, -inf):
        assert is_better(value, nan, higher=higher)
        assert is_better(value, None, higher=higher)
        assert not is_better(value, value, higher=higher)


def test_the_best_trial_is_a_finished_one_and_the_first_of_equals() -> None:
    stopped, low = trial(0, "stopped", 0.9), trial(1, "finished", 0.2, 0.3, 0.3, 0.1)
    high, same = trial(2, "finished", 0.1, 0.1, 0.4, 0.2), trial(3, "finished", 0.4, 0.1, 0.1, 0.1)
    assert best_trial([stopped, low, high, same], GOAL) == high
    assert best_trial([stopped, low, high, same], replace(GOAL, mode="min")) == low
    assert best_trial([low, high, trial(4, "failed", 0.99)], replace(GOAL, last=True)) == high
    broken = trial(5, "finished", 0.1, math.nan, math.nan, math.nan)
    assert broken.value(replace(GOAL, last=True)) == 0.1
    assert trial(6, "finished", math.nan).value(GOAL) is None


def test_without_a_finished_trial_the_furthest_count() -> None:
    early, late, worse = trial(0, "stopped", 0.9), trial(1, "unfinished", 0.1, 0.4), trial(2, "stopped", 0.1, 0.3)
    assert best_trial([early, late, worse], GOAL) == late
    assert best_trial([trial(0, "waiting")], GOAL) is None


def test_the_folder_remembers_trials_and_their_first_word_of_an_end(recipe: Recipe) -> None:
    with open_sweep(recipe, SEARCH, {"train": "d"}, "s") as sweep:
        assert not sweep.resumed
        sweep.suggest(3, {"optim.lr": 0.5})
        assert sweep.read(3, GOAL).status == "waiting"
        write_json(sweep.trial(3) / "plan.json", {"num_steps": 8})
        journal = Journal(journal_path(sweep.trial(3)))
        for step in (2, 4):
            journal.log(step, {"train/loss": 1.0})
            journal.log(step, {"val/a/accuracy": step / 10, "val/a/loss": 1.0})
        journal.close()
        (sweep.trial(3) / "usage.jsonl").write_text('{"wall_s":1.5,"cpu_s":1}\n{"wall_s":1,"cpu_s":0.5}\n{"wall_s":')
        found = sweep.read(3, GOAL)
        assert [(s.step, s.share, s.value) for s in found.scores] == [(2, 0.25, 0.2), (4, 0.5, 0.4)]
        assert (found.status, found.cpu_s, found.wall_s) == ("unfinished", 1.5, 2.5)
        end_trial(sweep.trial(3), "finished")
        end_trial(sweep.trial(3), "stopped", "later")
        assert (sweep.read(3, GOAL).status, sweep.read(3, GOAL).reason) == ("finished", "")
        key = sweep.key
    with open_sweep(recipe, SEARCH, {"train": "d"}, "s") as again:
        assert (again.resumed, again.key, again.numbers()) == (True, key, [3])
    with open_sweep(recipe, SEARCH, {"train": "d"}, "s", fresh=True) as new:
        assert (new.name, new.numbers()) == ("s-2", [])


def test_another_search_under_the_same_name_is_refused_with_each_difference(recipe: Recipe) -> None:
    def opened(recipe: Recipe, search: Search, data: str) -> Sweep:
        with open_sweep(recipe, search, {"train": data}, "s") as sweep:
            return sweep

    opened(recipe, SEARCH, "d")
    opened(recipe, SEARCH.model_copy(update={"trials": 99, "time_s": 3.0}), "d")
    other = SEARCH.model_copy(update={"seed": 7, "scheduler": "none"})
    changed = recipe.model_copy(update={"seed": 3})
    with pytest.raises(ResumeError) as caught:
        opened(changed, other, "e")
    told = str(caught.value)
    for part in ("search.seed: the search has 0, now it is 7", "search.scheduler", "data.train", "recipe: "):
        assert part in told
    with open_sweep(recipe, SEARCH, {"train": "d"}, "s"), pytest.raises(ResumeError, match="held by another process"):
        opened(recipe, SEARCH, "d")


def test_figures_are_drawn_whatever_trials_lack(tmp_path: Path) -> None:
    def drawn(number: int, result: float | None, rate: float | None) -> Drawn:
        values = [] if result is None else [result / 2, result]
        settings = {"rate": rate, "fusion": ["mid", "early"][number % 2], "fields": ["a", "b"]}
        return Drawn(number=number, status="finished", settings=settings, shares=[0.5, 1.0][: len(values)],
                     values=values, result=result)  # fmt: skip

    scales = {"rate": True, "fusion": False, "fields": False}
    several = [drawn(0, 0.5, 1e-3), drawn(1, 0.7, None), drawn(2, None, 1e-2)]
    for name, trials in {"several": several, "one": several[:1], "none": [drawn(0, None, None)]}.items():
        for figure in (parallel_figure, slices_figure):
            figure(trials, scales, "a/accuracy", tmp_path / f"{name}-{figure.__name__}.png")
        curves_figure(trials, 0, [0.1, 0.3], "a/accuracy", tmp_path / f"{name}-curves.png")
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 9
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_checkpoints_of_trials_that_lost_are_deleted(recipe: Recipe) -> None:
    values = {0: ("stopped", 0.2), 1: ("stopped", 0.6), 2: ("failed", 0.9), 3: (None, 0.1), 4: ("stopped", 0.4)}
    with open_sweep(recipe, SEARCH, {"train": "d"}, "tidied") as sweep:
        for number, (status, value) in values.items():
            sweep.suggest(number, {})
            write_json(sweep.trial(number) / "plan.json", {"num_steps": 4})
            (sweep.trial(number) / "checkpoints" / "step-00000001").mkdir(parents=True)
            journal = Journal(journal_path(sweep.trial(number)))
            journal.log(1, {"val/a/accuracy": value})
            journal.close()
            if status is not None:
                end_trial(sweep.trial(number), status)  # type: ignore[arg-type]

        def kept() -> list[int]:
            return [n for n in values if (sweep.trial(n) / "checkpoints").exists()]

        sweep.tidy(GOAL)
        assert kept() == [1, 3]  # the best so far, and one that goes on
        end_trial(sweep.trial(3), "finished")
        sweep.tidy(GOAL)
        assert kept() == [3]
