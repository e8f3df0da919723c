"""What tests on a GPU share: the device, networks and packs. Without CUDA they are skipped, and say so.

`INTERLACE_GPU_DEVICE=cpu` runs them on a CPU all the same: a rehearsal, in which the CPU is compared with itself.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.stored import Stored, write

DEVICE, PARTS = "INTERLACE_GPU_DEVICE", "INTERLACE_GPU_PARTS"
"""Environment: where to run, and a folder of networks and packs written beforehand."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU."""
    wanted = torch.device(os.environ.get(DEVICE, "cuda"))
    if wanted.type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"needs a GPU: torch {torch.__version__} sees none ({DEVICE}=cpu rehearses on a CPU)")
    return wanted


@pytest.fixture(scope="session")
def stored(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Networks and packs, read from files."""
    folder = Path(os.environ[PARTS]) if PARTS in os.environ else tmp_path_factory.mktemp("parts")
    if PARTS not in os.environ:
        write(folder)
    return Stored(folder=folder)


@pytest.fixture(autouse=True)
def _as_compared() -> Iterator[None]:
    """Convolutions in fp32 where it is asked for, not in TF32, of 10 bits; one thread, which is quicker here."""
    before = torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_num_threads(before[1])
