"""Which of two values of a metric is the better one: the one place that decides, and that knows NaN."""

import math


def is_better(value: float, than: float | None, *, higher: bool) -> bool:
    """Whether a value beats another; NaN beats nothing, and any number beats NaN or nothing.

    Args:
        value: of a metric.
        than: the best so far; None or NaN where there is none.
        higher: whether more is better.
    """
    if math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value > than if higher else value < than
