"""The arithmetic of a job's resources, before anything starts: what can't fit would wait for ever in silence.

A worker fits into one node or nowhere, so it is counted node by node: what nodes have in sum may be of no use to it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from interlace.cluster.errors import ClusterError

SMALLEST_SHARE = 0.25
"""Fewest CPUs a training worker is squeezed to before the job is refused."""
DATA_CPUS = 1.0
"""CPUs of a data task."""
EPSILON = 1e-9
"""Shares of CPUs are decimal fractions: three of 0.1 are 0.3."""


class DoesNotFitError(ClusterError):
    """The cluster can't hold the job; the text says the arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node as a job sees it: CPUs, GPUs, whether the job's workers may train there and its data tasks read there."""

    cpus: float
    gpus: float = 0.0
    trains: bool = True
    reads: bool = True

    def holds(self, cpus: float, gpus: float) -> int:
        """How many workers of so many CPUs and GPUs it has room for."""
        if not self.trains:
            return 0
        by_cpu = math.floor(self.cpus / cpus + EPSILON)
        return min(by_cpu, math.floor(self.gpus / gpus + EPSILON)) if gpus else by_cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a training job reserves: workers, CPUs and GPUs of each, and CPUs left to data tasks.

    Args:
        workers: fewest of them.
        cpus_per_worker, gpus_per_worker: of each.
        data_cpus: left free for data tasks.
        most_workers: of an elastic group, where it may grow.
    """

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    data_cpus: float = DATA_CPUS
    most_workers: int | None = None

    @property
    def cpus(self) -> float:
        """CPUs of all workers."""
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """GPUs of all workers."""
        return self.workers * self.gpus_per_worker

    @property
    def grows(self) -> bool:
        """Whether there may be more workers than the fewest."""
        return self.most_workers is not None and self.most_workers > self.workers

    @property
    def product(self) -> str:
        """The settings that make the CPUs of all workers."""
        return f"`train.workers` {self.workers} x `train.cpus_per_worker` {self.cpus_per_worker:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """CPUs to reserve for each worker, CPUs left to data tasks, and the sentence that explains both."""

    cpus_per_worker: float
    adjusted: bool
    text: str
    data_cpus: float


def fits(need: Need, places: Sequence[Place]) -> bool:
    """Whether its workers have a place each, and data tasks one too wherever the workers are put.

    This is also the rule by which an elastic group grows (`interlace.train.elastic`).
    """
    return _room(need, places) >= need.workers and _blocking(need, places) > need.workers


def allot(need: Need, places: Sequence[Place]) -> Allotment:
    """Fit a job into a cluster.

    Worker CPUs must leave `data_cpus` free on a node that reads, wherever Ray puts the workers: Ray Data would
    otherwise never run its first task, and every worker would wait for it. Where they do not, and where no node holds
    as many CPUs as a worker wants, each worker reserves less (reservations are bookkeeping; threads are set apart).

    Args:
        need: of the job.
        places: the nodes of the cluster.

    Raises:
        DoesNotFitError: GPUs are missing, or a worker would get less than a quarter of a CPU, or nodes that were
            chosen for training alone are too small or too few.
    """
    train = [p for p in places if p.trains]
    gpus = sum(p.gpus for p in train)
    if need.gpus > gpus:
        raise DoesNotFitError(
            f"`train.workers` {need.workers} x `train.gpus_per_worker` {need.gpus_per_worker:g} ="
            f" {need.gpus:g} GPUs, but the cluster has {gpus:g}"
        )
    alone = sum(p.cpus for p in places if p.reads and not p.trains and p.cpus >= need.data_cpus)
    if fits(need, places):
        text = _division(need, sum(p.cpus for p in train), alone)
        left = left_to_data(need.cpus, places)
        return Allotment(cpus_per_worker=need.cpus_per_worker, adjusted=False, text=text, data_cpus=left)
    conflict = _conflict(need, train, alone=bool(alone))
    if alone:
        raise DoesNotFitError(f"{conflict}: lower either or add nodes")
    if need.grows:
        raise DoesNotFitError(
            f"{conflict}: the fewest workers of an elastic group must fit. Lower `train.workers.min` or"
            " `train.cpus_per_worker`, or add nodes"
        )
    return _squeezed(need, places, conflict)


def _division(need: Need, cpus: float, alone: float) -> str:
    """How the CPUs of the nodes that train are divided; `alone` are those of nodes that only read."""
    text = f"{need.product} = {need.cpus:g} CPUs"
    if alone:
        return f"{text} of {cpus:g} on the nodes that train; {alone:g} on other nodes for data tasks"
    text += f" for training, {cpus - need.cpus:g} of {cpus:g} left to data tasks"
    if need.grows:
        text += f"; up to {need.most_workers} workers where the nodes have room beside the data tasks"
    return text


def _conflict(need: Need, train: Sequence[Place], *, alone: bool) -> str:
    """Why it does not fit: the sum, or else the nodes; `alone` where other nodes read."""
    text, cpus = f"{need.product} = {need.cpus:g} CPUs", sum(p.cpus for p in train)
    if alone and need.cpus > cpus:
        return f"{text}, but the nodes with `train.labels` have {cpus:g}"
    text += "" if alone else f", and data tasks need {need.data_cpus:g}"
    if not alone and need.cpus + need.data_cpus > cpus:
        return f"{text}, but the cluster has {cpus:g} ({need.cpus:g} + {need.data_cpus:g} > {cpus:g})"
    room = _room(need, train)
    if room < need.workers:
        return f"{text}, but {_listed(train)} have room for {room} such workers"
    return f"{text} on one node, but the workers may leave less on each of {_listed(train)}"


def _squeezed(need: Need, places: Sequence[Place], conflict: str) -> Allotment:
    """The largest smaller reservation that fits. Raises DoesNotFitError where none does."""
    shares = _shares(need.cpus_per_worker)
    share = next((s for s in shares if fits(replace(need, cpus_per_worker=s), places)), None)
    if share is None:
        small = replace(need, cpus_per_worker=SMALLEST_SHARE)
        most = next(n for n in range(need.workers, -1, -1) if fits(replace(small, workers=n), places) or not n)
        raise DoesNotFitError(
            f"{conflict}; at most {most} workers of {SMALLEST_SHARE:g} CPU fit. Lower `train.workers` or use a"
            " larger cluster"
        )
    left = left_to_data(share * need.workers, places)
    text = f"{conflict}; each worker reserves {share:g} CPU instead, which leaves {left:g} to data"
    return Allotment(cpus_per_worker=share, adjusted=True, text=text, data_cpus=left)


def _room(need: Need, places: Sequence[Place]) -> int:
    """How many such workers the nodes have room for."""
    return sum(p.holds(need.cpus_per_worker, need.gpus_per_worker) for p in places)


def _blocking(need: Need, places: Sequence[Place]) -> float:
    """The fewest such workers that, put at the worst nodes, leave no data task a place."""
    fewest = 0
    for place in places:
        if not place.reads or place.cpus < need.data_cpus:
            continue
        own = math.floor((place.cpus - need.data_cpus) / need.cpus_per_worker + EPSILON) + 1
        if own > place.holds(need.cpus_per_worker, need.gpus_per_worker):
            return math.inf
        fewest += own
    return fewest


def _shares(wanted: float) -> Iterator[float]:
    """Smaller reservations than that wanted, the largest first: whole CPUs, then hundredths down to the smallest."""
    yield from (float(n) for n in range(math.ceil(wanted) - 1, 0, -1))
    yield from (n / 100 for n in range(99, round(SMALLEST_SHARE * 100) - 1, -1) if n / 100 < wanted)


def left_to_data(taken: float, places: Sequence[Place]) -> float:
    """CPUs left to data tasks, where workers fill first the nodes that do not read."""
    reading = sum(p.cpus for p in places if p.reads)
    return reading - max(0.0, taken - sum(p.cpus for p in places if not p.reads and p.trains))


def _listed(places: Sequence[Place]) -> str:
    """Nodes by their size, such as `3 nodes (2 of 1 CPUs, 1 of 4 CPUs and 1 GPUs)`."""
    sizes = Counter((p.cpus, p.gpus) for p in places)
    parts = [
        f"{count} of {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        for (cpus, gpus), count in sorted(sizes.items())
    ]
    return f"{len(places)} nodes ({', '.join(parts)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many trials of a search run at a time, and the sentence that explains it."""

    concurrent: int
    text: str


