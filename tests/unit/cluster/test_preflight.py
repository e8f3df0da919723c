"""The arithmetic of resources: what would wait for ever is adjusted or refused, with the sum in the text."""

import pytest

from cluster.preflight import DoesNotFitError, Need, allot


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
