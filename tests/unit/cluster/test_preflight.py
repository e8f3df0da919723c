"""The arithmetic of resources: what would wait for ever is adjusted or refused, with the sum in the text."""

import itertools
import random

import pytest

from interlace.cluster.preflight import Allotment, DoesNotFitError, Need, Place, allot, slots


def on_one(cpus: float, gpus: float = 0) -> list[Place]:
    """A cluster of one node."""
    return [Place(cpus=cpus, gpus=gpus)]


def need(workers: int, cpus: float, gpus: float = 0) -> Need:
    """Of so many workers with so many CPUs and GPUs each."""
    return Need(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)


def test_two_workers_on_two_cpus_reserve_half_a_cpu_each() -> None:
    got = allot(need(2, 1), on_one(2))
    assert got.adjusted
    assert got.cpus_per_worker == 0.5
    assert "2 x `train.cpus_per_worker` 1 = 2 CPUs" in got.text
    assert "2 + 1 > 2" in got.text


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("cpus", [2.0, 4.0, 5.0, 64.0])
def test_data_always_keeps_its_cpu(workers: int, cpus: float) -> None:
    wanted = need(workers, 4)
    if (cpus - 1) / workers < 0.25:
        with pytest.raises(DoesNotFitError):
            allot(wanted, on_one(cpus))
        return
    got = allot(wanted, on_one(cpus))
    assert got.cpus_per_worker * workers + 1 <= cpus
    assert got.cpus_per_worker <= 4
    assert got.adjusted == (4 * workers + 1 > cpus)
    assert got.data_cpus == pytest.approx(cpus - got.cpus_per_worker * workers)


def test_what_can_not_fit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(DoesNotFitError, match=r"at most 4 workers of 0.25 CPU fit"):
        allot(need(5, 1), on_one(2))
    with pytest.raises(DoesNotFitError, match=r"2 x `train.gpus_per_worker` 1 = 2 GPUs, but the cluster has 1"):
        allot(need(2, 1, 1), on_one(16, 1))


def every_placement(workers: int, cpus: float, gpus: float, places: list[Place]) -> list[list[Place]]:
    """All ways to put workers on nodes, as what the nodes have left."""
    most = [range(p.holds(cpus, gpus) + 1) for p in places]
    return [
        [
            Place(cpus=p.cpus - n * cpus, gpus=p.gpus - n * gpus, trains=p.trains, reads=p.reads)
            for p, n in zip(places, numbers, strict=True)
        ]
        for numbers in itertools.product(*most)
        if sum(numbers) == workers
    ]


def random_places(rng: random.Random) -> list[Place]:
    """One to three nodes, some of them for training or for reading alone."""
    roles = [(True, True), (True, True), (True, False), (False, True)]
    return [
        Place(cpus=rng.choice([0, 0.5, 1, 1.5, 2, 3, 4]), gpus=rng.choice([0, 1, 2]), trains=trains, reads=reads)
        for trains, reads in rng.choices(roles, k=rng.randint(1, 3))
    ]


def test_what_is_allotted_fits_into_nodes_and_leaves_data_a_cpu_wherever_workers_are_put() -> None:
    """All placements are tried, over many small clusters; and what is refused has a placement that waits for ever."""
    rng, seen = random.Random(0), {"as wanted": 0, "less": 0, "refused": 0}
    for _ in range(2000):
        wanted = need(rng.randint(1, 4), rng.choice([0.5, 0.75, 1, 2, 3]), rng.choice([0, 0, 1]))
        places = random_places(rng)

        def works(share: float, wanted: Need = wanted, places: list[Place] = places) -> bool:
            ends = every_placement(wanted.workers, share, wanted.gpus_per_worker, places)
            return bool(ends) and all(any(p.reads and p.cpus >= 1 for p in left) for left in ends)

        got: Allotment | None
        try:
            got = allot(wanted, places)
        except DoesNotFitError:
            got = None
        if got is None:
            seen["refused"] += 1
            assert not works(wanted.cpus_per_worker)
        else:
            seen["less" if got.adjusted else "as wanted"] += 1
            assert works(got.cpus_per_worker), (wanted, places, got)
            assert got.adjusted == (not works(wanted.cpus_per_worker))
    assert min(seen.values()) > 100, seen


