"""Time in collectives is that in which one is under way, and no host waits to note it."""

import pytest
import torch

from interlace.train.collectives import Busy, Collectives
from tests.fakecuda import DEVICE, fake_cuda


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1.0, 3.0)], 2.0),
        ([(1.0, 3.0), (2.0, 4.0)], 3.0),
        ([(2.0, 4.0), (1.0, 3.0)], 3.0),
        ([(1.0, 5.0), (2.0, 3.0)], 4.0),
        ([(1.0, 2.0), (4.0, 4.5)], 1.5),
    ],
)
def test_what_overlaps_counts_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert Busy(spans).seconds == pytest.approx(seconds)


def test_each_step_has_its_own() -> None:
    noted = Collectives(torch.device("cpu"))
    late = noted.begin()
    noted.begin()()
    first = noted.taken()
    late()  # of the step in which it began
    assert first.seconds > 0
    assert noted.taken().seconds == 0


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_a_device_is_asked_a_step_later() -> None:
    """An operation takes a millisecond here."""
    with fake_cuda() as device:
        x = torch.zeros(4, device=DEVICE)
        noted = Collectives(DEVICE)
        ends = []
        for _ in range(2):
            ends.append(noted.begin())
            x.add_(1)
        x.add_(1)
        ends[0]()
        x.add_(1)
        ends[1]()
        busy = noted.taken()
        assert not torch.cuda.Event.waited
        assert busy.seconds == pytest.approx(4e-3)
        assert torch.cuda.Event.waited
    assert device.ops == 5
