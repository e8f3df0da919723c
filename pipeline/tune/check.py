"""Reading the section `search` of a recipe file, and every error of it against its recipe, before anything starts."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from interlace.contract.errors import RecipeError
from interlace.recipe.identity import PLACE_KEYS, flatten
from interlace.recipe.load import parse_recipe, parse_tree, read_yaml
from interlace.recipe.recipe import Recipe
from interlace.tune.search import Search, Space
from interlace.tune.suggest import FIELDS, listed, overridden, sample

OWN_KEYS = ("name", "train.steps", "train.epochs", "train.eval_every", "train.patience", "train.model_from")
"""Settings that decide what trials are compared by, so they can't be searched."""


def load_search(path: Path, overrides: Sequence[str]) -> tuple[Recipe, Search]:
    """Read a recipe file with its section `search`; overrides may set `search.trials` and the like.

    Raises:
        RecipeError: all errors of recipe, search, and of the one against the other.
    """
    return parse_search(read_yaml(path), overrides, str(path))


def parse_search(tree: Any, overrides: Sequence[str], source: str) -> tuple[Recipe, Search]:
    """Turn a plain tree with a section `search`, and overrides, into both; see `load_search`."""
    own = [o.removeprefix("search.") for o in overrides if o.startswith("search.")]
    errors: list[str] = []
    recipe = search = None
    section = deepcopy(tree.get("search")) if isinstance(tree, dict) else None
    try:
        recipe = parse_recipe(tree, [o for o in overrides if not o.startswith("search.")], source)
    except RecipeError as error:
        errors += error.errors
    if section is None:
        raise RecipeError((*errors, "search: required by `interlace tune`, but not given"), source)
    try:
        search = parse_tree(section, own, source, Search)
    except RecipeError as error:
        errors += [f"search.{line}" for line in error.errors]
    if recipe is not None and search is not None:
        errors += check(search, recipe)
    if errors or recipe is None or search is None:
        raise RecipeError(tuple(errors), source)
    return recipe, search


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file: the recipe's, with the section `search`."""
    whole, part = Recipe.model_json_schema(), Search.model_json_schema()
    whole["$defs"] |= part.pop("$defs")
    whole["properties"]["search"] = part
    return whole


def check(search: Search, recipe: Recipe) -> tuple[str, ...]:
    """Every error of a search against its recipe, before anything starts; see `load_search`."""
    errors = list(_general(search, recipe))
    sound = []
    for path, space in search.space.items():
        found = list(_path_errors(path, space, search, recipe))
        errors += [f"search.space.{path}: {error}" for error in found]
        sound += [] if found else [path]
    if len(sound) < len(search.space):
        return tuple(errors)
    bad: dict[str, int] = {}
    for number in range(1, search.trials if search.searcher == "random" else 1):
        for error in _errors(recipe, sample(search, number)):
            bad.setdefault(error, number)
    return (*errors, *(f"search.space: trial {number} would be invalid: {error}" for error, number in bad.items()))


def _general(search: Search, recipe: Recipe) -> Iterator[str]:
    if recipe.data.validation is None:
        yield "data.validation: required by a search, but not given"
    task = (search.metric or next(iter(recipe.tasks))).partition("/")[0]
    if task not in recipe.tasks:
        yield f"search.metric: expected a task of the recipe ({', '.join(recipe.tasks)}), but is `{task}`"
    if search.scheduler == "pbt":
        if recipe.world_sizes != (1,):
            yield "search.scheduler: `pbt` hands checkpoints on between trials of one worker; set `train.workers` to 1"
        if recipe.train.model_from != "last":
            yield (
                "search.scheduler: `pbt` needs `train.model_from: last`; a trial's best evaluation may be of weights"
                " that it has given up since"
            )
        if search.searcher != "random":
            name = search.searcher
            yield f"search.searcher: `{name}` has no effect with `scheduler: pbt`, which chooses values itself"
        for path in search.space:
            if not _changes_in_flight(path, recipe):
                yield (
                    f"search.space.{path}: `pbt` changes settings of a model in training, and this one decides its"
                    " shape or its data; use another scheduler"
                )


def _changes_in_flight(path: str, recipe: Recipe) -> bool:
    """Whether a setting may change between two steps of a run: neither shapes nor plan depend on it."""
    section, *rest = path.split(".")
    if section == FIELDS and len(rest) == 2 and rest[0] in recipe.fields:
        return rest[1] in recipe.fields[rest[0]].training_only - {"stem", "init", "freeze"}
    if section == "tasks":
        return rest[-1] in ("label_smoothing", "mixup", "weight")
    return (section == "optim" and rest != ["name"]) or path in ("model.dropout", "model.modality_dropout")


def _path_errors(path: str, space: Space, search: Search, recipe: Recipe) -> Iterator[str]:
    """Errors of one path by itself."""
    known = [*flatten(recipe), FIELDS]
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
        yield "unknown path" + (f"; did you mean `{near[0]}`?" if near else "")
        return
    if path.startswith(PLACE_KEYS) or path in OWN_KEYS:
        yield "can't be searched: it does not decide what a trial computes, or decides what trials are compared by"
        return
    yield from _condition_errors(path, space, search)
    if path == FIELDS:
        yield from _fields_errors(space, recipe)
        return
    points = list(space.choice) if space.choice is not None else [space.at(share) for share in (0.0, 0.37, 0.999999)]
    for value in points:
        found = [error for error in _errors(recipe, {path: value}) if _about(error, path)]
        if found:
            yield f"value {value!r} is invalid: {found[0]}"
            return


def _about(error: str, path: str) -> bool:
    """Whether an error is about the setting itself and not about how it goes with others."""
    where = error.partition(":")[0]
    return where.split(".")[-1] == path.split(".")[-1] and where.split(".")[0] == path.split(".")[0]


def _condition_errors(path: str, space: Space, search: Search) -> Iterator[str]:
    for other, wanted in space.when.items():
        if other not in search.space:
            near = difflib.get_close_matches(other, search.space, n=1, cutoff=0.5)
            yield f"when: `{other}` is not searched" + (f"; did you mean `{near[0]}`?" if near else "")
        elif path in _ancestors(other, search):
            yield f"when: `{path}` and `{other}` depend on each other"
        elif (choices := search.space[other].choice) is not None:
            for value in listed(wanted):
                if value not in choices:
                    yield f"when: `{other}` is never {value!r} (it is one of {list(choices)})"


def _ancestors(path: str, search: Search) -> set[str]:
    """The path and all that it depends on over any number of conditions."""
    seen: set[str] = set()
    todo = [path]
    while todo:
        here = todo.pop()
        if here not in seen and here in search.space:
            seen.add(here)
            todo += search.space[here].when
    return seen


def _fields_errors(space: Space, recipe: Recipe) -> Iterator[str]:
    if space.choice is None:
        yield "expected `choice`: lists of the recipe's fields"
        return
    for names in space.choice:
        if not isinstance(names, list | tuple) or not names:
            yield f"expected lists of field names, but one choice is {names!r}"
            continue
        for name in names:
            if name not in recipe.fields:
                near = difflib.get_close_matches(str(name), recipe.fields, n=1)
                yield f"unknown field `{name}`" + (f"; did you mean `{near[0]}`?" if near else "")


def _errors(recipe: Recipe, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        overridden(recipe, overrides)
    except RecipeError as error:
        return error.errors
    return ()
