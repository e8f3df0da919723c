"""One run of a recipe on a cluster: its folder, what is known of it before it starts, and Ray Train around the loop.

    prepare (index, plan, arithmetic) -> open_run (folder, lock, resume rules) -> fit (TorchTrainer) -> result in folder

    <storage>/runs/<name>/  recipe.yaml  fitted.json  run.json  metrics.jsonl  events.jsonl  checkpoints/  model/

Killing any process of it loses at most the steps since the last checkpoint: the same command under the same name goes
on from there, with the same samples in the same steps.
"""

import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from interlace.contract.errors import InterlaceError, ResumeError, StoppedError
from interlace.contract.ranks import TIMEOUT_S
from interlace.contract.sample import Pack
from interlace.data.index.build import Index, build_index
from interlace.data.plan.plan import Plan, Schedule
from interlace.data.read.open import open_reader
from interlace.data.read.reader import Reader
from interlace.data.read.share import read_share
from interlace.data.sources import Mapper
from interlace.data.stream import data_config, dataset, dataset_beside, inflight_bytes, tasks_within
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import resolve
from interlace.store.lock import DRIVER, held, worker_lock
from interlace.store.places import child_of, runs_of, starts_of
from interlace.store.system import sampled
from interlace.train.begun import check_same, free_name, identity_of, write_new
from interlace.train.build import network_for
from interlace.train.checkpoint import newest_checkpoint
from interlace.train.elastic import Rules
from interlace.train.placement import beside
from interlace.train.policy import ElasticTrainer, Trainer
from interlace.train.signals import checkpoint_given
from interlace.train.start import start
from interlace.train.stop import clear, is_asked, stop_on_signals
from interlace.train.worker import FAILURE, Job, OnEvaluation, Worker, dealt, train_worker

BYTES_PER_PARAMETER = 16
"""fp32 weight, gradient and the two moments of AdamW."""
ELASTIC_START_TIMEOUT_S = "20"
"""A group planned on a node that has just gone waits so long for its start (Ray's default is 60 s)."""
WORKERS_GONE_S = 60.0
"""How long workers of a killed driver may take to notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A recipe with its data: all that can be known before training.

    Args:
        recipe: as it will run.
        settings: its settings by dotted path.
        digest: of what decides its result.
        index: fitted state and manifests.
        train: reader of the training split.
        plan: of the training split.
        schedule: the windows of the run.
        eval_every: steps between evaluations.
        threads: torch threads of a worker.
        num_parameters: weights of the network.
    """

    recipe: Recipe
    settings: Mapping[str, Any]
    digest: str
    index: Index
    train: Reader
    plan: Plan
    schedule: Schedule
    eval_every: int
    threads: int
    num_parameters: int

    @property
    def state_bytes(self) -> int:
        """Bytes of weights, gradients and optimizer on one worker."""
        return self.num_parameters * BYTES_PER_PARAMETER // self.recipe.num_shards

    @property
    def window_bytes(self) -> int:
        """Bytes of the records of the largest window: what a data task holds. Parquet counts all columns, unpacked."""
        return self.plan.most_in_window(self.index.manifests["train"].groups.num_bytes)

    def reader(self, split: str) -> Reader:
        """The reader of a split for evaluation: nothing is augmented, in file order."""
        return open_reader(self.index, self.recipe, split, training=False)


