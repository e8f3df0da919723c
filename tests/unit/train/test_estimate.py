"""The arithmetic of a run's estimate, against a run of two stages that is simulated pack by pack."""

import pytest

from interlace.store.journal import Point
from interlace.train.estimate import CALM_S, LEAST_STEPS, WARM_UP_STEPS, Estimate, Measured, calm


def given(alone: float, busy: float, read: float, cpus: float = 1.0, steps: int = 400) -> Estimate:
    measured = Measured(
        workers=1, steps=50, samples=32.0, start_s=7.0, busy_s=busy, alone_s=alone, wait_s=0.0, read_s=read,
        pack_bytes=1e5, checkpoint_bytes=1e7,
    )  # fmt: skip
    return Estimate(
        measured=measured, num_steps=steps, data_cpus=cpus, evaluations=4, evaluation_packs=6, packs_a_step=2
    )


def simulated(estimate: Estimate) -> float:
    """Seconds of all steps, each of which begins when the step before has ended and its packs are read."""
    one, ended = estimate.measured, 0.0
    for step in range(estimate.num_steps):
        ended = max(ended, (step + 1) * estimate.read_wall_s) + one.busy_s
    return ended


@pytest.mark.parametrize(
    ("alone", "busy", "read", "cpus"),
    [(0.1, 0.1, 0.02, 1), (0.1, 0.15, 0.05, 1), (0.1, 0.14, 0.1, 1), (0.1, 0.12, 0.4, 1), (0.1, 0.12, 0.4, 8)],
)
def test_the_estimate_is_what_two_stages_take(alone: float, busy: float, read: float, cpus: float) -> None:
    found = given(alone, busy, read, cpus)
    assert found.num_steps * found.step_s == pytest.approx(simulated(found), rel=0.01)
    assert found.training_s == pytest.approx(7.0 + found.num_steps * found.step_s)
    assert found.samples_per_s * found.training_s == pytest.approx(32 * found.num_steps)
    assert found.total_s == found.training_s + found.evaluation_s
    assert found.data_binds == (read / cpus > alone * 1.2)


def test_enough_cpus_keep_the_workers_busy_and_one_fewer_do_not() -> None:
    for read in (0.01, 0.1, 0.25, 0.4, 0.401):
        needed = given(0.1, 0.1, read).needed_cpus
        assert read / needed <= 0.1 + 1e-9
        assert needed == 1 or read / (needed - 1) > 0.1
    assert given(0.1, 0.1, 0.05).evaluation_s == pytest.approx(4 * 6 / 2 * 0.1 / 3)


@pytest.mark.parametrize(("count", "step_s", "first"), [(200, 0.1, 81), (60, 0.1, 40), (12, 0.1, 5), (5, 3.0, 2)])
def test_the_steps_that_count_come_when_processes_have_started(count: int, step_s: float, first: int) -> None:
    points = [Point(time_ms=0, step=i + 1, metrics={"step_s": 7.0 if i == 0 else step_s}) for i in range(count)]
    found = calm(points)
    assert list(found) == points[first:]
    assert len(found) >= min(LEAST_STEPS, count - WARM_UP_STEPS)
    assert count < LEAST_STEPS + WARM_UP_STEPS or sum(p.metrics["step_s"] for p in points[1:first]) <= CALM_S + 1e-9
