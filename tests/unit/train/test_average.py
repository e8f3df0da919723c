"""Laws of the running average of weights."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from interlace.contract.errors import CheckpointError
from interlace.train.average import WeightAverage, blend, decay_at
from interlace.train.checkpoint import MODEL, TRAINED, RunState, load_training, load_weights, save_checkpoint, verify
from tests.fakecuda import DEVICE, fake_cuda


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def train(net: nn.Module, average: WeightAverage, steps: int) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        average.update(step)
    return optimizer


def state() -> RunState:
    return RunState(
        step=3, best_step=-1, best_value=0.0, evaluations_since_best=0, finished=False, recipe_digest="", data_digest=""
    )


def test_average_equals_torchs_own_once_warm() -> None:
    net = network()
    ours, theirs = WeightAverage(net, 0.5), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    theirs.update_parameters(net)  # its first call copies
    for step in range(20, 30):
        train(net, WeightAverage(net, 0.5), 1)
        ours.update(step)
        theirs.update_parameters(net)
    for name, tensor in theirs.module.named_parameters():
        torch.testing.assert_close(ours.tensors()[name], tensor.detach())
        assert not ours.tensors()[name].equal(net.get_parameter(name))


def test_decay_grows_from_little_to_its_setting() -> None:
    decays = [decay_at(0.9, step) for step in range(1, 200)]
    assert decays[0] == pytest.approx(2 / 11)
    assert decays == sorted(decays)
    assert decays[-1] == 0.9


def test_the_random_start_is_forgotten_early() -> None:
    net = network()
    average = WeightAverage(net, 0.999)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(2.0)
    for step in range(1, 41):
        average.update(step)
    for tensor in average.tensors().values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 2.0), rtol=0.01, atol=0.0)
    assert 0.999**40 > 0.9, "a constant decay would have kept the start"


@pytest.mark.parametrize("wrong", [False, True])
def test_a_device_takes_in_what_a_cpu_does_and_nothing_of_a_skipped_step(wrong: bool) -> None:
    """By the share on the device, which nobody reads, against the branch of a CPU."""
    net = network()
    ours, there = WeightAverage(net, 0.9), [p.detach().clone() for p in net.parameters()]
    before = [x.clone() for x in there]
    train(net, WeightAverage(net, 0.9), 3)
    ours.update(3, torch.tensor(wrong))
    blend(there, [p.detach() for p in net.parameters()], torch.where(torch.tensor(wrong), 0.0, 1.0 - decay_at(0.9, 3)))
    for found, expected, old in zip(there, ours.tensors().values(), before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(found, old) == torch.equal(expected, old) == wrong


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_a_device_is_not_asked_whether_a_step_was_skipped() -> None:
    with fake_cuda() as device:
        net = nn.Linear(4, 3).to(DEVICE, non_blocking=True)
        average = WeightAverage(net, 0.9)
        taken = device.ops
        average.update(1, torch.zeros((), dtype=torch.bool, device=DEVICE))
    assert torch.ops.aten._foreach_mul_.Tensor in device.kinds
    assert device.ops > taken


def test_applied_averages_are_taken_back_even_after_an_error() -> None:
    net = network()
    average = WeightAverage(net, 0.9)
    train(net, average, 3)
    own = {k: v.clone() for k, v in net.state_dict().items()}
    kept = {k: v.clone() for k, v in average.tensors().items()}
    inside: list[bool] = []

    def fail() -> None:
        with average.applied():
            inside.extend(net.get_parameter(k).equal(v) for k, v in kept.items())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside
    assert all(inside)
    assert all(v.equal(own[k]) for k, v in net.state_dict().items())
    assert all(v.equal(kept[k]) for k, v in average.tensors().items())
    assert any(not v.equal(own[k]) for k, v in kept.items())


def test_the_average_is_the_model_of_a_checkpoint_and_training_goes_on_with_the_weights(tmp_path: Path) -> None:
    net = network()
    average = WeightAverage(net, 0.9)
    optimizer = train(net, average, 3)
    folder = tmp_path / "step"
    save_checkpoint(folder, net, optimizer, state(), average)
    kept = network(1)
    load_weights(folder, kept)
    assert all(kept.get_parameter(k).equal(v) for k, v in average.tensors().items())
    assert kept.get_buffer("1.running_mean").equal(net.get_buffer("1.running_mean"))
    again = network(1)
    second = WeightAverage(again, 0.9)
    load_training(folder, again, torch.optim.AdamW(again.parameters()), second)
    assert all(v.equal(net.state_dict()[k]) for k, v in again.state_dict().items())
    assert all(v.equal(average.tensors()[k]) for k, v in second.tensors().items())
    assert set(safetensors.torch.load_file(folder / MODEL)) == set(net.state_dict())


def test_damaged_weights_beside_an_average_are_refused(tmp_path: Path) -> None:
    net = network()
    average = WeightAverage(net, 0.9)
    save_checkpoint(tmp_path / "step", net, train(net, average, 1), state(), average)
    assert verify(tmp_path / "step") == state()
    path = tmp_path / "step" / TRAINED
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"trained\.safetensors is damaged"):
        verify(tmp_path / "step")
