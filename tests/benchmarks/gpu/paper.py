"""How long the kit should take on an H200, on paper: by the roofline of `tests.benchmarks.roofline` and assumptions."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.gpu.kit import BUDGETS_S, CORRECTNESS, LEAST_MEASURED_S, STEPS, WARM
from tests.benchmarks.gpu.mix import SIZES, Lengths, Mix
from tests.benchmarks.gpu.padded import grown, of_like_length
from tests.benchmarks.gpu.speed import AT_ONCE, Line

DEVICE = "H200"
START_S, BUILD_S, COMPILE_S, PADDED_COMPILE_S = 15.0, 20e-9, 30.0, 40.0
"""Assumed, not measured on a GPU: seconds until torch has its device, to draw a parameter, to compile Interlace's
layers, to compile padded ones."""
EXTRA = 6
"""Steps of Interlace's loop for host reads and kernels."""
CORRECT_S = 100.0
"""Assumed: about 600 steps of 70 ms on each of GPU and CPU, which is what they take on a CPU, and the start."""


def shares(of: Mix) -> Mapping[str, float]:
    """Tokens that the layers of both padded loops compute, over those that are real."""
    budget = of.made.recipe.batch.token_budget
    longest = max(int(totals(pack).max()) for pack in of.lengths)
    at_once = max(AT_ONCE * budget // longest, 1)
    turns: list[Lengths] = []
    for pack in of.lengths:
        samples = len(totals(pack))
        turns += [{f: own[i : i + at_once] for f, own in pack.items()} for i in range(0, samples, at_once)]
    whole = {field: np.concatenate([pack[field] for pack in of.lengths]) for field in of.made.specs}
    batches = [np.array(rows) for rows in of_like_length(totals(whole), budget)]
    buckets = [{field: own[rows] for field, own in whole.items()} for rows in batches]
    return {"padded": padded_share(turns, of.layers), "bucketed": padded_share(buckets, of.layers)}


def totals(lengths: Lengths) -> NDArray[np.int64]:
    """Tokens of each sample."""
    total: NDArray[np.int64] = np.sum([own.astype(np.int64) for own in lengths.values()], axis=0)
    return total


def padded_share(batches: Sequence[Lengths], layers: tuple[int, int]) -> float:
    """Tokens that layers compute of batches, those within fields and those over all, over the real ones."""
    computed = sum(
        layers[0] * sum(np.count_nonzero(own) * grown(int(own.max())) for own in batch.values() if own.any())
        + layers[1] * len(totals(batch)) * grown(int(totals(batch).max()))
        for batch in batches
    )
    return computed / (sum(layers) * sum(int(totals(batch).sum()) for batch in batches))


def _measured(step_s: float) -> float:
    """Seconds of a loop's steps."""
    return WARM * step_s + max(STEPS * step_s, LEAST_MEASURED_S)


def arithmetic(mixes: Sequence[Mix]) -> list[Line]:
    """Seconds of each part, by what binds a step on paper; a padded step as much longer as it has more tokens."""
    lines: list[Line] = [{"part": CORRECTNESS, "seconds": CORRECT_S, "may take": BUDGETS_S[CORRECTNESS]}]
    for of in mixes:
        expected = of.expected[DEVICE]
        step_s, padding = expected["expected_ms"] / 1e3, shares(of)
        parameters = {"20M": 20.1e6, "150M": 146.4e6, "1B": 1019.7e6}[of.name]
        loops = {
            "interlace": 2 * _measured(step_s) + EXTRA * step_s,  # compiled and not
            **{n: _measured(step_s * x) for n, x in padding.items()},
        }
        fixed = START_S + BUILD_S * parameters + COMPILE_S + PADDED_COMPILE_S
        lines.append(
            {
                "part": of.name,
                "ms a step": 1e3 * step_s,
                "computed over real, padded": padding["padded"],
                "bucketed": padding["bucketed"],
                "start and compile": fixed,
                **{f"{name} s": seconds for name, seconds in loops.items()},
                "seconds": fixed + sum(loops.values()),
                "may take": BUDGETS_S[of.name],
            }
        )
    assert {line["part"] for line in lines[1:]} <= set(SIZES)
    return [
        *lines,
        {"part": "all", "seconds": sum(line["seconds"] for line in lines), "may take": sum(BUDGETS_S.values())},
    ]