def slots(need: Need, places: Sequence[Place], trials: int) -> Slots:
    """How many trials fit into a cluster at a time.

    A trial of one worker trains and reads in one process, so it needs its own CPUs only; one of several workers also
    needs `data_cpus` for its data tasks, which would otherwise wait for ever behind the reservations of other trials.

    Args:
        need: of one trial.
        places: the nodes of the cluster.
        trials: of the search.

    Raises:
        DoesNotFitError: not even one trial fits.
    """
    several = need.workers > 1
    data = need.data_cpus if several else 0.0
    own, own_gpus = need.cpus + data, need.gpus
    sum_text = need.product
    sum_text += f" + {data:g} for data tasks = {own:g} CPUs a trial" if data else f" = {own:g} CPUs a trial"
    if own_gpus:
        sum_text += f" and {need.workers} x `train.gpus_per_worker` {need.gpus_per_worker:g} = {own_gpus:g} GPUs"
    used = [p for p in places if p.trains or (several and p.reads)]
    cpus, gpus = sum(p.cpus for p in used), sum(p.gpus for p in used if p.trains)
    room = f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs" if own_gpus else f"the cluster has {cpus:g}"
    if len(used) > 1:
        room += f" on {_listed(used)}"
    fitting = _room(need, places) // need.workers
    if several:
        fitting = min(fitting, math.floor(cpus / own + EPSILON))
        while fitting and not fits(replace(need, workers=fitting * need.workers), places):
            fitting -= 1
    if fitting < 1:
        raise DoesNotFitError(
            f"{sum_text}, but {room}: no trial fits. Lower `train.workers` or `train.cpus_per_worker`, or use a larger"
            " cluster"
        )
    concurrent = min(fitting, trials)
    return Slots(concurrent=concurrent, text=f"{sum_text}; {room}: {concurrent} of {trials} trials at a time")
