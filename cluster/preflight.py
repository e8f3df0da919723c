"""The arithmetic of a job's resources, before anything starts: what can't fit would wait for ever in silence."""

import math
from dataclasses import dataclass

from cluster.errors import ClusterError

SMALLEST_SHARE = 0.25
"""Fewest CPUs a training worker is squeezed to before the job is refused."""


class DoesNotFitError(ClusterError):
    """The cluster can't hold the job; the text says the arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a training job reserves: workers, CPUs and GPUs of each, and CPUs left to data tasks."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    data_cpus: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """CPUs to reserve for each worker, and the sentence that explains them."""

    cpus_per_worker: float
    adjusted: bool
    text: str


def allot(need: Need, cpus: float, gpus: float) -> Allotment:
    """Fit a job into a cluster.

    Worker CPUs must leave `data_cpus` free: Ray Data would otherwise never run its first task, and every worker would
    wait for it. Where they do not, each worker reserves less (reservations are bookkeeping; threads are set apart).

    Raises:
        DoesNotFitError: GPUs are missing, or a worker would get less than a quarter of a CPU.
    """
    if need.workers * need.gpus_per_worker > gpus:
        raise DoesNotFitError(
            f"`train.workers` {need.workers} x `train.gpus_per_worker` {need.gpus_per_worker:g} ="
            f" {need.workers * need.gpus_per_worker:g} GPUs, but the cluster has {gpus:g}"
        )
    wanted = need.workers * need.cpus_per_worker
    sum_text = f"`train.workers` {need.workers} x `train.cpus_per_worker` {need.cpus_per_worker:g} = {wanted:g} CPUs"
    if wanted + need.data_cpus <= cpus:
        text = f"{sum_text} for training, {cpus - wanted:g} of {cpus:g} left to data tasks"
        return Allotment(cpus_per_worker=need.cpus_per_worker, adjusted=False, text=text)
    share = (cpus - need.data_cpus) / need.workers
    share = float(math.floor(share)) if share >= 1 else math.floor(share * 100) / 100
    conflict = (
        f"{sum_text}, and data tasks need {need.data_cpus:g}, but the cluster has {cpus:g}"
        f" ({wanted:g} + {need.data_cpus:g} > {cpus:g})"
    )
    if share < SMALLEST_SHARE:
        most = math.floor((cpus - need.data_cpus) / SMALLEST_SHARE)
        raise DoesNotFitError(
            f"{conflict}; at most {most} workers of {SMALLEST_SHARE:g} CPU fit. Lower `train.workers` or use a"
            " larger cluster"
        )
    text = (
        f"{conflict}; each worker reserves {share:g} CPU instead, which leaves {cpus - share * need.workers:g} to data"
    )
    return Allotment(cpus_per_worker=share, adjusted=True, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many trials of a search run at a time, and the sentence that explains it."""

    concurrent: int
    text: str


def slots(need: Need, cpus: float, gpus: float, trials: int) -> Slots:
    """How many trials fit into a cluster at a time.

    A trial of one worker trains and reads in one process, so it needs its own CPUs only; one of several workers also
    needs `data_cpus` for its data tasks, which would otherwise wait for ever behind the reservations of other trials.

    Raises:
        DoesNotFitError: not even one trial fits.
    """
    data = need.data_cpus if need.workers > 1 else 0.0
    own, own_gpus = need.workers * need.cpus_per_worker + data, need.workers * need.gpus_per_worker
    sum_text = f"`train.workers` {need.workers} x `train.cpus_per_worker` {need.cpus_per_worker:g}"
    sum_text += f" + {data:g} for data tasks = {own:g} CPUs a trial" if data else f" = {own:g} CPUs a trial"
    if own_gpus:
        sum_text += f" and {need.workers} x `train.gpus_per_worker` {need.gpus_per_worker:g} = {own_gpus:g} GPUs"
    room = f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs" if own_gpus else f"the cluster has {cpus:g}"
    by_cpu = math.floor(cpus / own + 1e-9)
    by_gpu = math.floor(gpus / own_gpus + 1e-9) if own_gpus else by_cpu
    fitting = min(by_cpu, by_gpu)
    if fitting < 1:
        raise DoesNotFitError(
            f"{sum_text}, but {room}: no trial fits. Lower `train.workers` or `train.cpus_per_worker`, or use a larger"
            " cluster"
        )
    concurrent = min(fitting, trials)
    return Slots(concurrent=concurrent, text=f"{sum_text}; {room}: {concurrent} of {trials} trials at a time")
