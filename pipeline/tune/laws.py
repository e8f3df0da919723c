"""What is true of every searcher, as a check for the tests of any package that brings one."""

from interlace.recipe.recipe import Recipe
from interlace.tune.folder import Goal, Score, Trial
from interlace.tune.search import Search, Space
from interlace.tune.searchers import Ask
from interlace.tune.suggest import active, overridden

GOAL = Goal(metric="it/loss", mode="min", last=False)


def check_searcher(ask: Ask, search: Search, recipe: Recipe, trials: int = 12) -> list[Trial]:
    """Trial 0 is the recipe as it stands; others set what the space allows, and depend on what is known alone.

    Args:
        ask: what gives the overrides of a trial, see `interlace.recipe.plugins.SearcherPlugin`.
        search: the section `search`, with a space.
        recipe: that the overrides are for.
        trials: how many are asked for, one after the other, each ended with a made-up value.

    Returns:
        The trials.

    Raises:
        AssertionError: with the law that does not hold.
        RecipeError: a suggestion makes no recipe.
    """
    found: list[Trial] = []
    for number in range(trials):
        overrides = dict(ask(search, recipe, list(found), GOAL, number))
        again = dict(ask(search, recipe, list(found), GOAL, number))
        assert again == overrides, f"trial {number}: expected the same values again, but {overrides} became {again}"
        assert number or not overrides, f"expected trial 0 to be the recipe as it stands, but it sets {overrides}"
        unknown = [path for path in overrides if path not in search.space]
        assert not unknown, f"trial {number}: expected paths of the space, but `{', '.join(unknown)}` are none"
        for path, value in overrides.items():
            assert inside(search.space[path], value), f"trial {number}: {path}={value!r} is outside of the space"
        assert active(search, overrides) == overrides, f"trial {number}: expected no value whose `when` does not hold"
        overridden(recipe, overrides)
        found.append(_ended(number, overrides, value=float((number * 7) % 5)))
    assert any(trial.overrides for trial in found), "expected a trial that sets something"
    return found


def inside(space: Space, value: object) -> bool:
    """Whether a value is one of those that a space allows."""
    if space.choice is not None:
        return value in space.choice
    low, high = space.bounds
    right = isinstance(value, int) if space.whole else isinstance(value, int | float)
    return right and low <= float(str(value)) <= high


def _ended(number: int, overrides: dict[str, object], value: float) -> Trial:
    score = Score(step=10, share=1.0, value=value, time_ms=number)
    return Trial(
        number=number, overrides=overrides, status="finished", reason="", scores=(score,), num_steps=10, cpu_s=0.0,
        wall_s=0.0,
    )  # fmt: skip
