"""The section `search:` of a recipe file: which settings `interlace tune` varies, and which values trial n has.

    search section + recipe -> all errors at once -> sample(search, n) -> overrides -> recipe of trial n

`sample` is a pure function of (seed, number, path): values stay the same when the driver is killed, when more trials
are asked for, and when another path joins the space. Trial 0 is the recipe as it stands, what others have to beat.
"""

import math
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, model_validator

from interlace.recipe.base import Node
from interlace.recipe.plugins import extended

KINDS = ("uniform", "log_uniform", "integer", "log_integer", "choice")
DIGITS = 4
"""Significant digits of drawn numbers: a person can type them."""


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


if not TYPE_CHECKING:
    Search = extended("searchers", Search)
