"""Runs of a small network on several processes (gloo, without Ray), and on one, for tests of parallel training."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from interlace.contract.sample import FieldPack, Pack
from interlace.model.network import Network
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.train.build import build_network
from interlace.train.checkpoint import RunState, load_optimizer, load_weights, save_checkpoint
from interlace.train.collectives import Collectives
from interlace.train.compile import Compiler
from interlace.train.devices import memory_peak
from interlace.train.loop import Loop, Losses
from interlace.train.optim import make_optimizer
from interlace.train.parallel import distribute, is_sharded, whole_state
from tests.networks import CLASSES, FIELDS, SPECS, draw_pack

STEPS, HALF, LATER = 20, 10, 13
NAMES = ("scan", "series", "values")
RARE = "series"
"""The clocked field, which some runs show to even ranks only."""
FROZEN = ("series", "values")
"""Fields that some runs freeze: one with a clock, one with recurrent cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run of some workers: what it changes, from which step to which, and what it reads or writes."""

    parallel: str
    first: int = 0
    last: int = STEPS
    fusion: str = "mid"
    rare: bool = False
    fickle: bool = False
    precision: str = "fp32"
    recompute: bool = False
    frozen: bool = False
    load: str | None = None
    save: str | None = None
    optimizer: str = "adamw"
    traced: bool = False
    unread: bool = False
    half: bool | None = None
    shard_over: int | None = None
    global_batch: int = 4
    workers: int = 2


COMPILED: list[str] = []  # what one case compiled


def recipe(case: Case) -> Recipe:
    fields = {name: FIELDS[name].model_dump(mode="json") for name in NAMES}
    for name in FROZEN if case.frozen else ():
        fields[name] |= {"init": {"run": "elsewhere"}, "freeze": True}
    return parse_recipe(
        {
            "name": "parallel",
            "data": {"train": {"paths": ["none.parquet"]}},
            "fields": fields,
            "tasks": {"label": {"task": "classification", "column": "label"}},
            "model": {
                "dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1, "dropout": 0.1,
                "modality_dropout": 0.2, "fusion": case.fusion,
            },
            "batch": {"global_batch": case.global_batch},
            "optim": {"name": case.optimizer, "layer_decay": 0.8, "lr": 0.005},
            "train": {
                "steps": STEPS, "precision": case.precision, "workers": case.workers, "parallel": case.parallel,
                "checkpoint_activations": case.recompute, "shard_over": case.shard_over,
            },
        }
    )  # fmt: skip


def pack(position: int, case: Case) -> Pack:
    """The pack at a position, one of 8.

    With `rare`, those of odd ranks lack one field altogether; with `fickle`, every second of a rank does.
    """
    drawn = dataclasses.replace(draw_pack(position % 8, samples=4), position=position)
    if not (case.rare and position % 2) and not (case.fickle and position % 4 in (1, 2)):
        return drawn
    gone = FieldPack(
        values=drawn.fields[RARE].values[:0],
        lengths=np.zeros(4, np.int32),
        grids=np.zeros((4, 2), np.int32),
        times=np.zeros(0, np.float32),
    )
    return dataclasses.replace(drawn, fields={**drawn.fields, RARE: gone})


def packs(case: Case, rank: int, world_size: int) -> Iterator[Pack]:
    for position in range(case.first * case.global_batch + rank, STEPS * case.global_batch, world_size):
        yield pack(position, case)


def make_network(settings: Recipe) -> Network:
    torch.manual_seed(0)
    return build_network(settings, {n: SPECS[n] for n in NAMES}, {"label": {"classes": CLASSES, "counts": (5, 3, 2)}})


def make_loop(case: Case, rank: int = 0, world_size: int = 1) -> Loop:
    settings = recipe(case)
    network = make_network(settings)
    if case.traced:
        Compiler(COMPILED.append, backend="aot_eager").apply(network)
    collectives = Collectives(torch.device("cpu"))
    distributed = distribute(Losses(network, settings), settings, world_size, half=case.half, collectives=collectives)
    return Loop(
        network=network,
        optimizer=make_optimizer(settings.optim, network),
        recipe=settings,
        num_steps=STEPS,
        device=torch.device("cpu"),
        rank=rank,
        world_size=world_size,
        distributed=distributed,
        collectives=collectives,
    )


class Ran(NamedTuple):
    """The loop, the loss of each step, and all metrics of the last."""

    loop: Loop
    losses: list[float]
    metrics: Mapping[str, float]


def run(case: Case, folder: Path, rank: int = 0, world_size: int = 1) -> Ran:
    """Run a case; a checkpoint is written half way where it asks for one."""
    loop = make_loop(case, rank, world_size)
    if case.load is not None:
        load_weights(folder / case.load, loop.network)
        load_optimizer(folder / case.load, loop.optimizer, loop.network)
    if case.unread:  # as on a GPU: the device itself looks whether there is a step to take
        loop.optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    losses = []
    for report in loop.steps(packs(case, rank, world_size), case.first):
        losses.append(report.loss)
        if case.save is not None and report.step == HALF:
            save_checkpoint(folder / case.save, loop.network, loop.optimizer, state(HALF))
        if report.step == case.last:
            break
    return Ran(loop, losses, report.metrics)


def state(step: int) -> RunState:
    return RunState(
        step=step,
        best_step=-1,
        best_value=0.0,
        evaluations_since_best=0,
        finished=False,
        recipe_digest="r",
        data_digest="d",
    )


def together(cases: Mapping[str, Case], folder: Path, world_size: int = 2) -> list[dict[str, Any]]:
    """Run cases on so many processes, one after the other; what each rank found, by case."""
    mp.spawn(work, args=(folder, cases, world_size), nprocs=world_size)  # type: ignore[no-untyped-call]
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(world_size)]


def work(rank: int, folder: Path, cases: Mapping[str, Case], world_size: int) -> None:
    """What each of the processes runs: all cases, one after the other."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=90))
    found: dict[str, Any] = {}
    for name, case in cases.items():
        COMPILED.clear()
        loop, losses, metrics = run(case, folder, rank, world_size)
        parameters = list(loop.network.parameters())
        found[name] = {"losses": losses, "sharded": sum(is_sharded(p) for p in parameters), "all": len(parameters)}
        found[name] |= {"metrics": dict(metrics), "memory": memory_peak(torch.device("cpu"))}
        found[name]["held"] = held(loop.optimizer) / sum(p.numel() for p in parameters if p.requires_grad)
        found[name]["compiled"], weights = len(COMPILED), whole_state(loop.network)
        if rank == 0:
            safetensors.torch.save_file(weights, folder / f"{name}.weights")
    (folder / f"found-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def held(optimizer: torch.optim.Optimizer) -> float:
    """Numbers that the optimizer's state keeps in the memory of this rank."""
    tensors = [t for slots in optimizer.state.values() for t in slots.values()]
    return sum((t.to_local() if is_sharded(t) else t).untyped_storage().nbytes() for t in tensors) / 4
