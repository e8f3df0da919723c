"""Transformer layers on packed tokens: input and output `x_TD` in float32, matrix products in the autocast type.

Pre-norm (Xiong et al. 2020), GELU feed-forward, no biases in matrices. LayerNorm, not RMSNorm, whose backward has no
CPU kernel (forward + backward of `[1900, 128]` on one thread: 0.9 ms against 3.9 ms). GELU by `erf`: its `tanh` form
takes ten times as long on a CPU.
"""

# T rows of the sequence (tokens, then slack: see `attention`), D width, H heads, K width of a head

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interlace.model import tokenwise
from interlace.model.attention import Segments, attend, attend_to
from interlace.model.tokenwise import EAGER, Dropout, Tokenwise
from interlace.recipe.model import Model

LEVELS = 256
"""Dropout decides by one random byte an element, so its rate is a multiple of 1 / 256."""


def draw_dropout(shape: torch.Size, rate: float, device: torch.device) -> Dropout:
    """Random bytes of dropout, 0 for dropped elements and 1 for others, and 1 / (share kept), so that the mean is 1.

    One 64-bit draw serves 8 elements (`bernoulli_` took 28 % of a training step on a CPU). The bytes are compared in
    place: a comparison to bool takes 20 times as long.

    Args:
        shape: of the bytes.
        rate: share to drop, below 1; used to the nearest 1 / 256.
        device: whose global generator is drawn from, the only source of randomness.
    """
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    size = shape.numel()
    words = torch.empty((size + 7) // 8, dtype=torch.int64, device=device)
    words.random_(torch.iinfo(torch.int64).min, None)  # the default range leaves the top bit 0
    return words.view(torch.uint8)[:size].view(shape).ge_(dropped), LEVELS / (LEVELS - dropped)


class Residual(nn.Module):
    """`x + dropout(y)`; without dropout when evaluating."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_TD: Tensor, y_TD: Tensor) -> Tensor:
        """Add `y_TD` (any float dtype) to the float32 stream `x_TD`."""
        return tokenwise.add(x_TD, y_TD, self.draw(y_TD))

    def draw(self, like: Tensor) -> Dropout | None:
        """Dropout of a tensor of this shape and device; None where there is none."""
        if self.training and round(self.rate * LEVELS):
            return draw_dropout(like.shape, self.rate, like.device)
        return None


class Block(nn.Module, ABC):
    """What a stack repeats: FSDP gathers its weights by themselves, and its activations may be computed twice.

    With `recompute`, training keeps only what goes in and computes the rest again in the backward pass (Chen et al.
    2016), with the same random draws. Training computes by `compiled`, if it is there, instead of `tokenwise`.
    """

    recompute = False
    compiled: Tokenwise | None = None

    def forward(self, *args: Any) -> Tensor:
        """What `run` returns of the same arguments."""
        if self.recompute and self.training and torch.is_grad_enabled():
            again: Tensor = checkpoint(self.run, *args, use_reentrant=False)
            return again
        return self.run(*args)

    @property
    def tokenwise(self) -> Tokenwise:
        """What the layer computes of each token by itself; an evaluation is not worth compilations of its own."""
        return self.compiled if self.compiled and self.training and torch.is_grad_enabled() else EAGER

    @abstractmethod
    def run(self, *args: Any) -> Tensor:
        """The layer's own computation."""


class AttentionBlock(Block):
    """A layer of one attention and a feed-forward block, which share what follows the attention."""

    attention_out: nn.Linear
    mlp_norm: nn.LayerNorm
    mlp_in: nn.Linear
    mlp_out: nn.Linear
    residual: Residual

    def _finish(self, x_TD: Tensor, o_THK: Tensor) -> Tensor:
        return self.tokenwise.finish(
            x_TD,
            o_THK.flatten(1),
            tokenwise.of(self.mlp_norm),
            (self.attention_out.weight, self.mlp_in.weight, self.mlp_out.weight),
            (self.residual.draw(x_TD), self.residual.draw(x_TD)),
        )


class Layer(AttentionBlock):
    """One Transformer layer: attention within segments, then a feed-forward block."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        hidden = round(model.dim * model.mlp_ratio)
        self.heads = (model.dim // model.head_dim, model.head_dim)
        self.attention_norm = nn.LayerNorm(model.dim)
        self.qkv = nn.Linear(model.dim, 3 * model.dim, bias=False)
        self.attention_out = nn.Linear(model.dim, model.dim, bias=False)
        self.mlp_norm = nn.LayerNorm(model.dim)
        self.mlp_in = nn.Linear(model.dim, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, model.dim, bias=False)
        self.residual = Residual(model.dropout)

    def run(self, x_TD: Tensor, segments: Segments) -> Tensor:
        """Mix the tokens of each segment; `segments` covers the `T` tokens."""
        o_THK = attend(self.project(x_TD), segments)
        return self._finish(x_TD, o_THK)

    def project(self, x_TD: Tensor) -> Tensor:
        """Queries, keys and values, `[T, 3, H, K]`."""
        qkv_TD3 = self.tokenwise.project(x_TD, tokenwise.of(self.attention_norm), self.qkv.weight)
        return qkv_TD3.view(len(x_TD), 3, *self.heads)


class CrossLayer(AttentionBlock):
    """As `Layer`, with attention to the tokens of another sequence, which it leaves as they are."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        hidden = round(model.dim * model.mlp_ratio)
        self.heads = (model.dim // model.head_dim, model.head_dim)
        self.query_norm = nn.LayerNorm(model.dim)
        self.query = nn.Linear(model.dim, model.dim, bias=False)
        self.source_norm = nn.LayerNorm(model.dim)
        self.key_value = nn.Linear(model.dim, 2 * model.dim, bias=False)
        self.attention_out = nn.Linear(model.dim, model.dim, bias=False)
        self.mlp_norm = nn.LayerNorm(model.dim)
        self.mlp_in = nn.Linear(model.dim, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, model.dim, bias=False)
        self.residual = Residual(model.dropout)

    def run(self, x_TD: Tensor, segments: Segments, source_UD: Tensor, source_segments: Segments) -> Tensor:
        """Let the tokens of each segment attend to those of the segment of the same number in the source."""
        q_THK, kv_U2HK = self.project_queries(x_TD), self.project_keys(source_UD)
        o_THK = attend_to(q_THK, kv_U2HK, segments, source_segments)
        return self._finish(x_TD, o_THK)

    def project_queries(self, x_TD: Tensor) -> Tensor:
        """Queries, `[T, H, K]`."""
        q_TD = self.tokenwise.project(x_TD, tokenwise.of(self.query_norm), self.query.weight)
        return q_TD.view(len(x_TD), *self.heads)

    def project_keys(self, source_UD: Tensor) -> Tensor:
        """Keys and values, `[U, 2, H, K]`."""
        kv_UD2 = self.tokenwise.project(source_UD, tokenwise.of(self.source_norm), self.key_value.weight)
        return kv_UD2.view(len(source_UD), 2, *self.heads)


class Encoder(nn.Module):
    """A stack of layers over the same segments."""

    def __init__(self, model: Model, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(model) for _ in range(num_layers))

    def forward(self, x_TD: Tensor, segments: Segments) -> Tensor:
        """The residual stream after all layers, not normalised."""
        for layer in self.layers:
            x_TD = layer(x_TD, segments)
        return x_TD
