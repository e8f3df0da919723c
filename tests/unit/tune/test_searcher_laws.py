"""The laws that the kit offers to other packages hold for `random`, and a searcher that breaks one is found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from interlace.recipe.load import parse_tree
from interlace.recipe.recipe import Recipe
from interlace.tune.folder import Goal, Trial
from interlace.tune.laws import check_searcher
from interlace.tune.search import Search
from interlace.tune.suggest import sample
from tests.data import EmojiLike

SPACE: dict[str, Any] = {
    "optim.lr": {"log_uniform": [1e-5, 1.0]},
    "model.fusion": {"choice": ["mid", "early", "weighted_sum"]},
    "model.joint_layers": {"integer": [1, 4], "when": {"model.fusion": ["mid", "early"]}},
}
SEARCH: Search = parse_tree({"space": SPACE}, (), "search", Search)


def drawn(search: Search, recipe: Recipe, trials: Sequence[Trial], goal: Goal, number: int) -> Mapping[str, Any]:
    return sample(search, number)


def test_random_keeps_the_laws_of_the_kit(shapes: EmojiLike, tmp_path: Path) -> None:
    found = check_searcher(drawn, SEARCH, shapes.recipe(tmp_path), trials=20)
    assert [dict(trial.overrides) for trial in found] == [sample(SEARCH, number) for number in range(20)]


@pytest.mark.parametrize(
    ("overrides", "law"),
    [
        ({"optim.lr": 2.0}, "outside of the space"),
        ({"optim.clip": 1.0}, "paths of the space"),
        ({"model.joint_layers": 2}, "`when` does not hold"),
        ({"model.fusion": "mid", "model.joint_layers": 2.5}, "outside of the space"),
        ({}, "sets something"),
    ],
)
def test_a_searcher_that_breaks_a_law_is_found(
    overrides: dict[str, Any], law: str, shapes: EmojiLike, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=law):
        check_searcher(lambda *given: overrides if given[-1] else {}, SEARCH, shapes.recipe(tmp_path))


def test_a_searcher_that_draws_by_itself_is_found(shapes: EmojiLike, tmp_path: Path) -> None:
    asked = iter(range(1, 1000))
    with pytest.raises(AssertionError, match="the same values again"):
        check_searcher(lambda *given: {"optim.lr": 1e-3 * next(asked)}, SEARCH, shapes.recipe(tmp_path))
