"""The arithmetic of resources: what would wait for ever is adjusted or refused, with the sum in the text."""

import pytest

from cluster.preflight import DoesNotFitError, Need, allot, slots


def test_two_workers_on_two_cpus_reserve_half_a_cpu_each() -> None:
    got = allot(Need(workers=2, cpus_per_worker=1, gpus_per_worker=0), cpus=2, gpus=0)
    assert got.adjusted
    assert got.cpus_per_worker == 0.5
    assert "2 x `train.cpus_per_worker` 1 = 2 CPUs" in got.text
    assert "2 + 1 > 2" in got.text


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("cpus", [2.0, 4.0, 5.0, 64.0])
def test_data_always_keeps_its_cpu(workers: int, cpus: float) -> None:
    need = Need(workers=workers, cpus_per_worker=4, gpus_per_worker=0)
    if (cpus - 1) / workers < 0.25:
        with pytest.raises(DoesNotFitError):
            allot(need, cpus, gpus=0)
        return
    got = allot(need, cpus, gpus=0)
    assert got.cpus_per_worker * workers + 1 <= cpus
    assert got.cpus_per_worker <= 4
    assert got.adjusted == (4 * workers + 1 > cpus)


def test_what_can_not_fit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(DoesNotFitError, match=r"at most 4 workers of 0.25 CPU fit"):
        allot(Need(workers=5, cpus_per_worker=1, gpus_per_worker=0), cpus=2, gpus=0)
    with pytest.raises(DoesNotFitError, match=r"2 x `train.gpus_per_worker` 1 = 2 GPUs, but the cluster has 1"):
        allot(Need(workers=2, cpus_per_worker=1, gpus_per_worker=1), cpus=16, gpus=1)


@pytest.mark.parametrize(
    ("need", "cpus", "gpus", "trials", "concurrent"),
    [
        (Need(workers=1, cpus_per_worker=1, gpus_per_worker=0), 2, 0, 16, 2),
        (Need(workers=1, cpus_per_worker=1, gpus_per_worker=0), 8, 0, 3, 3),
        (Need(workers=1, cpus_per_worker=0.1, gpus_per_worker=0), 1, 0, 16, 10),
        (Need(workers=2, cpus_per_worker=1, gpus_per_worker=0), 8, 0, 16, 2),
        (Need(workers=1, cpus_per_worker=1, gpus_per_worker=0.25), 16, 1, 16, 4),
    ],
)
def test_as_many_trials_run_as_fit(need: Need, cpus: float, gpus: float, trials: int, concurrent: int) -> None:
    found = slots(need, cpus, gpus, trials)
    assert found.concurrent == concurrent
    data = need.data_cpus if need.workers > 1 else 0
    assert concurrent * (need.workers * need.cpus_per_worker + data) <= cpus + 1e-9
    assert f"{concurrent} of {trials} trials" in found.text


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (
            Need(workers=1, cpus_per_worker=3, gpus_per_worker=0),
            "= 3 CPUs a trial, but the cluster has 2: no trial fits",
        ),
        (Need(workers=2, cpus_per_worker=1, gpus_per_worker=0), r"1 \+ 1 for data tasks = 3 CPUs a trial, but"),
        (
            Need(workers=1, cpus_per_worker=1, gpus_per_worker=0.5),
            "0.5 = 0.5 GPUs, but the cluster has 2 CPUs and 0 GPUs",
        ),
    ],
)
def test_trials_that_can_not_fit_are_refused_with_the_arithmetic(need: Need, reason: str) -> None:
    with pytest.raises(DoesNotFitError, match=reason):
        slots(need, 2, 0, 4)