@pytest.mark.parametrize(
    ("wanted", "places", "reason"),
    [
        (need(2, 2, 1), [Place(cpus=8, gpus=2), Place(cpus=1, gpus=1)], None),
        (need(2, 2, 1), [Place(cpus=8, gpus=1), Place(cpus=1, gpus=1)], None),  # 1 CPU each
        (
            need(2, 1, 2),
            [Place(cpus=8, gpus=3), Place(cpus=8, gpus=1)],
            r"= 2 CPUs, and data tasks need 1, but 2 nodes \(1 of 8 CPUs and 1 GPUs, 1 of 8 CPUs and 3 GPUs\) have room"
            " for 1 such workers; at most 1 workers",
        ),
        (
            need(2, 3),
            [Place(cpus=4, reads=False), Place(cpus=2, reads=False), Place(cpus=4, trains=False)],
            r"= 6 CPUs, but 2 nodes \(1 of 2 CPUs, 1 of 4 CPUs\) have room for 1 such workers: lower either or add",
        ),
        (
            need(2, 4),
            [Place(cpus=4, reads=False), Place(cpus=4, trains=False)],
            "= 8 CPUs, but the nodes with `train.labels` have 4: lower either or add",
        ),
    ],
)
def test_a_worker_must_fit_into_one_node(wanted: Need, places: list[Place], reason: str | None) -> None:
    if reason is None:
        assert allot(wanted, places).cpus_per_worker <= 2
    else:
        with pytest.raises(DoesNotFitError, match=reason):
            allot(wanted, places)


@pytest.mark.parametrize(
    ("wanted", "places", "trials", "concurrent"),
    [
        (need(1, 1), on_one(2), 16, 2),
        (need(1, 1), on_one(8), 3, 3),
        (need(1, 0.1), on_one(1), 16, 10),
        (need(2, 1), on_one(8), 16, 2),
        (need(2, 1), on_one(3), 16, 1),
        (need(1, 1, 0.25), on_one(16, 1), 16, 4),
        (need(1, 2), [Place(cpus=3), Place(cpus=3), Place(cpus=1)], 16, 2),
        (need(1, 1), [Place(cpus=2, reads=False), Place(cpus=4, trains=False)], 16, 2),
        (need(2, 1), [Place(cpus=4, reads=False), Place(cpus=2, trains=False)], 16, 2),
    ],
)
def test_as_many_trials_run_as_fit(wanted: Need, places: list[Place], trials: int, concurrent: int) -> None:
    found = slots(wanted, places, trials)
    assert found.concurrent == concurrent
    data = wanted.data_cpus if wanted.workers > 1 else 0
    taken = concurrent * (wanted.workers * wanted.cpus_per_worker + data)
    assert taken <= sum(p.cpus for p in places) + 1e-9
    assert f"{concurrent} of {trials} trials" in found.text


@pytest.mark.parametrize(
    ("wanted", "places", "reason"),
    [
        (need(1, 3), on_one(2), "= 3 CPUs a trial, but the cluster has 2: no trial fits"),
        (need(2, 1), on_one(2), r"1 \+ 1 for data tasks = 3 CPUs a trial, but"),
        (need(1, 1, 0.5), on_one(2), "0.5 = 0.5 GPUs, but the cluster has 2 CPUs and 0 GPUs"),
        (
            need(1, 3),
            [Place(cpus=2), Place(cpus=2), Place(cpus=4, trains=False)],
            r"= 3 CPUs a trial, but the cluster has 4 on 2 nodes \(2 of 2 CPUs\): no trial fits",
        ),
    ],
)
def test_trials_that_can_not_fit_are_refused_with_the_arithmetic(
    wanted: Need, places: list[Place], reason: str
) -> None:
    with pytest.raises(DoesNotFitError, match=reason):
        slots(wanted, places, 4)
