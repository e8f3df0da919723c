"""Fitting in one process: all values as one row group, or cut into several."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from interlace import modalities
from interlace.data.index.targets import target_learner
from interlace.modalities.base import Fitted, Learner, Values
from interlace.recipe.fields import AnyField
from interlace.recipe.tasks import AnyTask


def learn(learner: Learner, groups: Iterable[Values]) -> Fitted:
    """The state after so many row groups, each partial sent as JSON."""
    for values in groups:
        learner.merge(json.loads(json.dumps(learner.partial(values))))
    return learner.finish()


def fit(field: AnyField, values: Values) -> Fitted:
    """The state of a field whose values are one row group."""
    return learn(modalities.learner(field), [values])


def fit_target(task: AnyTask, values: Values) -> Fitted:
    """The state of a target whose values are one row group."""
    return learn(target_learner(task), [values])


def cut(values: Sequence[Any], places: Iterable[int]) -> list[Sequence[Any]]:
    """A sequence as parts that begin at these places."""
    bounds = [0, *sorted(min(p, len(values)) for p in places), len(values)]
    return [values[a:b] for a, b in itertools.pairwise(bounds)]
