"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from pipeline.fields import AnyField
from pipeline.model.embedding import encoder_of
from pipeline.model.fusion import key
from pipeline.model.network import FIELD_PARTS
from pipeline.recipe import Optim

RateFactor = Callable[[str], float]
"""From a parameter's name in the network to a factor of its learning rate."""


def make_optimizer(settings: Optim, network: nn.Module, factors: Sequence[RateFactor] = ()) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with momentum; only matrices are decayed.

    Vectors (gains, biases) and embedding-like tables of one row gain nothing from decay. Frozen parameters are left
    out. Learning rates are multiplied with the product of `factors`.
    """
    parts: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            parts.setdefault((math.prod(f(name) for f in factors), p.ndim >= 2), []).append(p)
    groups = [
        {"params": params, "factor": factor, "weight_decay": settings.weight_decay if matrix else 0.0}
        for (factor, matrix), params in parts.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.beta1, nesterov=settings.beta1 > 0)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)


def learning_rate(settings: Optim, step: int, num_steps: int) -> float:
    """Rate of step `step` (from 0) of `num_steps`: linear warm-up, then the schedule down to `final_share`."""
    warm = round(settings.warmup * num_steps)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    done = (step - warm) / max(num_steps - warm, 1)
    if settings.schedule == "constant":
        share = 1.0
    elif settings.schedule == "linear":
        share = 1.0 - (1.0 - settings.final_share) * done
    else:
        share = settings.final_share + (1.0 - settings.final_share) * (1.0 + math.cos(math.pi * done)) / 2
    return settings.lr * share


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def rate_factor(fields: Mapping[str, AnyField]) -> RateFactor:
    """What the fields' settings say: `lr_factor` for all that a field has to itself, 1 for what fields share.

    The model inside a pretrained encoder has that of the encoder besides.
    """
    known = [(f"{part}.{key(name)}.", field.lr_factor) for name, field in fields.items() for part in FIELD_PARTS]
    known += [
        (f"embeddings.{key(name)}.content.model.", encoder.lr_factor)
        for name, field in fields.items()
        if (encoder := encoder_of(field)) is not None
    ]
    return lambda name: math.prod(factor for prefix, factor in known if name.startswith(prefix))
