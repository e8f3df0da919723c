"""A training step on a GPU reads nothing back, on fake CUDA tensors: every fusion, task, modality and kernel."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from interlace import modalities
from interlace.contract.batch import move, to_batch
from interlace.contract.sample import FieldPack, Pack, TargetPack
from interlace.modalities.base import Modality
from interlace.modalities.laws import learn
from interlace.model.fusions import FUSIONS
from interlace.model.network import Network
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.tasks import TASKS
from interlace.train.build import build_network
from interlace.train.loop import Loop, Losses, autocast, seed_pack
from interlace.train.optim import make_optimizer
from interlace.train.report import StepReport
from interlace.train.transfer import AHEAD
from tests.fakecuda import DEVICE, FakeCuda, WaitError, fake_cuda
from tests.unit.modalities.test_laws import PICTURES, READINGS, SOUNDS
from tests.unit.tasks.test_task_laws import CLASSES, NUMBERS, class_of, classes_of, number_of, text_of

WORDS = [("some text",), ("",), ("and more",)]
FIELDS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "picture": ({"modality": "image", "column": "c", "max_size": 24, "stem": "cnn"}, PICTURES),
    "photo": ({"modality": "image", "column": "c", "max_size": 24, "stem": "linear"}, PICTURES),
    "sound": ({"modality": "audio", "column": "c", "rate_hz": 8000, "stem": "cnn"}, SOUNDS),
    "words": ({"modality": "text", "column": "c", "stem": "rnn"}, WORDS),
    "letters": ({"modality": "text", "column": "c", "tokenizer": "characters", "stem": "cnn"}, WORDS),
    "numbers": ({"modality": "table", "numbers": ["a", "b"]}, [(1.5, None), (0.1, 7), (0.2, 3)]),
    "curve": ({"modality": "series", "channels": ["a", "b"], "stem": "cnn"}, [([1.5, None], [2, 3]), ([0.1], None)]),
    "readings": ({"modality": "series", "time": "t", "channel": "c", "value": "v"}, READINGS),
}
"""Settings of each field, and values of it."""

CLASSIFICATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "label": ({"task": "classification", "column": "c", "mixup": 0.2, "label_smoothing": 0.1}, CLASSES, class_of),
    "labels": ({"task": "classification", "column": "d", "multi_label": True}, CLASSES, classes_of),
}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "number": ({"task": "regression", "columns": ["n"]}, NUMBERS, number_of),
    "pair": ({"task": "retrieval", "left": ["picture"], "right": ["words", "curve"], "group": "g"}, {}, class_of),
    "fill": ({"task": "reconstruction", "fields": ["photo", "letters"]}, {}, None),
    "text": (
        {"task": "generation", "column": "t", "layers": 1, "ctc_field": "sound", "ctc_weight": 0.5}, {}, text_of,
    ),
}  # fmt: skip
"""Settings of each task, what its target learned, and what draws a target."""
SAMPLES, PACKS = 6, 6


def tasks_with(fusion: str) -> dict[str, tuple[dict[str, Any], dict[str, Any], Any]]:
    """All tasks that a fusion takes: only some predict from votes, and CTC needs layers within its field."""
    found = CLASSIFICATIONS if fusion == "decision" else CLASSIFICATIONS | OTHERS
    unfit = {"decision": ("mixup",), "early": ("ctc_field", "ctc_weight")}.get(fusion, ())
    return {
        name: ({k: v for k, v in settings.items() if k not in unfit}, *rest)
        for name, (settings, *rest) in found.items()
    }


def recipe_with(fusion: str, precision: str, optimizer: str = "adamw", negatives: str = "pack") -> Recipe:
    fusion, _, query = fusion.partition(" by ")
    tasks = {name: settings for name, (settings, *_) in tasks_with(fusion).items()}
    if "pair" in tasks:
        tasks["pair"] = tasks["pair"] | {"negatives": negatives}
    return parse_recipe(
        {
            "name": "reads",
            "data": {"train": {"paths": ["none.parquet"]}},
            "fields": {name: settings for name, (settings, _) in FIELDS.items()},
            "tasks": tasks,
            "model": {
                "dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1, "dropout": 0.1,
                "modality_dropout": 0.2, "fusion": fusion, "query": query or None,
            },
            "optim": {"task_weighting": "uncertainty", "name": optimizer, "ema": 0.9},
            "batch": {"global_batch": 2},
            "train": {"steps": 3, "precision": precision},
        }
    )  # fmt: skip


@functools.cache
def made_modalities() -> Mapping[str, Modality]:
    settings = recipe_with("mid", "fp32").fields
    learned = {n: learn(functools.partial(modalities.learner, settings[n]), [FIELDS[n][1]]) for n in FIELDS}
    return {n: modalities.make(n, settings[n], state) for n, state in learned.items()}


def pack_at(position: int, fusion: str) -> Pack:
    """Samples with gaps: of each field the values in turn, of each task a target but for the last sample."""
    rng = np.random.default_rng(position)
    fields = {}
    for number, (name, made) in enumerate(made_modalities().items()):
        values = FIELDS[name][1]
        there = [(s + number) % 4 > 0 for s in range(SAMPLES)]
        tokens = [made.encode(made.decode(values[s % len(values)])) if t else None for s, t in enumerate(there)]
        given = [t for t in tokens if t is not None]
        fields[name] = FieldPack(
            values=np.concatenate([t.values for t in given]),
            lengths=np.array([0 if t is None else len(t.values) for t in tokens], np.int32),
            grids=np.array([(0, 0) if t is None else t.grid for t in tokens], np.int32),
            times=np.concatenate([t.times for t in given]) if made.spec.clocked else None,
        )
    targets = {}
    for name, (_, _, draw) in tasks_with(fusion).items():
        if draw is not None:
            drawn = [draw(rng) for _ in range(SAMPLES - 1)]
            lengths = np.array([*map(len, drawn), 0], np.int32)
            targets[name] = TargetPack(
                values=np.concatenate(drawn), lengths=lengths, present=np.arange(SAMPLES) < SAMPLES - 1
            )
    ids = np.arange(SAMPLES, dtype=np.int64)
    return Pack(position=position, epoch=0, sample_ids=ids, fields=fields, targets=targets)


def network_of(recipe: Recipe, fusion: str) -> Network:
    """On the fake device."""
    specs = {name: made.spec for name, made in made_modalities().items()}
    torch.manual_seed(0)
    network = build_network(recipe, specs, {n: fitted for n, (_, fitted, _) in tasks_with(fusion).items()})
    return network.train()


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.parametrize(
    ("fusion", "precision"),
    [*((fusion, "bf16") for fusion in FUSIONS), ("cross_attention by words", "fp32"), ("mid", "fp32")],
)
def test_a_step_reads_nothing_back(fusion: str, precision: str) -> None:
    recipe = recipe_with(fusion, precision)
    network = network_of(recipe, fusion)
    with fake_cuda() as device:
        losses = Losses(network.to(DEVICE, non_blocking=True), recipe)
        batch = to_batch(pack_at(0, fusion), DEVICE)
        counts = {name: float(task.count(batch)) for name, task in network.tasks.items()}
        seed_pack(0, 0)
        with autocast(recipe, DEVICE):
            loss, by_task = losses(batch, counts)
        loss.backward()
    assert all(counts.values())
    assert loss.device == by_task.device == DEVICE
    assert len(by_task) == len(tasks_with(fusion))
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    assert device.ops > 1000
    assert (torch.ops.torch_attn._varlen_attn.default in device.kinds) == (precision == "bf16")


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
@pytest.mark.parametrize(
    "optimizer",
    ["adamw", "muon", pytest.param("adam", marks=pytest.mark.slow), pytest.param("sgd", marks=pytest.mark.slow)],
)
def test_a_step_is_launched_before_the_one_before_is_read(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through clipping, the check for finite numbers and the update; values aren't there, so the read is noted only."""
    recipe = recipe_with("mid", "bf16", optimizer)
    network = network_of(recipe, "mid")
    read: list[tuple[int, int]] = []
    with fake_cuda() as device:
        network.to(DEVICE, non_blocking=True)
        made = make_optimizer(recipe.optim, network)
        loop = Loop(network=network, optimizer=made, recipe=recipe, num_steps=3, device=DEVICE)
        monkeypatch.setattr(StepReport, "numbers", property(lambda self: read.append((self.step, device.ops))))
        device.crossed.clear()
        launched, sent, reports = [], [], []
        for report in loop.steps((pack_at(position, "mid") for position in range(PACKS)), 0):
            launched.append(device.ops)
            sent.append(sum(stream is not device.stream for stream, *_ in device.crossed))
            reports.append(report)
        reports[0].computed.numbers()
        waited = torch.cuda.Event.waited[-1]
        seconds = {name: sum(s.seconds or 0 for s in spans) for name, spans in reports[1].spans.items()}
    assert sent == [2 * (i + 1) + AHEAD for i in range(2)] + [PACKS], "packs of the steps so far, and those ahead"
    assert waited.ops <= launched[0], "what came later is not waited for"
    assert 0 < seconds["data/transfer_s"] < 1 < seconds["train/compute_s"], "an operation takes a millisecond here"
    check_crossings(device)
    assert [step for step, _ in read] == [1, 2, 3]
    assert [ops for _, ops in read] == [*launched[1:], launched[-1]]
    assert all(after - before > 1000 for before, after in pairwise(launched))
    assert loop.wrong is not None
    assert loop.wrong.device == DEVICE
    assert made.state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_several_ranks_read_nothing_back_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is one in name: what goes between devices lies on the device, what goes between hosts on the CPU."""
    recipe = recipe_with("mid", "bf16", "muon", negatives="ranks")
    network = network_of(recipe, "mid")
    monkeypatch.setattr("interlace.contract.ranks.host_group", lambda: None)
    monkeypatch.setattr(StepReport, "numbers", property(lambda self: None))
    with ranks_in_name(2), fake_cuda():
        losses = Losses(network.to(DEVICE, non_blocking=True), recipe)
        made = make_optimizer(recipe.optim, network)
        loop = Loop(
            network=network, optimizer=made, recipe=recipe, num_steps=2, device=DEVICE, world_size=2, distributed=losses
        )
        exchanged = sent_to_others(monkeypatch)
        reports = list(loop.steps((pack_at(position, "mid") for position in (0, 2)), 0))
    assert [report.over_ranks for report in reports] == [True, True]
    assert exchanged["cuda"] >= 2 * (1 + 2), "losses, and embeddings in both directions"
    assert exchanged["cpu"] == 2 * 3, "counts, the longest pack, and what hosts know"


@contextmanager
def ranks_in_name(world_size: int) -> Iterator[None]:
    """A group whose other ranks never say anything."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sent_to_others(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is exchanged, by where it lies."""
    found: Counter[str] = Counter()

    def all_reduce(tensor: torch.Tensor, *_: object, **__: object) -> None:
        found[tensor.device.type] += 1

    def all_gather(parts: list[torch.Tensor], tensor: torch.Tensor) -> None:
        found[tensor.device.type] += 1

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    return found


