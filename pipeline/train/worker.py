"""What runs on each training worker: the loop inside Ray Train, with checkpoints, journal, evaluation, quarantine.

Rank 0 writes the journal and the checkpoints into the run folder; they are the truth of a run. A checkpoint counts once
its hashes are written, whatever Ray Train has been told, because a reported checkpoint may be lost until the
controller's next poll.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray.train
import torch

from interlace.contract.batch import to_batch
from interlace.contract.better import is_better
from interlace.contract.errors import BadShareError, InterlaceError, NonFiniteLossError
from interlace.contract.flops import Flops
from interlace.contract.ranks import sum_over_ranks
from interlace.contract.sample import Pack
from interlace.contract.tables import table_to_pack
from interlace.data.stream import CPU_SECONDS
from interlace.recipe.recipe import Recipe
from interlace.store.journal import Journal, journal_path, last_point
from interlace.store.lock import held, worker_lock
from interlace.store.system import sampled
from interlace.train.build import network_for
from interlace.train.checkpoint import (
    Found,
    RunState,
    checkpoint_folder,
    load_training,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from interlace.train.collectives import Collectives
from interlace.train.compile import compile_layers
from interlace.train.devices import Utilization, device_peak
from interlace.train.loop import Loop, Losses
from interlace.train.optim import after_evaluation, make_optimizer, rate_factor
from interlace.train.parallel import distribute, holds_shards
from interlace.train.prefetch import prefetch
from interlace.train.prometheus import RunGauges
from interlace.train.quarantine import Quarantine
from interlace.train.report import StepReport
from interlace.train.signals import (
    PreemptedError,
    Signals,
    SignalWatcher,
    checkpoint_given,
    checkpoint_wanted,
    enough_stay,
)
from interlace.train.start import start
from interlace.train.told import Told
from interlace.train.validation import Share, Validation, in_turn

PREFETCH = 4
LOCK_WAIT_S = 60.0
EVALUATE_S, CHECKPOINT_S = "time/evaluate_s", "time/checkpoint_s"
"""Metrics: seconds that an evaluation took, and a checkpoint."""
FAILURE = "failure.txt"
"""File of a run folder that says why training ended for good."""

OnEvaluation = Callable[[RunState, Mapping[str, float]], None]
"""Told of each evaluation (metrics as `task/metric`) after a checkpoint that was due; may end the run by raising."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker needs besides its stream of packs.

    Args:
        recipe: of the run.
        run: the run's folder.
        fitted: state of modalities and targets.
        num_steps, eval_every: length of the run, and steps between evaluations.
        validation: from (rank, world size) to the packs of the validation split to evaluate there, if there is one.
        num_rows, num_bad: training records, and those of them that the index found bad.
        threads: torch threads of a worker.
        data_digest, recipe_digest: of the training manifest, and of the recipe.
        starts, flops: folder of what the recipe starts from, and what training samples cost.
    """

    recipe: Recipe
    run: Path
    fitted: Any
    num_steps: int
    eval_every: int
    validation: Share | None
    num_rows: int
    num_bad: int
    threads: int
    data_digest: str
    recipe_digest: str
    starts: Path
    flops: Flops


def train_worker(config: dict[str, Job]) -> None:
    """Entry point of a Ray Train worker."""
    context = ray.train.get_context()
    job = config["job"]
    rank = context.get_world_rank()
    try:
        with held(job.run / worker_lock(rank), wait_s=LOCK_WAIT_S), _node_sampled(job.run, job.recipe, context):
            watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") == "1"
            with Worker(job, rank, context.get_world_size(), nodes_are_watched=watched) as worker:
                if job.validation is not None:
                    ray.train.get_dataset_shard("validation")  # what deals it out starts while training begins
                worker.run(_packs(worker.watcher))
    except (NonFiniteLossError, BadShareError) as error:
        # Every rank raises these at the same step, and trying again would not help: end without a restart.
        if rank == 0:
            (job.run / FAILURE).write_text(str(error), encoding="utf-8")


def _node_sampled(run: Path, recipe: Recipe, context: Any) -> AbstractContextManager[None]:
    """What this node has at work is sampled by its first worker; metrics name the node where there are several."""
    own = context.get_local_rank() == 0
    name = platform.node() if context.get_local_world_size() < context.get_world_size() else None
    every_s = recipe.tracking.system_every_s if own else 0.0
    return sampled(run, every_s, node=context.get_node_rank(), name=name)


def _packs(watcher: SignalWatcher) -> Iterator[Pack]:
    """This rank's packs, one a block; what they cost is noted."""
    shard = ray.train.get_dataset_shard("train")
    for table in shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        watcher.read_cpu_s += table[CPU_SECONDS][0].as_py()
        yield table_to_pack(table)