def prepare(recipe: Recipe, mapper: Mapper) -> Prepared:
    """Index the data (or take the index from the cache) and plan the run. Raises InterlaceError."""
    resolved = resolve(recipe)
    recipe = resolved.recipe
    index = build_index(recipe, mapper)
    network = network_for(recipe, index.fitted)
    start(network, recipe.model, recipe.fields, recipe.reads.starts)  # errors are for now, not for workers
    train = open_reader(index, recipe, "train", training=True)
    plan = train.plan()
    schedule = plan.schedule(epochs=recipe.train.epochs, steps=recipe.train.steps)
    return Prepared(
        recipe=recipe,
        settings=resolved.settings,
        digest=resolved.digest,
        index=index,
        train=train,
        plan=plan,
        schedule=schedule,
        eval_every=recipe.train.eval_every or max(1, round(schedule.packs_an_epoch / recipe.batch.global_batch)),
        threads=recipe.train.threads or max(1, int(recipe.train.cpus_per_worker)),
        num_parameters=sum(p.numel() for p in network.parameters()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An open run.

    Args:
        name, folder: of the run.
        key: that no other run anywhere has.
        resumed: whether it has steps behind it.
        num_steps, patience: its length, and evaluations without improvement that end it earlier.
        was_steps: its length before this start made it longer, None where it did not.
    """

    name: str
    folder: Path
    key: str
    resumed: bool
    num_steps: int
    patience: int | None = None
    was_steps: int | None = None

    @property
    def finished(self) -> bool:
        """Whether training has come to its end."""
        state = newest_checkpoint(self.folder).state
        return state is not None and state.is_over(self.num_steps, self.patience)


@contextmanager
def open_run(
    prepared: Prepared, name: str | None = None, *, resume: bool = False, fresh: bool = False
) -> Iterator[Run]:
    """Make or continue the run of this name; only one process may hold it.

    Args:
        prepared: recipe and data.
        name: of the run; the recipe's name and digest where not given.
        resume: insist on a run that is there.
        fresh: begin anew under the next free name.

    Raises:
        ResumeError: the run there has other data, plan or model settings, another process holds it, or (with
            `resume`) there is none.
    """
    runs = runs_of(prepared.recipe.storage)
    name = name or f"{prepared.recipe.name}-{prepared.digest[:8]}"
    if fresh:
        name = free_name(runs, name)
    folder = child_of(runs, name)
    exists = (folder / "run.json").exists()
    if resume and not exists:
        known = ", ".join(sorted(p.name for p in runs.glob("*"))) or "none"
        raise ResumeError(f"--resume: expected a run `{name}` in {runs}, but there is none (there: {known})")
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / DRIVER):
        for lock in sorted(folder.glob(worker_lock("*"))):
            with held(lock, wait_s=WORKERS_GONE_S):
                pass  # workers of a killed driver are gone
        identity = identity_of(prepared.settings, prepared.index.manifests, prepared.schedule.num_steps)
        was = None
        if exists:
            was = check_same(folder, identity, name)
        else:
            write_new(folder, prepared.recipe, prepared.index.fitted, identity)
        (folder / FAILURE).unlink(missing_ok=True)
        clear(folder)
        checkpoint_given(folder)
        yield Run(
            name=name,
            folder=folder,
            key=json.loads((folder / "run.json").read_text(encoding="utf-8"))["key"],
            resumed=newest_checkpoint(folder).folder is not None,
            num_steps=prepared.schedule.num_steps,
            patience=prepared.recipe.train.patience,
            was_steps=was,
        )


def fit(run: Run, prepared: Prepared) -> None:
    """Train to the end with Ray Train, from the newest checkpoint on.

    Raises:
        InterlaceError: training failed for good; the text is the worker's.
        StoppedError: SIGTERM or Ctrl-C came; the checkpoint of the last step is written.
    """
    recipe = prepared.recipe
    job, datasets = _job(run, prepared), {"train": _stream(run.folder, prepared)}
    if job.validation is not None:
        num_packs, datasets["validation"] = _validation_stream(prepared)
        job = replace(job, validation=partial(dealt, num_packs))
    gpus = recipe.train.gpus_per_worker
    resources = {"CPU": recipe.train.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    sizes = recipe.world_sizes
    trainer_class: Any = Trainer
    if len(sizes) > 1:
        trainer_class = partial(ElasticTrainer, rules=_rules(run, recipe))
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_TIMEOUT_S)
    trainer = trainer_class(
        train_worker,
        train_loop_config={"job": job},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=sizes[0] if len(sizes) == 1 else (sizes[0], sizes[-1]),
            use_gpu=gpus > 0,
            resources_per_worker=resources,
            label_selector=dict(recipe.train.labels) or None,
            elastic_resize_monitor_interval_s=recipe.train.resize_every_s,
        ),
        run_config=ray.train.RunConfig(
            # Checkpoints are ours, so Ray Train keeps nothing: a name of its own for each launch starts it clean.
            name=f"launch-{uuid.uuid4().hex[:8]}",
            storage_path=str(run.folder / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=recipe.train.max_failures),
        ),
        datasets=datasets,
        dataset_config=data_config(recipe.data.labels),
    )
    try:
        with stop_on_signals(run.folder) as came:
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise InterlaceError(f"run `{run.name}` failed: {_reason(error)}") from error
    failure = run.folder / FAILURE
    if failure.exists():
        raise InterlaceError(f"run `{run.name}` stopped: {failure.read_text(encoding='utf-8')}")
    if is_asked(run.folder) and not run.finished:
        state = newest_checkpoint(run.folder).state
        step = state.step if state is not None else 0
        raise StoppedError(step, prepared.schedule.num_steps, by_hand=signal.SIGINT in came)


def _rules(run: Run, recipe: Recipe) -> Rules:
    return Rules(
        sizes=recipe.world_sizes,
        cpus=recipe.train.cpus_per_worker,
        gpus=recipe.train.gpus_per_worker,
        train_labels=recipe.train.labels,
        data_labels=recipe.data.labels,
        run=run.folder,
    )


def fit_here(run: Run, prepared: Prepared, on_evaluation: OnEvaluation | None = None) -> None:
    """Train one worker in this process, which reads its packs itself: the same steps as `fit`, without Ray Train.

    Raises:
        NonFiniteLossError, BadShareError: as the worker does.
        ResumeError: another process trains this run still.
    """
    every_s = prepared.recipe.tracking.system_every_s
    with (
        held(run.folder / worker_lock(0), wait_s=WORKERS_GONE_S),
        sampled(run.folder, every_s),
        Worker(_job(run, prepared), 0, 1, on_evaluation) as worker,
    ):
        worker.run(_packs(prepared, worker.state.step * prepared.schedule.global_batch))


def _packs(prepared: Prepared, start: int) -> Iterator[Pack]:
    """The packs from a position on, read in this process."""
    schedule = prepared.schedule
    return prepared.train.stream(schedule.since(start), first=start, stop=schedule.stop, plan=prepared.plan)


def _stream(folder: Path, prepared: Prepared) -> Callable[[], Any]:
    """The dataset factory that Ray Train calls at every start of the worker group: the stream from where it stands."""
    reader = ray.put(prepared.train)
    schedule, data, window_bytes = prepared.schedule, prepared.recipe.data, prepared.window_bytes

    def make() -> Any:
        state = newest_checkpoint(folder).state
        start = state.step * schedule.global_batch if state is not None else 0
        tasks = tasks_within(inflight_bytes(data), window_bytes)
        return dataset(ray.get(reader), schedule, start, tasks=tasks)

    return make


def _validation_stream(prepared: Prepared) -> tuple[int, Callable[[], Any]]:
    """How many packs one pass over the validation split has, and the dataset factory that gives them."""
    reader, recipe = prepared.reader("validation"), prepared.recipe
    schedule = reader.plan().schedule(epochs=1)
    shared = ray.put(reader)

    def make() -> Any:
        return dataset_beside(
            ray.get(shared),
            schedule,
            recipe.world_sizes[-1],
            beside(recipe.train, recipe.world_sizes[0], recipe.data.labels, ray.nodes()),
        )

    return schedule.stop, make


def _job(run: Run, prepared: Prepared) -> Job:
    recipe, index = prepared.recipe, prepared.index
    train = index.manifests["train"]
    return Job(
        recipe=recipe,
        run=run.folder,
        fitted=index.fitted,
        num_steps=prepared.schedule.num_steps,
        eval_every=prepared.eval_every,
        validation=partial(read_share, prepared.reader("validation")) if "validation" in index.manifests else None,
        num_rows=train.num_rows,
        num_bad=train.num_bad,
        threads=prepared.threads,
        data_digest=train.digest,
        recipe_digest=prepared.digest,
        starts=starts_of(recipe.storage),
        flops=prepared.train.flops,
    )


def _reason(error: Exception) -> str:
    """The worker's own exception, without Ray's wrapping, as few lines as say it."""
    failures = getattr(error, "worker_failures", None) or {}
    inner: Exception = next(iter(failures.values()), getattr(error, "controller_failure", error))
    while isinstance(cause := getattr(inner, "cause", None) or inner.__cause__, Exception):
        inner = cause
    return f"{type(inner).__name__}: {inner}"
