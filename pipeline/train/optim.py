"""Optimizers and learning-rate schedules."""

import math

import torch
from torch import nn

from pipeline.recipe import Optim


def make_optimizer(settings: Optim, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with momentum; only matrices are decayed.

    Vectors (gains, biases) and embedding-like tables of one row gain nothing from decay.
    """
    named = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in named if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in named if p.ndim < 2], "weight_decay": 0.0},
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
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
