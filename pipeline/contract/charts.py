"""What a task shows of its metrics beside numbers: plain data that `results.figures` draws or writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts `[C, C]` of true classes (rows) against predicted ones, and the C names of the classes."""

    counts: NDArray[Any]
    labels: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """How often true values met predicted ones.

    Args:
        counts: `[B, B]`, rows are bins of the true value, columns of the predicted one, the lowest first.
        low, high: both axes go from one to the other in even bins; the outer bins hold what lies beyond.
        unit: what is measured.
    """

    counts: NDArray[Any]
    low: float
    high: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Lines over a shared logarithmic axis: `xs` `[n]`, and by name values `[n]` of each line."""

    xs: NDArray[np.float64]
    lines: Mapping[str, NDArray[np.float64]]
    x_label: str
    y_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows for people and programs, written as CSV."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


Chart: TypeAlias = Confusion | Density | Curves | Table
