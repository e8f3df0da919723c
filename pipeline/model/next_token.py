"""Cross entropy of a linear layer's outputs over a vocabulary, whose logits are never held as a whole in float32.

In: states and the output matrix. Out: the summed loss. The forward pass already puts the gradient of the logits in
their place, in the autocast type and a few rows at a time (Hsu et al. 2024, Liger Kernel): what is in float32 stays in
the cache.
"""

# T rows, D width, V ids, R rows of a part

from typing import Any

import torch
from torch import Tensor

ABSENT = -100
"""Target of rows that have none; what torch's cross entropy leaves out."""

PART_ROWS = 64
"""Rows at once on a CPU: 64 x 4,000 logits are 1 MB."""

GPU_PART_NUMBERS = 1 << 24
"""Logits at once on a GPU, 64 MB in float32: a dozen kernels a part, of which 64 rows each would be too small."""


def part_rows(ids: int, device: torch.device) -> int:
    """Rows whose logits are in float32 at once, of a vocabulary of so many ids."""
    return PART_ROWS if device.type == "cpu" else max(PART_ROWS, GPU_PART_NUMBERS // ids)


def vocabulary_loss(x_TD: Tensor, out_VD: Tensor, wanted_T: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The sum over rows of the cross entropy of `x_TD @ out_VD.T`, float32.

    As `torch.nn.functional.cross_entropy(..., reduction="sum")`; the product is taken in the autocast type. A gradient
    of the gradient is not there.

    Args:
        x_TD: states, any float dtype.
        out_VD: output matrix.
        wanted_T: the id of each row, int64, or `ABSENT`.
        label_smoothing: share of the target that is spread evenly over all ids.
    """
    kind = x_TD.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x_TD, out_VD = x_TD.to(dtype), out_VD.to(dtype)
    loss: Tensor = _VocabularyLoss.apply(x_TD, out_VD, wanted_T, label_smoothing)  # type: ignore[no-untyped-call]
    return loss


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, out_VD: Tensor, wanted_T: Tensor, smoothing: float) -> Tensor:
        logits_TV = x_TD @ out_VD.T
        total = torch.zeros((), device=x_TD.device)
        rows = part_rows(len(out_VD), x_TD.device)
        parts = (torch.split(x, rows) for x in (logits_TV, wanted_T))
        for logits_RV, wanted_R in zip(*parts, strict=True):
            counts_R1, wanted_R1 = (wanted_R != ABSENT).unsqueeze(1), wanted_R.clamp(min=0).unsqueeze(1)
            x_RV = logits_RV.float()
            x_RV.sub_(x_RV.amax(1, keepdim=True))
            said_R1 = (1 - smoothing) * x_RV.gather(1, wanted_R1) + smoothing * x_RV.mean(1, keepdim=True)
            sums_R1 = x_RV.exp_().sum(1, keepdim=True)  # `log_softmax` and `exp` take twice as long
            loss_R1 = sums_R1.log() - said_R1
            total += loss_R1.mul_(counts_R1).sum()
            probs_RV = x_RV.div_(sums_R1).sub_(smoothing / len(out_VD))
            probs_RV.scatter_add_(1, wanted_R1, torch.full_like(loss_R1, smoothing - 1))
            all_count = x_TD.device.type == "cpu" and bool(counts_R1.all())  # a GPU multiplies sooner than it is asked
            logits_RV.copy_(probs_RV if all_count else probs_RV.mul_(counts_R1))
        ctx.save_for_backward(x_TD, out_VD, logits_TV)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_TD, out_VD, dlogits_TV = ctx.saved_tensors
        return (dlogits_TV @ out_VD).mul_(grad), (dlogits_TV.T @ x_TD).mul_(grad), None, None
