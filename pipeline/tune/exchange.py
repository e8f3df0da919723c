"""Population based training (Jaderberg et al. 2017): bad trials go on as changed copies of good ones.

All trials train to the same step, the stop. There the worst quarter takes over weights, optimizer and settings of the
best quarter, the settings changed a little; then all go on to the next stop. Unlike the paper's population ours waits
at each stop: who copies whom is a pure function of seed, stop and what was reached, and a population may be larger than
the cluster.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from interlace.recipe.recipe import Recipe
from interlace.tune.folder import Goal
from interlace.tune.search import Search, Space
from interlace.tune.suggest import active, values_of

QUARTER = 0.25
"""Share of the population that is replaced at a stop, by as large a share of the best."""
REDRAW = 0.25
"""Probability that a copied setting is drawn anew instead of changed a little."""
FACTORS = (0.8, 1.2)
"""By which a copied number is changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A trial that goes on with the weights of another one, and its settings from there on."""

    number: int
    source: int
    overrides: Mapping[str, Any]


def stops(num_steps: int, eval_every: int, share: float) -> tuple[int, ...]:
    """Steps at which trials meet: the first evaluation at each multiple of a share of the length, before its end."""
    multiples = (math.ceil(round(n * share * num_steps, 6)) for n in range(1, math.ceil(1 / share) + 1))
    evaluated = sorted({math.ceil(step / eval_every) * eval_every for step in multiples})
    return tuple(step for step in evaluated if step < num_steps)


def copies(
    search: Search, recipe: Recipe, goal: Goal, reached: Mapping[int, tuple[float, Mapping[str, Any]]], exchange: int
) -> list[Copy]:
    """Who goes on as a changed copy of whom.

    Args:
        search: the section.
        recipe: that trials start from.
        goal: which values are better.
        reached: of each trial that stands at the stop, its value there and its overrides.
        exchange: number of the stop, from 1.
    """
    sign = -1 if goal.mode == "max" else 1
    ranked = sorted(reached, key=lambda n: (_badness(sign * reached[n][0]), n))
    moved = min(math.ceil(len(ranked) * QUARTER), len(ranked) // 2)
    found = []
    for number in ranked[len(ranked) - moved :]:
        rng = np.random.default_rng((search.seed, exchange, number))
        source = ranked[int(rng.integers(moved))]
        copied = values_of(search, recipe, reached[source][1])
        found.append(Copy(number=number, source=source, overrides=changed(search, copied, rng)))
    return found


def changed(search: Search, values: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Settings with each one changed a little or drawn anew; those that count only now are drawn."""
    drawn = {}
    for path, space in search.space.items():
        value, redrawn, up = values.get(path), rng.random() < REDRAW, int(rng.integers(2))
        if value is None or redrawn:
            drawn[path] = space.at(float(rng.random()))
        else:
            drawn[path] = _neighbour(space, value, up) if space.choice is not None else _scaled(space, value, up)
    return active(search, drawn)


def _neighbour(space: Space, value: Any, up: int) -> Any:
    choices = cast(tuple[Any, ...], space.choice)
    if value not in choices:  # the recipe's own may lie outside
        return choices[0]
    return choices[min(max(choices.index(value) + (1 if up else -1), 0), len(choices) - 1)]


def _scaled(space: Space, value: float, up: int) -> float:
    low, high = space.bounds
    scaled = min(max(value * FACTORS[up], low), high)
    return round(scaled) if space.whole else min(max(float(f"{scaled:.4g}"), low), high)


def _badness(value: float) -> float:
    return value if math.isfinite(value) else math.inf
