"""Optimizers, learning-rate schedules, and which part of the network learns how fast."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interlace.model.embedding import encoder_of
from interlace.model.fusion import key
from interlace.model.network import FIELD_PARTS
from interlace.recipe.fields import AnyField
from interlace.recipe.optim import Optim
from interlace.train.muon import Muon, hidden_matrices

RateFactor = Callable[[str], float]
"""From a parameter's name in the network to a factor of its learning rate."""


def make_optimizer(settings: Optim, network: nn.Module, factors: Sequence[RateFactor] = ()) -> torch.optim.Optimizer:
    """Muon with AdamW, AdamW (Loshchilov & Hutter 2019), Adam (Kingma & Ba 2015) or SGD with Nesterov momentum.

    Only matrices decay.

    Vectors (gains, biases) and embedding-like tables of one row gain nothing from decay. Frozen parameters are left
    out. Single numbers have groups of their own, since FSDP leaves them whole and kernels take either whole or sharded.

    Args:
        settings: name, rates, decay.
        network: after it was sharded, if it is.
        factors: of the learning rate, multiplied with each other and with that of `layer_decay`.
    """
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    factors = (layer_factors(named, settings.layer_decay), *factors)
    hidden = hidden_matrices(network) if settings.name == "muon" else {}
    groups: dict[tuple[float, int, int], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        factor = math.prod(f(name) for f in factors)
        groups.setdefault((factor, min(parameter.ndim, 2), hidden.get(parameter, 0)), []).append(parameter)
    made: list[dict[str, Any]] = [
        {"params": params, "factor": factor, "weight_decay": settings.weight_decay if ndim == 2 else 0.0}
        | ({"matrices": matrices} if matrices else {})
        for (factor, ndim, matrices), params in groups.items()
    ]
    if settings.name == "muon":
        betas = settings.beta1, settings.beta2
        return Muon(made, settings.momentum, lr=settings.lr, betas=betas, fused=True)
    if settings.name == "sgd":
        momentum = settings.beta1
        return torch.optim.SGD(made, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(made, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)


def layer_factors(names: Iterable[str], decay: float) -> RateFactor:
    """Rates that fall by `decay` for each layer nearer to the input (Clark et al. 2020, ELECTRA).

    As Bao et al. 2022 (BEiT) count: the input (embeddings, stems, clock) is depth 0, then come the layers within the
    fields, then those that fields share, and above them heads and whatever else the fusion learns, with factor 1.

    Args:
        names: of all parameters of the network.
        decay: 1 gives every parameter the factor 1.
    """
    places = {name: _place(name) for name in names}
    within = max((layer + 1 for part, layer in places.values() if part == "encoder"), default=0)
    shared = max((layer + 1 for part, layer in places.values() if part == "joint"), default=0)
    first = {"input": 0, "encoder": 1, "joint": 1 + within, "head": 1 + within + shared}
    return lambda name: decay ** (first["head"] - first[places[name][0]] - places[name][1])


def _place(name: str) -> tuple[str, int]:
    """Part of the network and layer in it."""
    if name.startswith(("embeddings.", "clock.")):
        return "input", 0
    layer = re.match(r"fusion\.(?:.+\.)?layers\.(?:\w+\.)?(\d+)\.", name)  # in one stack, or in one for each field
    if layer is None:
        return "head", 0
    return "encoder" if name.startswith("fusion.encoders.") else "joint", int(layer[1])


def learning_rate(settings: Optim, step: int, num_steps: int) -> float:
    """Rate of step `step` (from 0) of `num_steps`: linear warm-up, then the schedule."""
    warm = round(settings.warmup * num_steps)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    return settings.lr * SCHEDULES[settings.schedule](settings, step, warm, num_steps)


def _cosine(settings: Optim, step: int, warm: int, num_steps: int) -> float:
    """Half a cosine down to `final_share` (Loshchilov & Hutter 2017, without restarts)."""
    done = (step - warm) / max(num_steps - warm, 1)
    return settings.final_share + (1.0 - settings.final_share) * (1.0 + math.cos(math.pi * done)) / 2


def _linear(settings: Optim, step: int, warm: int, num_steps: int) -> float:
    return 1.0 - (1.0 - settings.final_share) * (step - warm) / max(num_steps - warm, 1)


def _constant(settings: Optim, step: int, warm: int, num_steps: int) -> float:
    return 1.0


def _inverse_sqrt(settings: Optim, step: int, warm: int, num_steps: int) -> float:
    """Vaswani et al. 2017, with `warm + 1` steps of warm-up and the peak as it is given."""
    return math.sqrt((warm + 1) / (step + 1))


def _step(settings: Optim, step: int, warm: int, num_steps: int) -> float:
    every = max(1, round(settings.step_share * num_steps))
    return settings.gamma ** ((step - warm) // every)


def _wsd(settings: Optim, step: int, warm: int, num_steps: int) -> float:
    """Warm-up, stable, decay (Hu et al. 2024, MiniCPM; linear as in Hägele et al. 2024)."""
    length = max(1, round(settings.decay_share * num_steps))
    done = max(0, step - (num_steps - length)) / length
    return 1.0 - (1.0 - settings.final_share) * done


SCHEDULES: dict[str, Callable[[Optim, int, int, int], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "inverse_sqrt": _inverse_sqrt,
    "step": _step,
    "wsd": _wsd,
    "plateau": _constant,
}
"""From settings, step, steps of warm-up and steps of the run to a share of the peak. `plateau` is the work of
`after_evaluation`."""


def after_evaluation(settings: Optim, scale: float, waited: int, *, improved: bool) -> tuple[float, int]:
    """What an evaluation does to the rate: with `plateau`, a fall by `gamma` after more than `patience` without gain.

    Args:
        settings: `schedule`, `gamma`, `patience`, `final_share`.
        scale: factor of the rate before the evaluation.
        waited: evaluations without improvement since the last improvement or fall.
        improved: whether this one was the best so far.

    Returns:
        `scale` and `waited` after it.
    """
    if settings.schedule != "plateau":
        return scale, waited
    waited = 0 if improved else waited + 1
    if waited <= settings.patience:
        return scale, waited
    return max(scale * settings.gamma, settings.final_share), 0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def update_unless(wrong: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Move the weights, unless `wrong` (bool, a single number): then they and the optimizer's state stay as they are.

    On a GPU it is not read: kernels skip the update themselves, asked as `torch.amp.GradScaler` does.
    """
    if wrong.device.type == "cpu":
        if not wrong:
            optimizer.step()
        return
    optimizer.found_inf = wrong.float()  # type: ignore[attr-defined]
    optimizer.step()


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
