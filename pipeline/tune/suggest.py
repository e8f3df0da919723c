"""Which values a trial has: drawn from (seed, number, path) alone, and put into the recipe."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interlace.recipe.identity import flatten
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.tune.search import Search

FIELDS = "fields"
"""The one path that is a section: its choices are lists of names, the fields that a trial reads."""


def sample(search: Search, number: int) -> dict[str, Any]:
    """The overrides of a trial: path -> value for every path that counts in it; none for trial 0."""
    if number == 0:
        return {}
    drawn = {path: space.at(_share(search.seed, number, path)) for path, space in search.space.items()}
    return active(search, drawn)


def active(search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values whose conditions hold, in the order of the space."""

    def counts(path: str) -> bool:
        return path in values and all(
            counts(other) and values[other] in listed(wanted) for other, wanted in search.space[path].when.items()
        )

    return {path: values[path] for path in search.space if counts(path)}


def overridden(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial. Raises RecipeError."""
    tree = recipe.model_dump(mode="json")
    for path, value in overrides.items():
        if path == FIELDS:
            continue
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node[key]
        node[last] = value
    if (kept := overrides.get(FIELDS)) is not None:
        tree[FIELDS] = {name: item for name, item in tree[FIELDS].items() if name in kept}
    return parse_recipe(tree)


def values_of(search: Search, recipe: Recipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The value that every searched path has in a trial: drawn, or as the recipe has it; None where it counts not."""
    own = {**flatten(recipe), FIELDS: list(recipe.fields)}
    found = active(search, {path: overrides.get(path, own[path]) for path in search.space})
    return {path: found.get(path) for path in search.space}


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted paths that tell them apart: `optim.lr` is `lr`."""
    names = {}
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        names[path] = next(e for e in ends if sum(p == e or p.endswith("." + e) for p in paths) == 1 or e == path)
    return names


def listed(wanted: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def _share(seed: int, number: int, path: str) -> float:
    """A number in [0, 1) that depends on its three arguments alone."""
    place = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
    return float(np.random.default_rng((seed, number, place)).random())
