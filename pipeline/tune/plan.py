"""What is known of a search before its trials start: what they are compared by, and every index that they need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace.contract.errors import InterlaceError, RecipeError
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.sources import Mapper
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import pin
from interlace.store.places import root_of
from interlace.train.build import network_for
from interlace.train.run import Prepared, prepare
from interlace.tune import tpe
from interlace.tune.folder import Goal
from interlace.tune.search import Search
from interlace.tune.suggest import overridden, sample

CACHE_GB = 2.0
"""Bound of the cache of decoded values that trials share where the recipe has none: decoding is then paid once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """A search with its data: all that can be known before trials start.

    Args:
        recipe: that trials start from, with paths made absolute and the cache of decoded values turned on.
        search: the section.
        goal: what trials are compared by.
        base: trial 0, the recipe as it stands.
        readers: of all that trials read while they train; those that read the same are here once.
    """

    recipe: Recipe
    search: Search
    goal: Goal
    base: Prepared
    readers: tuple[Reader, ...]


def prepare_sweep(recipe: Recipe, search: Search, mapper: Mapper) -> SweepPlan:
    """Build every index that trials need, once, and settle what they are compared by.

    Raises:
        InterlaceError: the data is not as a trial needs it, the metric is none, or Optuna is missing.
    """
    if search.searcher == "tpe":
        tpe.require_optuna()
    recipe = _in_place(recipe)
    base = prepare(recipe, mapper)
    goal = _goal(search, base)
    indexes = [(base.recipe, base.index)]
    if search.searcher == "random":
        seen = [_about_data(recipe, {})]
        for number in range(1, search.trials):
            overrides = _about_data(recipe, sample(search, number))
            if overrides not in seen:
                seen.append(overrides)
                indexes.append(_build(recipe, overrides, mapper, number))
    return SweepPlan(recipe=recipe, search=search, goal=goal, base=base, readers=_readers(indexes))


def _build(recipe: Recipe, overrides: Mapping[str, Any], mapper: Mapper, number: int) -> tuple[Recipe, Index]:
    try:
        own = pin(overridden(recipe, overrides))
        return own, build_index(own, mapper)
    except InterlaceError as error:
        raise RecipeError((f"search.space: trial {number} would fail: {error}",)) from error


def _readers(indexes: Sequence[tuple[Recipe, Index]]) -> tuple[Reader, ...]:
    found: dict[tuple[str, str, str], Reader] = {}
    for recipe, index in indexes:
        for split in ("train", "validation"):
            reader = open_reader(index, recipe, split, training=split == "train")
            assert reader.cache is not None  # `_in_place` has turned it on
            found.setdefault((split, reader.cache.reads, reader.manifest.digest), reader)
    return tuple(found.values())


def _in_place(recipe: Recipe) -> Recipe:
    """The recipe for processes with other current folders, and with decoded values shared."""
    root = recipe.data.root
    data = {"root": root if "://" in root else str(Path(root).absolute())}
    shared = {} if recipe.data.cache_gb else {"cache_gb": CACHE_GB}
    return recipe.model_copy(
        update={
            "storage": str(root_of(recipe.storage)),
            "data": recipe.data.model_copy(update={**data, **shared}),
        }
    )


def _about_data(recipe: Recipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those overrides that an index depends on."""

    def counts(path: str) -> bool:
        section, *rest = path.split(".")
        if section == "fields" and len(rest) > 1:
            return rest[1] not in recipe.fields[rest[0]].training_only
        if section == "tasks":
            return rest[1] in recipe.tasks[rest[0]].target_keys
        return section in ("fields", "data") or path == "batch.token_budget"  # which every sample must fit into

    return {path: value for path, value in overrides.items() if counts(path)}


def _goal(search: Search, base: Prepared) -> Goal:
    network = network_for(base.recipe, base.index.fitted)
    name = (search.metric or next(iter(base.recipe.tasks))).partition("/")[0]
    task = network.tasks[name]
    metric = search.metric or f"{name}/{task.main_metric}"
    mode = search.mode
    if mode is None and metric == f"{name}/{task.main_metric}":
        mode = "max" if task.higher_is_better else "min"
    if mode is None and metric.endswith("/loss"):
        mode = "min"
    if mode is None:
        raise RecipeError((f"search.mode: required for `{metric}` (max or min), but not given",))
    return Goal(metric=metric, mode=mode, last=base.recipe.train.model_from == "last")