def check_crossings(device: FakeCuda) -> None:
    """Packs crossed on a stream of their own, each by one copy, and the stream of the steps waited for every one."""
    assert all(pinned for *_, pinned in device.crossed), "memory that is not pinned makes the host wait"
    apart = [(stream, size) for stream, size, _ in device.crossed if stream is not device.stream]
    assert len({stream for stream, _ in apart}) == 1
    arrays = [
        [x for f in pack_at(i, "mid").fields.values() for x in (f.values, f.times) if x is not None] for i in range(6)
    ]
    assert [size for _, size in apart] == [sum(-(-x.nbytes // 256) * 256 for x in own) for own in arrays]
    assert [event.stream for event in device.stream.waits] == [stream for stream, _ in apart]
    assert len(device.stream.kept) == sum(map(len, arrays)), "memory may be given away while a step reads it"


def test_every_part_that_there_is_takes_part() -> None:
    recipe = recipe_with("mid", "fp32")
    assert {field.modality for field in recipe.fields.values()} == set(modalities.MODALITIES)
    assert {task.task for task in recipe.tasks.values()} == set(TASKS)
    assert {field.stem for field in recipe.fields.values()} == {"linear", "cnn", "rnn"}


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0, 2.0]).to(x.device),
        lambda x: torch.empty(3).copy_(x, non_blocking=True),
        lambda x: torch.empty(3, pin_memory=True).copy_(x),
    ],
    ids=["item", "tolist", "cpu", "bool", "mask", "nonzero", "copy that waits", "copy to pageable", "back and wait"],
)
def test_a_read_is_seen(read: Any) -> None:
    with fake_cuda():
        x = torch.rand(3, device=DEVICE)
        with pytest.raises((WaitError, RuntimeError)):
            read(x)


def test_what_lies_on_the_cpu_may_be_read() -> None:
    with fake_cuda() as device:
        assert torch.arange(3).tolist() == [0, 1, 2]
        moved = torch.arange(3).to(DEVICE, non_blocking=True)
        move(torch.arange(3), DEVICE)
        torch.empty(3, pin_memory=True).copy_(torch.rand(3, device=DEVICE), non_blocking=True)
    assert moved.is_cuda
    assert [pinned for *_, pinned in device.crossed] == [False, True]
    assert isinstance(device, FakeCuda)
