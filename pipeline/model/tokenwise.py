"""What layers compute of each token by itself, as functions of tensors, so that layers share what is compiled.

Attention mixes tokens and stays outside: it is a kernel of its own, and how it is laid out differs from pack to pack.
Random draws stay outside too, so that they are the same whether a function is compiled or not.
"""

# T rows of the sequence (tokens, then slack: see `attention`), D width, M width of the result of a matrix

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

Norm: TypeAlias = tuple[Tensor, Tensor]
"""Gain and bias of a LayerNorm, each `[D]`."""
Dropout: TypeAlias = tuple[Tensor, float]
"""1 for elements that stay and 0 for others, uint8 `[T, D]`, and the factor of those that stay."""


def normalise(x_TD: Tensor, norm: Norm) -> Tensor:
    """LayerNorm with torch's own epsilon; gains are float32, also where FSDP gathered them in less."""
    gain_D, bias_D = (p.float() for p in norm)
    return layer_norm(x_TD, gain_D.shape, gain_D, bias_D)


def add(x_TD: Tensor, y_TD: Tensor, dropout: Dropout | None) -> Tensor:
    """`x + dropout(y)`: add `y_TD` (any float dtype) to the float32 stream `x_TD`."""
    y_TD = y_TD.to(x_TD.dtype)  # by itself: adding mixed types takes three times as long on a CPU
    if dropout is None:
        return x_TD + y_TD
    kept_TD, scale = dropout
    return torch.addcmul(x_TD, y_TD, kept_TD.to(torch.float32).mul_(scale))


def project(x_TD: Tensor, norm: Norm, matrix_MD: Tensor) -> Tensor:
    """A normalised stream times a matrix, `[T, M]`."""
    return linear(normalise(x_TD, norm), matrix_MD)


def mix(x_TD: Tensor, o_TD: Tensor, matrix_DD: Tensor, dropout: Dropout | None) -> Tensor:
    """The stream with what attention found."""
    return add(x_TD, linear(o_TD, matrix_DD), dropout)


def feed(x_TD: Tensor, norm: Norm, matrices: tuple[Tensor, Tensor], dropout: Dropout | None) -> Tensor:
    """The stream after a feed-forward block."""
    return add(x_TD, linear(gelu(project(x_TD, norm, matrices[0])), matrices[1]), dropout)


def finish(
    x_TD: Tensor,
    o_TD: Tensor,
    norm: Norm,
    matrices: tuple[Tensor, Tensor, Tensor],
    dropouts: tuple[Dropout | None, Dropout | None],
) -> Tensor:
    """All that follows attention in a layer: `mix`, then `feed`."""
    return feed(mix(x_TD, o_TD, matrices[0], dropouts[0]), norm, matrices[1:], dropouts[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenwise:
    """The functions by which a layer computes: as they stand here, or compiled."""

    project: Callable[[Tensor, Norm, Tensor], Tensor] = project
    mix: Callable[[Tensor, Tensor, Tensor, Dropout | None], Tensor] = mix
    finish: Callable[
        [Tensor, Tensor, Norm, tuple[Tensor, Tensor, Tensor], tuple[Dropout | None, Dropout | None]], Tensor
    ] = finish


EAGER = Tokenwise()


def of(norm: nn.LayerNorm) -> Norm:
    """Gain and bias of a module."""
    return norm.weight, norm.bias
