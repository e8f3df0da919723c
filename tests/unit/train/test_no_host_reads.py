"""A training step on a GPU reads nothing back, on fake CUDA tensors: every fusion, task, modality and kernel."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from interlace import modalities
from interlace.contract.batch import move, to_batch
from interlace.model.fusions import FUSIONS
from interlace.model.network import Network
from interlace.recipe.recipe import Recipe
from interlace.tasks import TASKS
from interlace.train.build import build_network
from interlace.train.loop import Loop, Losses, autocast, seed_pack
from interlace.train.optim import make_optimizer
from interlace.train.report import StepReport
from interlace.train.transfer import AHEAD
from tests.everypart import made_modalities, pack_at, recipe_with, tasks_with
from tests.fakecuda import DEVICE, FakeCuda, WaitError, fake_cuda

PACKS = 6


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
