"""What is true of every target, as checks for the tests of any package that brings a task with one."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from interlace.contract.errors import RecordError
from interlace.data.index.targets import Target, make_target, target_learner
from interlace.modalities.laws import check_learning, learn
from interlace.recipe.tasks import AnyTask


def check_target(task: AnyTask, values: Sequence[tuple[Any, ...]], refused: Sequence[tuple[Any, ...]] = ()) -> Target:
    """What a target learns keeps the laws of learning; its numbers are flat, of one type, decided by the value alone.

    Args:
        task: settings of a task with columns; it may be one of an installed plug-in.
        values: raw values of the training rows (tuples, as columns of the task), at least two.
        refused: values (tuples) that must be refused with a reason, and that learning passes over.

    Returns:
        The target that these values give.

    Raises:
        AssertionError: with what was expected.
    """
    check_learning(lambda: target_learner(task), values, passed_over=refused)
    state = learn(lambda: target_learner(task), [values])
    made, remade = (make_target(task, s) for s in (state, json.loads(json.dumps(state))))
    for value in values:
        found = made.encode(value)
        assert isinstance(found, np.ndarray) and found.ndim == 1, f"{value!r}: expected a flat array, but is {found!r}"  # noqa: PT018
        assert found.dtype == made.dtype, f"{value!r}: expected {made.dtype}, but is {found.dtype}"
        for again in (made.encode(value), remade.encode(value)):
            assert again.tobytes() == found.tobytes(), f"{value!r}: encoded twice, it differs"
    for value in refused:
        reason = None
        try:
            made.encode(value)
        except RecordError as error:
            reason = str(error)
        assert reason is not None, f"expected {value!r} to be refused with a RecordError, but it was taken"
        assert reason, f"expected a reason why {value!r} is refused"
    return made
