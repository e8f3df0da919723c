"""A training step on a GPU reads nothing back, on fake CUDA tensors: every fusion, task, modality and kernel."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from interlace import modalities
from interlace.contract.batch import to_batch
from interlace.model.fusions import FUSIONS
from interlace.model.network import Network
from interlace.recipe.recipe import Recipe
from interlace.tasks import TASKS
from interlace.train.build import build_network
from interlace.train.loop import Loop, Losses, autocast, seed_pack
from interlace.train.optim import make_optimizer
from interlace.train.report import StepReport
from tests.everypart import made_modalities, pack_at, recipe_with, tasks_with
from tests.fakecuda import DEVICE, FakeCuda, WaitError, fake_cuda


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
        launched, computed = [], []
        for report in loop.steps((pack_at(position, "mid") for position in range(6)), 0):
            launched.append(device.ops)
            computed.append(report.computed)
    assert [step for step, _ in read] == [1, 2, 3]
    assert [ops for _, ops in read] == [*launched[1:], launched[-1]]
    assert all(after - before > 1000 for before, after in pairwise(launched))
    assert [x.device for x in computed] == [DEVICE] * 3
    assert loop.wrong is not None
    assert loop.wrong.device == DEVICE
    assert made.state


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
    ],
    ids=["item", "tolist", "cpu", "bool", "mask", "nonzero", "copy that waits"],
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
    assert moved.is_cuda
    assert isinstance(device, FakeCuda)
