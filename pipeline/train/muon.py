"""Muon (Jordan et al. 2024): hidden matrices are moved by an orthogonalised momentum, everything else by AdamW.

The momentum of a matrix is replaced by the nearest (half) orthogonal one, so that directions which gradients hardly
touch are learned as fast as those they dwell on. Its rate has the scale of Liu et al. 2025 (Moonlight), with which an
update is as large as AdamW's (root mean square 0.2), so that `lr` and `weight_decay` mean the same for both parts.

torch's own `Muon` takes neither convolutions nor sharded weights, and sees queries, keys and values as one matrix.
"""

# R rows, C columns of a matrix

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from interlace.model.transformer import Block
from interlace.train.parallel import is_sharded, own_rows, rows_like

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Jordan's quintic iteration: after five steps singular values lie between about 0.7 and 1.2."""

RMS = 0.2
"""Root mean square of an update of AdamW in the course of a training (Liu et al. 2025)."""

SLOT = "momentum"


def hidden_matrices(network: nn.Module) -> dict[Tensor, int]:
    """Parameters that are matrices between hidden states, with the number of matrices that lie in each one below other.

    Those of Transformer layers and the convolutions of stems. Tables of vectors, heads and projections of values to the
    model's width are not: what goes in or comes out there are single ids, classes or values, not directions.
    """
    found: dict[Tensor, int] = {}
    for module in network.modules():
        if isinstance(module, Block):
            for name, layer in module.named_modules():
                if isinstance(layer, nn.Linear):
                    found[layer.weight] = JOINED.get(name, 1)
        elif isinstance(convolutions := getattr(module, "convolutions", None), nn.ModuleList):
            found |= {layer.get_parameter("weight"): 1 for layer in convolutions}
    return {p: count for p, count in found.items() if p.requires_grad}


JOINED = {"qkv": 3, "key_value": 2, "cross_kv": 2}
"""Layers that compute several projections at once, each of which is a matrix of its own."""


class Muon(torch.optim.AdamW):
    """AdamW in which groups with a number `matrices` are moved by Muon.

    Args:
        groups: as of AdamW; `matrices` is how many matrices of equal size lie in each parameter of the group, one
            below the other. Weights of convolutions `[out, in, h, w]` are matrices of `out` rows.
        momentum: decay of the average of gradients; with Nesterov's look ahead.
        settings: of AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float, **settings: Any) -> None:
        super().__init__([{"matrices": 0, **group} for group in groups], **settings)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; none where `found_inf`, if it was set, is not 0."""
        assert closure is None
        every = self.param_groups
        self.param_groups = [group for group in every if not group["matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = every
        for group in every:
            if group["matrices"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._turn(parameter, parameter.grad, group)

    def _turn(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if SLOT not in state:
            state[SLOT] = torch.zeros_like(grad)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None:
            self._turn_unread(parameter, grad, group, found_inf != 0)
            return
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        # An update is as large for a small gradient: matrices of a field that the step lacks must stay where they are.
        if not whole(grad.norm()):
            return
        state[SLOT].lerp_(grad, 1.0 - self.momentum)
        ahead = whole(grad.lerp(state[SLOT], self.momentum))
        pieces = [update(piece) for piece in ahead.flatten(1).chunk(group["matrices"])]
        change = rows_like(torch.cat(pieces).view(ahead.shape), parameter)
        parameter.sub_(change, alpha=group["lr"])

    def _turn_unread(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any], wrong: Tensor) -> None:
        """As `_turn`, but what it depends on is decided on the device."""
        momentum, lr = self.state[parameter][SLOT], group["lr"]
        still = wrong | (whole(grad.norm()) == 0)
        own, own_momentum, own_grad = (own_rows(x) for x in (parameter, momentum, grad))
        own.mul_(torch.where(wrong, 1.0, 1.0 - lr * group["weight_decay"]))
        own_momentum.copy_(torch.where(still, own_momentum, own_momentum.lerp(own_grad, 1.0 - self.momentum)))
        ahead = whole(grad.lerp(momentum, self.momentum))
        change = torch.cat([update(piece) for piece in ahead.flatten(1).chunk(group["matrices"])]).view(ahead.shape)
        own.sub_(torch.where(still, 0.0, own_rows(rows_like(change, parameter))), alpha=lr)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the rows of all ranks; all must call it together."""
    gathered: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return gathered


def update(momentum_RC: Tensor) -> Tensor:
    """What a matrix is moved by at a rate of one, in its own dtype."""
    return orthogonalised(momentum_RC).to(momentum_RC.dtype) * (RMS * math.sqrt(max(momentum_RC.shape)))


def orthogonalised(matrix_RC: Tensor) -> Tensor:
    """About `U V^T` of a matrix `U S V^T`, in bfloat16, by Newton-Schulz iteration; zeros stay zeros."""
    a, b, c = COEFFICIENTS
    wide = matrix_RC if len(matrix_RC) <= matrix_RC.size(1) else matrix_RC.T
    x = wide.bfloat16()
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix_RC else x.T
