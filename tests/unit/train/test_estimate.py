"""The arithmetic of a run's estimate, against a run of two stages that is simulated pack by pack."""

import pytest

from pipeline.journal import Point
from pipeline.train.estimate import WARM_UP_STEPS, Estimate, Measured, split


def given(alone: float, busy: float, read: float, cpus: float = 1.0, steps: int = 400) -> Estimate:
    measured = Measured(
        workers=1, steps=50, samples=32.0, start_s=7.0, busy_s=busy, alone_s=alone, wait_s=0.0, read_s=read,
        pack_bytes=1e5, checkpoint_bytes=1e7,
    )  # fmt: skip
    return Estimate(
        measured=measured, num_steps=steps, data_cpus=cpus, evaluations=4, evaluation_packs=6, packs_a_step=2
    )


def simulated(estimate: Estimate) -> float:
    """Seconds of all steps, where reading goes ahead without bound and slows the steps beside it."""
    one, now, ready, done, read_until = estimate.measured, 0.0, 0.0, 0.0, 0.0
    end = estimate.num_steps * estimate.read_wall_s
    for step in range(estimate.num_steps):
        ready = (step + 1) * estimate.read_wall_s
        now = max(now, ready)
        left = 1.0
        while left > 1e-12:
            pace = one.busy_s if now < end - 1e-12 else one.alone_s
            part = min(left, (end - now) / pace) if now < end - 1e-12 else left
            now += part * pace
            left -= part
        done, read_until = now, end
    assert read_until <= done + 1e-9
    return done


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


@pytest.mark.parametrize("began", [0.0, 3.0, 7.0])
def test_steps_are_split_at_the_end_of_reading_whenever_it_began_in_the_first(began: float) -> None:
    """Reading takes 0.06 s a step without a pause; beside it a step takes 0.13 s, else 0.10 s; the first 7 s more."""
    count, read_s = 300, 0.06
    end = began + count * read_s
    points, now = [], 0.0
    for step in range(count):
        took = 7.0 if step == 0 else 0.13 if now < end else 0.10
        points.append(Point(time_ms=int(1e3 * now), step=step + 1, metrics={"step_s": took}))
        now += took
    beside, after = split(points, count * read_s)
    assert {p.metrics["step_s"] for p in beside} == {0.13}
    assert {p.metrics["step_s"] for p in after} == {0.10}
    assert len(beside) > 50
    assert len(after) > 50
    assert beside[0].step == 2 + WARM_UP_STEPS
    beside, after = split(points[:100], 100.0)
    assert (len(beside), after) == (99 - WARM_UP_STEPS, [])
    beside, after = split(points[:20], 0.5)  # all read while the first step waited
    assert beside == points[WARM_UP_STEPS:20]
