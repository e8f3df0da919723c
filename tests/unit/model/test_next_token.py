"""The fused loss over a vocabulary against torch's."""

import pytest
import torch
from torch.nn import functional

from interlace.model.next_token import ABSENT, PART_ROWS, part_rows, vocabulary_loss
from tests.fakecuda import DEVICE, fake_cuda


def draw(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, output matrix and targets, a fifth of them absent."""
    generator = torch.Generator().manual_seed(rows)
    x_TD, out_VD = torch.randn(rows, 16, generator=generator), torch.randn(50, 16, generator=generator)
    wanted_T = torch.randint(50, (rows,), generator=generator)
    absent_T = torch.rand(rows, generator=generator) < 0.2
    return x_TD.requires_grad_(), out_VD.requires_grad_(), wanted_T.masked_fill(absent_T, ABSENT)


def plain(x_TD: torch.Tensor, out_VD: torch.Tensor, wanted_T: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The same by torch, with all logits at once."""
    logits_TV = functional.linear(x_TD, out_VD).float()
    return functional.cross_entropy(logits_TV, wanted_T, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, PART_ROWS, 2 * PART_ROWS + 3])
def test_loss_and_gradients_are_those_of_cross_entropy(rows: int, smoothing: float):
    x_TD, out_VD, wanted_T = draw(rows)
    loss, expected = (f(x_TD, out_VD, wanted_T, smoothing) for f in (vocabulary_loss, plain))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    found, wanted = (torch.autograd.grad(3 * value, (x_TD, out_VD)) for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    absent_T = wanted_T == ABSENT
    assert not found[0][absent_T].any()
    assert rows == 1 or (absent_T.any() and found[0][~absent_T].any(1).all())


def test_a_gpu_computes_large_parts() -> None:
    """One part of 4,096 rows takes some 40 operations, 64 parts would take two thousand."""
    with fake_cuda() as device:
        x_TD, out_VD = torch.randn(4096, 16, device=DEVICE), torch.randn(4000, 16, device=DEVICE)
        before = device.ops
        vocabulary_loss(x_TD, out_VD, torch.zeros(4096, dtype=torch.int64, device=DEVICE))
        assert device.ops - before < 60
    assert part_rows(4000, DEVICE) == 4194
    assert part_rows(1 << 24, DEVICE) == part_rows(4000, torch.device("cpu")) == PART_ROWS


def test_autocast_takes_the_product_in_half_precision_and_gives_float32_gradients():
    x_TD, out_VD, wanted_T = draw(100)
    with torch.autocast("cpu", torch.bfloat16):
        loss, expected = (f(x_TD, out_VD, wanted_T, 0.1) for f in (vocabulary_loss, plain))
    assert loss.dtype == torch.float32
    assert loss != vocabulary_loss(x_TD, out_VD, wanted_T, 0.1)  # it was rounded
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    found, wanted = (torch.autograd.grad(value, (x_TD, out_VD)) for value in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


def test_rows_without_a_target_and_no_rows_at_all_cost_nothing():
    x_TD, out_VD, wanted_T = draw(70)
    nothing = torch.full_like(wanted_T, ABSENT)
    assert vocabulary_loss(x_TD, out_VD, nothing, 0.1) == 0
    assert vocabulary_loss(x_TD[:0], out_VD, wanted_T[:0], 0.1) == 0
    assert vocabulary_loss(x_TD, out_VD, wanted_T, 0.1) > 0
