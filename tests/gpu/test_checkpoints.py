"""A run that moves between a CPU and a GPU goes on as if it had stayed where it began."""

from pathlib import Path

import pytest
import torch

from interlace.train.checkpoint import verify
from tests.gpu.runs import CPU, STEPS, Run
from tests.gpu.stored import Stored

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_goes_from_cpu_to_gpu_and_back(
    optimizer: str, stored: Stored, device: torch.device, tmp_path: Path
) -> None:
    made = stored.made("mid", f"optim.name={optimizer}")
    stayed = Run(stored, made, CPU).to(STEPS)
    moved = Run(stored, made, CPU).to(7).goes_on_at(device, tmp_path / "a").to(14)
    moved = moved.goes_on_at(CPU, tmp_path / "b").to(STEPS)
    assert moved.losses == pytest.approx(stayed.losses, abs=1e-4, rel=1e-4)
    assert verify(tmp_path / "b").step == 14


def test_a_run_goes_from_gpu_to_cpu_and_back(stored: Stored, device: torch.device, tmp_path: Path) -> None:
    made = stored.made("bottleneck")
    stayed = Run(stored, made, device).to(STEPS)
    moved = Run(stored, made, device).to(7).goes_on_at(CPU, tmp_path / "a").to(14)
    moved = moved.goes_on_at(device, tmp_path / "b").to(STEPS)
    assert moved.losses == pytest.approx(stayed.losses, abs=1e-4, rel=1e-4)
    assert moved.loop.average is not None


def test_a_checkpoint_holds_the_same_whatever_device_read_it(
    stored: Stored, device: torch.device, tmp_path: Path
) -> None:
    run = Run(stored, stored.made("mid"), CPU).to(2)
    there = run.goes_on_at(device, tmp_path / "a")
    there.save(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").glob("*.safetensors"))
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