def dealt(num_packs: int, rank: int, world_size: int) -> Iterator[Pack]:
    """This rank's packs of one pass over the validation split, of `num_packs` in all. Raises PositionError."""
    shard = ray.train.get_dataset_shard("validation")
    tables = shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
    return in_turn(map(table_to_pack, tables), num_packs, rank, world_size)


class Worker:
    """One rank of a run; a context that closes the files it writes."""

    def __init__(
        self,
        job: Job,
        rank: int,
        world_size: int,
        on_evaluation: OnEvaluation | None = None,
        *,
        nodes_are_watched: bool = False,
    ) -> None:
        torch.set_num_threads(job.threads)
        self.job = job
        self.rank = rank
        self.world_size = world_size
        self.on_evaluation = on_evaluation
        self.metrics: Mapping[str, float] = {}
        self.told = Told(job.run, rank, world_size)
        self.device = _device(job.recipe, world_size)
        torch.manual_seed(job.recipe.seed)
        network = network_for(job.recipe, job.fitted).to(self.device)
        found = newest_checkpoint(job.run)
        if found.folder is None:
            for line in start(network, job.recipe.model, job.recipe.fields, job.starts):
                self.told.say(f"started from: {line}")
        compile_layers(network, job.recipe.train.compile, self.device, self.told.say)
        collectives = Collectives(self.device)
        distributed = distribute(Losses(network, job.recipe), job.recipe, world_size, collectives=collectives)
        self.sharded = holds_shards(network)
        evaluates = self.sharded and job.validation is not None
        self.watcher = SignalWatcher(job.run, rank, nodes=nodes_are_watched)
        self.loop = Loop(
            network=network,
            optimizer=make_optimizer(job.recipe.optim, network, (rate_factor(job.recipe.fields),)),
            recipe=job.recipe,
            num_steps=job.num_steps,
            device=self.device,
            rank=rank,
            world_size=world_size,
            distributed=distributed,
            whole=network_for(job.recipe, job.fitted).to(self.device) if evaluates else None,
            watcher=self.watcher.numbers,
            collectives=collectives,
            utilization=Utilization(flops=job.flops, peak=device_peak(self.device, job.recipe.train.precision)),
        )
        self.state = self._restore(found)
        self.loop.rate_scale = self.state.rate_scale
        self.began_at = self.state.step
        self.reached = last_point(journal_path(job.run)) if rank == 0 and self.state.step else None
        self.journal = Journal(journal_path(job.run)) if rank == 0 else None
        self.quarantine = Quarantine(
            job.run, rank, world_size, num_rows=job.num_rows, num_bad=job.num_bad, limit=job.recipe.data.max_bad_share
        )
        self.trace = (job.run / f"trace-{rank}.jsonl").open("a", encoding="utf-8") if job.recipe.train.trace else None
        self.validation: Validation | None = None
        if job.validation is not None:
            self.validation = Validation(
                job.validation, rank, world_size, lambda text: self.told.say(f"evaluation: {text}")
            )
        self.unread: tuple[StepReport, int] | None = None  # with the number of bad records so far
        self.saved_at = time.monotonic()
        self.leaving: frozenset[int] = frozenset()  # ranks on nodes that go away
        self.gauges = RunGauges(job.run.name) if rank == 0 and nodes_are_watched else None

    def run(self, packs: Iterator[Pack]) -> None:
        """Train from where the newest checkpoint stands to the end."""
        if not self.state.is_over(self.job.num_steps, self.job.recipe.train.patience):
            try:
                self._train(packs)
            finally:
                self._record()  # whatever ended it, its last step is in the journal

    def __enter__(self) -> Self:
        """The worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journal and the trace."""
        if self.journal is not None:
            self.journal.close()
        if self.trace is not None:
            self.trace.close()

    def _train(self, packs: Iterator[Pack]) -> None:
        self.told.say(
            f"{self.world_size} workers ready on {self.device}, {self.job.threads} threads each; reading begins"
        )
        ahead = prefetch(packs, PREFETCH, self.told.say)
        first = self.state.step + 1
        for report in self.loop.steps(ahead, self.state.step):
            if report.step == first:
                wait_s = sum(wait for wait, _ in report.ranks) / self.world_size
                self.told.say(f"first step done, after waiting {wait_s:.1f} s for its data")
            self.state = replace(self.state, step=report.step)
            self._record()
            self.unread = report, self.quarantine.add(report.bad)
            improved = self._evaluate() if self._is_due(report.step) else False
            patience = self.job.recipe.train.patience
            stop = patience is not None and self.state.evaluations_since_best >= patience
            if stop:
                self.told.say(
                    f"stopped early, after step {report.step}: {patience} evaluations were no better than that"
                    f" of step {self.state.best_step}"
                )
            self.state = replace(self.state, finished=stop or report.step == self.job.num_steps)
            wanted = self._wanted(report.signals)
            if improved or self.state.finished or self._checkpoint_is_due() or wanted:
                self._save()
                self._answer(wanted)
            if self.on_evaluation is not None and self._is_due(report.step):
                self.on_evaluation(self.state, self.metrics)
            if self.state.finished or report.signals.stop:
                break
            if enough_stay(self.leaving, self.world_size, self.job.recipe.world_sizes):
                raise PreemptedError(f"ranks {sorted(self.leaving)} of {self.world_size}")

    def _wanted(self, signals: Signals) -> str | None:
        """Why a checkpoint is asked for from outside; the same on all ranks."""
        if signals.look_at_nodes and (leaving := ray.train.get_preemption_info()) is not None:
            ranks = frozenset(leaving.preempted_ranks)
            if not ranks <= self.leaving:
                self.leaving |= ranks
                when = f" in {leaving.deadline_ms / 1000 - time.time():.0f} s" if leaving.deadline_ms else ""
                return f"nodes of ranks {leaving.preempted_ranks} go away{when}"
        if signals.stop:
            return "asked to stop"
        return (checkpoint_wanted(self.job.run) or "asked for") if signals.save else None

    def _answer(self, wanted: str | None) -> None:
        if wanted is not None and self.rank == 0:
            self.told.say(f"checkpoint after step {self.state.step}: {wanted}")
            checkpoint_given(self.job.run)

    def _is_due(self, step: int) -> bool:
        return step % self.job.eval_every == 0 or step == self.job.num_steps

    def _restore(self, found: Found) -> RunState:
        for reason in found.refused:
            self.told.say(f"checkpoint refused: {reason}")
        if found.folder is None or found.state is None:
            return RunState(
                step=0,
                best_step=-1,
                best_value=float("nan"),
                evaluations_since_best=0,
                finished=False,
                recipe_digest=self.job.recipe_digest,
                data_digest=self.job.data_digest,
            )
        load_training(found.folder, self.loop.network, self.loop.optimizer, self.loop.average)
        self.told.say(f"resumed from {found.folder.name}")
        return found.state

    def _record(self) -> None:
        """Write down the newest step that was not, once the device has computed it. Raises NonFiniteLossError."""
        if self.unread is None:
            return
        (report, bad), self.unread = self.unread, None
        if self.trace is not None:
            for item in report.traces:
                line = {"step": item.step, "position": item.position, "ids": item.sample_ids, "loss": item.loss}
                self.trace.write(json.dumps(line) + "\n")
            self.trace.flush()
        self.told.ranks(report)
        if self.gauges is not None:
            self.gauges.show(report.metrics)
        if self.journal is not None and report.step % self.job.recipe.tracking.log_every == 0:
            again = self._lost_time(report.step)
            self.journal.log(report.step, {**report.metrics, **again, "data/bad_records": float(bad)})

    def _lost_time(self, step: int) -> dict[str, float]:
        """What the interruption cost, once the run is where it was before."""
        if self.reached is None or step < self.reached.step:
            return {}
        before, self.reached = self.reached, None
        lost_s, steps = time.time() - before.time_ms / 1000, before.step - self.began_at
        self.told.say(f"{lost_s:.1f} s lost: step {before.step} was reached before, {steps} steps were computed again")
        return {
            "restart/lost_s": lost_s,
            "restart/steps_again": float(steps),
            "restart/workers": float(self.world_size),
        }

    def _evaluate(self) -> bool:
        """Evaluate on the validation split; whether the result is the best so far."""
        self._record()  # what is evaluated or kept is sound
        if self.validation is None:
            return False
        began = time.perf_counter()
        batches = (to_batch(p, self.device) for p in self.validation.packs())
        self.metrics = metrics = self.loop.evaluate(batches)
        if self.journal is not None:
            took = {EVALUATE_S: time.perf_counter() - began}
            self.journal.log(self.state.step, {f"val/{k}": v for k, v in metrics.items()} | took)
            self.journal.flush(sync=False)
        name, task = next(iter(self.loop.network.tasks.items()))
        value = metrics[f"{name}/{task.main_metric}"]
        improved = is_better(value, self.state.best_value, higher=task.higher_is_better)
        if improved:
            self.state = replace(self.state, best_step=self.state.step, best_value=value, evaluations_since_best=0)
        elif math.isnan(value):
            self.told.say(
                f"evaluation after step {self.state.step}: {name}/{task.main_metric} is not a number and counts"
                " for nothing, neither as the best nor for patience (has the validation split labels?)"
            )
            return False
        else:
            self.state = replace(self.state, evaluations_since_best=self.state.evaluations_since_best + 1)
        scale, waited = after_evaluation(
            self.job.recipe.optim, self.state.rate_scale, self.state.rate_waited, improved=improved
        )
        self.state = replace(self.state, rate_scale=scale, rate_waited=waited)
        self.loop.rate_scale = scale
        return improved

    def _checkpoint_is_due(self) -> bool:
        if (every := self.job.recipe.train.checkpoint_every) is not None:
            return self.state.step % every == 0
        due = self.rank == 0 and time.monotonic() - self.saved_at >= self.job.recipe.train.checkpoint_every_s
        return bool(sum_over_ranks(torch.tensor([int(due)]))) if self.sharded else due

    def _save(self) -> None:
        """Rank 0 writes, since every rank holds the same weights; where they are sharded, all ranks do."""
        self._record()
        if self.rank != 0 and not self.sharded:
            return
        if self.journal is not None:
            self.journal.flush(sync=True)
        began = time.perf_counter()
        folder = checkpoint_folder(self.job.run, self.state.step)
        save_checkpoint(folder, self.loop.network, self.loop.optimizer, self.state, self.loop.average)
        if self.rank == 0:
            prune_checkpoints(self.job.run, self.job.recipe.train.keep_checkpoints, self.state.best_step)
        if self.journal is not None:
            self.journal.log(self.state.step, {CHECKPOINT_S: time.perf_counter() - began})
        self.saved_at = time.monotonic()


def _device(recipe: Recipe, world_size: int) -> torch.device:
    """The worker's GPU if the recipe asks for one and torch has CUDA, else the CPU."""
    if recipe.train.gpus_per_worker > 0:
        if not torch.cuda.is_available():
            raise InterlaceError("`train.gpus_per_worker` asks for a GPU, but torch sees none")
        if world_size == 1:
            return torch.device("cuda")  # Ray shows a process its own GPUs only; a trial is no worker of Ray Train
        device: torch.device = ray.train.torch.get_device()
        return device
    return torch.device("cpu")
