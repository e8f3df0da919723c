"""The section `search:` of a recipe file: which settings `interlace tune` varies, and which values trial n has.

    search section + recipe -> all faults at once -> sample(search, n) -> overrides -> recipe of trial n

`sample` is a pure function of (seed, number, path): values stay the same when the driver is killed, when more trials
are asked for, and when another path joins the space. Trial 0 is the recipe as it stands, what others have to beat.
"""

import difflib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field, model_validator

from pipeline.errors import RecipeError
from pipeline.fields import Node
from pipeline.recipe.recipe import PLACE_KEYS, Recipe, flatten, load_recipe, parse_recipe, parse_tree, read_yaml

FIELDS = "fields"
"""The one path that is a section: its choices are lists of names, the fields that a trial reads."""

KINDS = ("uniform", "log_uniform", "integer", "log_integer", "choice")
DIGITS = 4
"""Significant digits of drawn numbers: a person can type them."""

OWN_KEYS = ("name", "train.steps", "train.epochs", "train.eval_every", "train.patience", "train.model_from")
"""Settings that decide what trials are compared by, so they can't be searched."""

Scheduler = Literal["asha", "median", "pbt", "none"]


class Space(Node):
    """What one setting may be: exactly one of the five kinds, and when it counts at all."""

    uniform: tuple[float, float] | None = Field(None, description="[low, high]: any number between them.")
    log_uniform: tuple[float, float] | None = Field(None, description="[low, high]: its logarithm is uniform.")
    integer: tuple[int, int] | None = Field(None, description="[low, high]: a whole number, both ends included.")
    log_integer: tuple[int, int] | None = Field(None, description="[low, high]: whole, its logarithm is uniform.")
    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="One of these values.")
    when: dict[str, Any] = Field(
        {}, description="Other searched path: value (or list of values) that it must have for this one to be set."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Space":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(KINDS)}")
        if self.choice is not None:
            if len({repr(v) for v in self.choice}) < len(self.choice):
                raise ValueError("choice: a value is given twice")
            return self
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"{given[0]}: expected low below high, but the range [{low:g}, {high:g}] is empty")
        if self.logarithmic and low <= 0:
            raise ValueError(f"{given[0]}: expected low above 0, but it is {low:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high of a range."""
        return cast(tuple[float, float], self.uniform or self.log_uniform or self.integer or self.log_integer)

    @property
    def logarithmic(self) -> bool:
        """Whether logarithms are uniform."""
        return self.log_uniform is not None or self.log_integer is not None

    @property
    def whole(self) -> bool:
        """Whether values are whole numbers."""
        return self.integer is not None or self.log_integer is not None

    def at(self, share: float) -> Any:
        """The value at a share of the range, `0 <= share < 1`; floats have 4 significant digits."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        low, high = self.bounds
        if self.whole:
            high += 1
        value = low * (high / low) ** share if self.logarithmic else low + share * (high - low)
        if self.whole:
            return min(math.floor(value), int(self.bounds[1]))  # a rounding error may reach the open end
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)


class Search(Node):
    """The section `search`."""

    space: dict[str, Space] = Field(min_length=1, description="Dotted path of a setting: what it may be.")
    metric: str | None = Field(
        None, pattern=r"^\w+/\w+$", description="`task/metric` on the validation split; the first task's main metric."
    )
    mode: Literal["max", "min"] | None = Field(
        None, description="Which way is better; known for main metrics and loss."
    )
    trials: int = Field(16, ge=1, description="Trials in all; trial 0 is the recipe as it stands.")
    time_s: float | None = Field(None, gt=0, description="Seconds after which trials are stopped, to go on next time.")
    scheduler: Scheduler = Field(
        "asha", description="Asynchronous successive halving, median stopping, population based training, or none."
    )
    reduction: int = Field(3, ge=2, description="`asha`: one trial in so many goes on from a rung to the next.")
    first_rung: float = Field(
        1 / 9,
        gt=0,
        le=0.5,
        description="Share of a trial's length before it may be stopped; `pbt`: between two exchanges.",
    )
    searcher: Literal["random", "tpe"] = Field("random", description="`tpe` needs the extra `optuna`.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the drawn values.")

    @model_validator(mode="after")
    def _effects(self) -> "Search":
        void = {"asha": (), "median": ("reduction",), "pbt": ("reduction",), "none": ("reduction", "first_rung")}
        for name in void[self.scheduler]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect with `scheduler: {self.scheduler}`")
        return self


def load_search(path: Path, overrides: Sequence[str]) -> tuple[Recipe, Search]:
    """Read a recipe file with its section `search`; overrides may set `search.trials` and the like.

    Raises:
        RecipeError: all faults of recipe, search, and of the one against the other.
    """
    own = [o.removeprefix("search.") for o in overrides if o.startswith("search.")]
    faults: list[str] = []
    recipe = search = None
    try:
        recipe = load_recipe(path, [o for o in overrides if not o.startswith("search.")])
    except RecipeError as error:
        faults += error.faults
    tree = read_yaml(path)
    section = tree.get("search") if isinstance(tree, dict) else None
    if section is None:
        raise RecipeError((*faults, "search: required by `interlace tune`, but not given"), str(path))
    try:
        search = parse_tree(section, own, str(path), Search)
    except RecipeError as error:
        faults += [f"search.{fault}" for fault in error.faults]
    if recipe is not None and search is not None:
        faults += check(search, recipe)
    if faults or recipe is None or search is None:
        raise RecipeError(tuple(faults), str(path))
    return recipe, search


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file: the recipe's, with the section `search`."""
    whole, part = Recipe.model_json_schema(), Search.model_json_schema()
    whole["$defs"] |= part.pop("$defs")
    whole["properties"]["search"] = part
    return whole


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
            counts(other) and values[other] in _listed(wanted) for other, wanted in search.space[path].when.items()
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


def check(search: Search, recipe: Recipe) -> tuple[str, ...]:
    """Every fault of a search against its recipe, before anything starts; see `load_search`."""
    faults = list(_general(search, recipe))
    sound = []
    for path, space in search.space.items():
        found = list(_path_faults(path, space, search, recipe))
        faults += [f"search.space.{path}: {fault}" for fault in found]
        sound += [] if found else [path]
    if len(sound) < len(search.space):
        return tuple(faults)
    bad: dict[str, int] = {}
    for number in range(1, search.trials if search.searcher == "random" else 1):
        for fault in _faults(recipe, sample(search, number)):
            bad.setdefault(fault, number)
    return (*faults, *(f"search.space: trial {number} would be invalid: {fault}" for fault, number in bad.items()))


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
        if search.searcher == "tpe":
            yield "search.searcher: `tpe` has no effect with `scheduler: pbt`, which chooses values itself"
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


def _path_faults(path: str, space: Space, search: Search, recipe: Recipe) -> Iterator[str]:
    """Faults of one path by itself."""
    known = [*flatten(recipe), FIELDS]
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
        yield "unknown path" + (f"; did you mean `{near[0]}`?" if near else "")
        return
    if path.startswith(PLACE_KEYS) or path in OWN_KEYS:
        yield "can't be searched: it does not decide what a trial computes, or decides what trials are compared by"
        return
    yield from _condition_faults(path, space, search)
    if path == FIELDS:
        yield from _fields_faults(space, recipe)
        return
    points = list(space.choice) if space.choice is not None else [space.at(share) for share in (0.0, 0.37, 0.999999)]
    for value in points:
        found = [fault for fault in _faults(recipe, {path: value}) if _about(fault, path)]
        if found:
            yield f"value {value!r} is invalid: {found[0]}"
            return


def _about(fault: str, path: str) -> bool:
    """Whether a fault is about the setting itself and not about how it goes with others."""
    where = fault.partition(":")[0]
    return where.split(".")[-1] == path.split(".")[-1] and where.split(".")[0] == path.split(".")[0]


def _condition_faults(path: str, space: Space, search: Search) -> Iterator[str]:
    for other, wanted in space.when.items():
        if other not in search.space:
            near = difflib.get_close_matches(other, search.space, n=1, cutoff=0.5)
            yield f"when: `{other}` is not searched" + (f"; did you mean `{near[0]}`?" if near else "")
        elif path in _ancestors(other, search):
            yield f"when: `{path}` and `{other}` depend on each other"
        elif (choices := search.space[other].choice) is not None:
            for value in _listed(wanted):
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


def _fields_faults(space: Space, recipe: Recipe) -> Iterator[str]:
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


def _faults(recipe: Recipe, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        overridden(recipe, overrides)
    except RecipeError as error:
        return error.faults
    return ()


def _listed(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def _share(seed: int, number: int, path: str) -> float:
    """A number in [0, 1) that depends on its three arguments alone."""
    place = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
    return float(np.random.default_rng((seed, number, place)).random())
