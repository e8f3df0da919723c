"""Population based training: a pure function of what was reached; the worst become changed copies of the best."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interlace.recipe.load import parse_tree
from interlace.recipe.recipe import Recipe
from interlace.tune.exchange import FACTORS, changed, copies, stops
from interlace.tune.folder import Goal
from interlace.tune.search import Search
from tests.data import EmojiLike

GOAL = Goal(metric="a/accuracy", mode="max", last=True)
SPACE: dict[str, Any] = {
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
    "optim.warmup": {"uniform": [0.0, 0.2], "when": {"optim.schedule": "cosine"}},
    "optim.schedule": {"choice": ["constant", "linear", "cosine"]},
    "fields.image.shift": {"integer": [1, 3]},
}
SEARCH: Search = parse_tree({"space": SPACE, "scheduler": "pbt"}, (), "search", Search)


@pytest.fixture
def recipe(shapes: EmojiLike, tmp_path: Path) -> Recipe:
    return shapes.recipe(tmp_path)


def reached(*values: float) -> dict[int, tuple[float, dict[str, Any]]]:
    own = [{"optim.lr": 1e-3 * (n + 1), "optim.schedule": "linear", "fields.image.shift": 2} for n in range(8)]
    return {n: (value, own[n]) for n, value in enumerate(values)}


def test_stops_are_evaluations_before_the_end() -> None:
    assert stops(630, 54, 1 / 9) == (108, 162, 216, 324, 378, 432, 540, 594)
    assert stops(630, 70, 1 / 9) == (70, 140, 210, 280, 350, 420, 490, 560)
    assert stops(10, 10, 0.5) == ()
    assert stops(100, 5, 0.25) == (25, 50, 75)


def test_the_worst_quarter_copies_the_best_quarter(recipe: Recipe) -> None:
    made = copies(SEARCH, recipe, GOAL, reached(0.5, 0.9, 0.1, 0.4, 0.8, float("nan"), 0.6, 0.3), 1)
    assert {c.number for c in made} == {5, 2}
    assert {c.source for c in made} <= {1, 4}
    low = Goal(metric="a/loss", mode="min", last=True)
    made = copies(SEARCH, recipe, low, reached(0.5, 0.9, 0.1, 0.4), 1)
    assert [(c.number, c.source) for c in made] == [(1, 2)]
    assert copies(SEARCH, recipe, GOAL, reached(0.5), 1) == []
    assert copies(SEARCH, recipe, GOAL, {}, 1) == []


def test_an_exchange_depends_on_seed_stop_and_values_alone(recipe: Recipe) -> None:
    values = reached(0.5, 0.9, 0.1, 0.4, 0.8, 0.2, 0.6, 0.3)
    backwards = dict(reversed(values.items()))
    first = [copies(SEARCH, recipe, GOAL, values, n) for n in range(1, 20)]
    assert first == [copies(SEARCH, recipe, GOAL, backwards, n) for n in range(1, 20)]
    assert len({str(made) for made in first}) == 19


def test_changed_settings_are_near_stay_in_their_space_and_follow_conditions() -> None:
    rng = np.random.default_rng(0)
    before = {"optim.lr": 9e-3, "optim.warmup": None, "optim.schedule": "linear", "fields.image.shift": 1}
    made = [changed(SEARCH, before, rng) for _ in range(400)]
    assert all(1e-4 <= m["optim.lr"] <= 1e-2 and m["fields.image.shift"] in (1, 2, 3) for m in made)
    near = [m["optim.lr"] for m in made if m["optim.lr"] in (9e-3 * FACTORS[0], 1e-2)]
    assert 0.65 < len(near) / 400 < 0.85  # the others were drawn anew
    assert all(("optim.warmup" in m) == (m["optim.schedule"] == "cosine") for m in made)
    schedules = [m["optim.schedule"] for m in made]
    assert 0.3 < schedules.count("constant") / 400 < 0.6
    assert 0.3 < schedules.count("cosine") / 400 < 0.6
