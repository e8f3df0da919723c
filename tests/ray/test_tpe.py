"""The searcher `tpe` (extra `optuna`): a function of the trials so far, inside the space, better than chance."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from interlace.recipe.load import parse_tree
from interlace.recipe.recipe import Recipe
from interlace.tune.folder import Goal, Score, Trial
from interlace.tune.laws import check_searcher
from interlace.tune.search import Search
from interlace.tune.suggest import sample, values_of
from interlace.tune.tpe import suggest
from tests.data import EmojiLike

pytest.importorskip("optuna")
pytestmark = pytest.mark.ray

GOAL = Goal(metric="a/accuracy", mode="max", last=True)
SPACE: dict[str, Any] = {
    "optim.lr": {"log_uniform": [1e-5, 1.0]},
    "model.fusion": {"choice": ["mid", "early", "weighted_sum"]},
    "model.joint_layers": {"integer": [1, 4], "when": {"model.fusion": ["mid", "early"]}},
    "model.dropout": {"uniform": [0.0, 0.5]},
}
SEARCH: Search = parse_tree({"space": SPACE, "searcher": "tpe", "trials": 40}, (), "search", Search)


def trial(number: int, overrides: Mapping[str, Any], value: float, status: Any = "finished") -> Trial:
    score = Score(step=10, share=1.0, value=value, time_ms=number)
    return Trial(
        number=number, overrides=overrides, status=status, reason="", scores=(score,), num_steps=10, cpu_s=0, wall_s=0
    )


def worth(values: Mapping[str, Any]) -> float:
    """Best at a rate of 3e-3, with `early` and three layers."""
    layers = values["model.joint_layers"] or 0
    return -abs(math.log10(values["optim.lr"] / 3e-3)) + (values["model.fusion"] == "early") - 0.3 * abs(layers - 3)


def search(recipe: Recipe, trials: int) -> list[Trial]:
    found: list[Trial] = []
    for number in range(trials):
        overrides = suggest(SEARCH, recipe, found, GOAL, number)
        assert overrides == suggest(SEARCH, recipe, found, GOAL, number)
        found.append(trial(number, overrides, worth(values_of(SEARCH, recipe, overrides))))
    return found


@pytest.fixture
def recipe(shapes: EmojiLike, tmp_path: Path) -> Recipe:
    return shapes.recipe(tmp_path)


def test_suggestions_learn_from_trials_and_stay_in_the_space(recipe: Recipe) -> None:
    found = search(recipe, 40)
    assert found[0].overrides == {}
    assert [t.overrides for t in check_searcher(suggest, SEARCH, recipe)][:8] == [t.overrides for t in found[:8]]
    for one in found[1:]:
        assert 1e-5 <= one.overrides["optim.lr"] <= 1.0
        assert ("model.joint_layers" in one.overrides) == (one.overrides["model.fusion"] != "weighted_sum")
        assert one.overrides.get("model.joint_layers", 1) in range(1, 5)
    late = [t.scores[0].value for t in found[20:]]
    chance = [worth(values_of(SEARCH, recipe, sample(SEARCH, n))) for n in range(1, 500)]
    assert sum(late) / len(late) > sum(chance) / len(chance) + 0.5
    assert max(t.scores[0].value for t in found) > sorted(chance)[-25]


def test_trials_without_a_value_count_not_and_stopped_ones_are_pruned(recipe: Recipe) -> None:
    known = search(recipe, 12)
    failed = trial(12, {"optim.lr": 1.0, "model.fusion": "mid"}, 9.0, "failed")
    assert suggest(SEARCH, recipe, [*known, failed], GOAL, 20) == suggest(SEARCH, recipe, known, GOAL, 20)
    stopped = trial(12, {"optim.lr": 1.0, "model.fusion": "mid"}, -9.0, "stopped")
    assert suggest(SEARCH, recipe, [*known, stopped], GOAL, 20).keys() >= {"optim.lr", "model.fusion"}
