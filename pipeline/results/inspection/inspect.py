"""The page of what a recipe's data holds, made in this process, without Ray.

index (from the cache or made now) -> facts of each split, a sheet of decoded samples -> page
"""

from interlace.data.index.build import build_index
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import pin
from interlace.results.inspection.facts import Facts, gather

NO_LIMIT = 2**31 - 1


def inspect(recipe: Recipe) -> Facts:
    """What the data holds, bad records and overlong samples included. Raises DataError where shards can't be read."""
    return gather(recipe, build_index(_without_limits(pin(recipe))))


def _without_limits(recipe: Recipe) -> Recipe:
    """The recipe without the limits that stop a run: here is where to see what passes them."""
    data = recipe.data.model_copy(update={"max_bad_share": 1.0})
    batch = recipe.batch.model_copy(update={"token_budget": NO_LIMIT})
    return recipe.model_copy(update={"data": data, "batch": batch})
