"""What a run will take, measured on the cluster it will run on: the first seconds of the run itself.

`measure` trains the recipe in a folder of its own, with the same workers, nodes and data tasks, until the samples per
second are known; then one worker takes the same steps with packs that lie in memory. That gives how long the first
packs take to come, the time of a step with data tasks beside it and without, and what a pack costs them. `Estimate` is
arithmetic on these.
"""

import json
import math
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import ray
import torch

from interlace.contract.errors import InterlaceError, StoppedError
from interlace.contract.sample import Pack
from interlace.data.plan.plan import Schedule
from interlace.data.read.reader import Reader
from interlace.recipe.recipe import Recipe
from interlace.store.journal import Point, journal_path, read_on
from interlace.store.places import plans_of
from interlace.train.build import network_for
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer, rate_factor
from interlace.train.run import Prepared, fit, open_run
from interlace.train.stop import ask

WARM_UP_STEPS = 5
LEAST_STEPS = 20
CALM_S = 8.0
"""Until so long after the first step the start of processes is felt; at least the last `LEAST_STEPS` are measured."""

KEPT_PACKS = 12
POLL_S = 0.2
PATIENCE_S = 300.0
"""Longest wait for the first steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Means over the measured steps.

    Args:
        workers: that took part.
        steps: measured with data tasks at work.
        samples: in a step.
        start_s: seconds of the first step above those of a later one: its packs are the first that are read.
        busy_s: seconds of a step with data tasks beside it, without waiting for data.
        alone_s: seconds of a step with its packs in memory.
        wait_s: seconds that a step waited for its packs.
        read_s: CPU seconds that data tasks spent on the packs of a step.
        pack_bytes: of a pack on its way.
        checkpoint_bytes: of weights and optimizer state.
    """

    workers: int
    steps: int
    samples: float
    start_s: float
    busy_s: float
    alone_s: float
    wait_s: float
    read_s: float
    pack_bytes: float
    checkpoint_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What follows from the measurement for the whole run.

    Args:
        measured: of this recipe on this cluster.
        num_steps: of the run.
        data_cpus: that data tasks may use.
        evaluations: how many there will be.
        evaluation_packs: packs of one, over all workers.
        packs_a_step: `batch.global_batch`.
    """

    measured: Measured
    num_steps: int
    data_cpus: float
    evaluations: int
    evaluation_packs: int
    packs_a_step: int

    @property
    def read_wall_s(self) -> float:
        """Seconds in which the data tasks make the packs of a step, all their CPUs at work."""
        return self.measured.read_s / max(self.data_cpus, 1e-9)

    @property
    def step_s(self) -> float:
        """Seconds of a step on the average of the run: the slower of reading its packs and computing beside that.

        Data tasks read ahead and may end before the run does. The steps after that are quicker, by less than a worker
        alone would be, because the driver, its tracking and Ray's processes go on; that is not counted, so that where
        cores are few a run takes somewhat less time than expected rather than more.
        """
        return max(self.read_wall_s, self.measured.busy_s, self.measured.alone_s)

    @property
    def data_binds(self) -> bool:
        """Whether workers wait for data tasks."""
        return self.read_wall_s >= self.step_s

    @property
    def training_s(self) -> float:
        """Seconds of all steps, from when the workers are ready."""
        return self.measured.start_s + self.num_steps * self.step_s

    @property
    def samples_per_s(self) -> float:
        """Of the whole run, without evaluations."""
        return self.num_steps * self.measured.samples / self.training_s

    @property
    def needed_cpus(self) -> int:
        """CPUs of data tasks with which the workers never wait."""
        return max(1, math.ceil(self.measured.read_s / self.measured.alone_s - 1e-9))

    @property
    def evaluation_s(self) -> float:
        """Seconds of all evaluations: a forward pass is about a third of a step."""
        packs = self.evaluation_packs * self.evaluations
        return packs / self.packs_a_step * self.measured.alone_s / 3

    @property
    def total_s(self) -> float:
        """Seconds of the run from when the workers are ready."""
        return self.training_s + self.evaluation_s


def estimate(prepared: Prepared, data_cpus: float, seconds: float) -> Estimate:
    """Measure for about `seconds` after the first steps, and extend it to the whole run.

    Raises:
        InterlaceError: the recipe fails in its first steps, or they do not come.
    """
    validation = prepared.index.manifests.get("validation")
    packs = 0
    if validation is not None:
        plan = prepared.reader("validation").plan()
        packs = plan.schedule(epochs=1).packs_an_epoch
    steps = prepared.schedule.num_steps
    return Estimate(
        measured=measure(prepared, seconds),
        num_steps=steps,
        data_cpus=data_cpus,
        evaluations=math.ceil(steps / prepared.eval_every) if packs else 0,
        evaluation_packs=packs,
        packs_a_step=prepared.recipe.batch.global_batch,
    )


def measure(prepared: Prepared, seconds: float) -> Measured:
    """Train for some seconds in a folder of its own, which is removed afterwards. Raises InterlaceError."""
    place = plans_of(prepared.recipe.storage) / uuid.uuid4().hex[:8]
    train = {k: m for k, m in prepared.index.manifests.items() if k == "train"}
    settings = prepared.recipe.train.model_copy(update={"checkpoint_every": None, "checkpoint_every_s": 1e9})
    recipe = prepared.recipe.model_copy(update={"storage": str(place), "train": settings})
    trial = replace(
        prepared,
        recipe=recipe,
        index=replace(prepared.index, manifests=train),
        eval_every=prepared.schedule.num_steps + 1,
    )
    try:
        with open_run(trial, "plan") as run:
            with _stopped_after(run.folder, seconds), suppress(StoppedError):
                fit(run, trial)
            points = [p for p in _points(journal_path(run.folder)) if "step_s" in p.metrics]
            starts = _world_sizes(run.folder / "events.jsonl")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    measured = calm(points)
    if not measured:
        raise InterlaceError("expected at least one step in the measured time, but there was none")
    workers = starts[-1]
    alone_s, pack_bytes, checkpoint_bytes = _on_a_worker(prepared, workers, seconds / 2)
    waits = _mean(measured, "data/wait_s")
    busy_s = _mean(measured, "step_s") - waits
    return Measured(
        workers=workers,
        steps=len(measured),
        samples=sum(p.metrics["samples_per_s"] * p.metrics["step_s"] for p in measured) / len(measured),
        start_s=max(points[0].metrics["step_s"] - busy_s, 0.0),
        busy_s=busy_s,
        alone_s=alone_s,
        wait_s=waits,
        read_s=_mean(points, "data/cpu_s"),
        pack_bytes=pack_bytes,
        checkpoint_bytes=checkpoint_bytes,
    )


def calm(points: Sequence[Point]) -> Sequence[Point]:
    """The steps of a run's beginning that say how its others will go.

    While a group of workers starts, Ray starts processes for tasks to come, which take CPUs for some seconds.
    """
    elapsed, number = 0.0, min(WARM_UP_STEPS, len(points) // 2)
    for i, point in enumerate(points[1:-LEAST_STEPS], start=1):
        elapsed += point.metrics["step_s"]
        if elapsed > CALM_S:
            break
        number = max(number, i + 1)
    return points[number:]


@contextmanager
def _stopped_after(run: Path, seconds: float) -> Iterator[None]:
    """Ask the run of the body to stop some seconds after its first steps, or when they do not come."""
    ended = threading.Event()

    def watch() -> None:
        since, limit = time.monotonic(), PATIENCE_S
        while not ended.wait(POLL_S):
            if limit == PATIENCE_S and any(p.step >= WARM_UP_STEPS for p in _points(journal_path(run))):
                since, limit = time.monotonic(), CALM_S + seconds
            if time.monotonic() - since > limit:
                ask(run)
                return

    thread = threading.Thread(target=watch, name="plan", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _points(path: Path) -> list[Point]:
    return [point for points, _ in read_on(path) for point in points]


def _world_sizes(events: Path) -> list[int]:
    texts = [json.loads(line)["text"] for line in events.read_text(encoding="utf-8").splitlines()]
    return [int(text.split()[0]) for text in texts if "workers ready" in text]


def _mean(points: Sequence[Point], name: str) -> float:
    return sum(p.metrics[name] for p in points) / len(points)


def _on_a_worker(prepared: Prepared, workers: int, seconds: float) -> tuple[float, float, float]:
    """Seconds of a step alone, bytes of a pack and of a checkpoint, from a process placed as a worker is."""
    recipe = prepared.recipe
    task = ray.remote(num_cpus=recipe.train.cpus_per_worker, num_gpus=recipe.train.gpus_per_worker, max_calls=1)(_alone)
    placed = task.options(label_selector=dict(recipe.train.labels)) if recipe.train.labels else task
    found: tuple[float, float, float] = ray.get(
        placed.remote(
            recipe, prepared.index.fitted, prepared.train, prepared.schedule, prepared.threads, workers, seconds
        )
    )
    return found


def _alone(  # noqa: PLR0913 - what a process needs
    recipe: Recipe,
    fitted: Mapping[str, object],
    reader: Reader,
    schedule: Schedule,
    threads: int,
    workers: int,
    seconds: float,
) -> tuple[float, float, float]:
    """Time steps whose packs lie in memory; the share of one worker, without the exchange of gradients."""
    torch.set_num_threads(threads)
    share = recipe.batch.global_batch // workers
    plan = reader.plan()
    packs = reader.stream(schedule.windows, first=0, stop=schedule.stop, plan=plan)
    kept = list(islice(packs, max(KEPT_PACKS, share)))
    device = torch.device("cuda" if recipe.train.gpus_per_worker else "cpu")
    torch.manual_seed(recipe.seed)
    network = network_for(recipe, fitted).to(device)
    optimizer = make_optimizer(recipe.optim, network, (rate_factor(recipe.fields),))
    own = recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"global_batch": share})})
    loop = Loop(network=network, optimizer=optimizer, recipe=own, num_steps=schedule.num_steps, device=device)

    def again() -> Iterator[Pack]:
        position = 0
        while True:
            yield replace(kept[position % len(kept)], position=position)
            position += 1

    times: list[float] = []
    began = time.perf_counter()
    for report in loop.steps(again(), 0):
        times.append(report.metrics["step_s"] - report.metrics["data/wait_s"])
        if len(times) > WARM_UP_STEPS and time.perf_counter() - began > seconds:
            break
    measured = times[min(WARM_UP_STEPS, len(times) // 2) :]
    pack_bytes = sum(f.values.nbytes for p in kept for f in p.fields.values()) / len(kept)
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    state = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor))
    return sum(measured) / len(measured), pack_bytes, float(parameters + state)
