"""What all fusions share: what goes in, what comes out, how tokens of fields are laid side by side. See `fusions`.

In: vectors of each field's tokens and `keep_SF` (which fields of a sample take part; on the CPU, since it decides how
many tokens there are). Out: one state a sample, one a field. A field that is not kept gives nothing to the sample's
state; its own state is computed all the same, so that its own loss still teaches its encoder.
"""

# T rows of a sequence (tokens, then slack: see `attention`), S samples, F fields, D width

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from interlace.contract.batch import move
from interlace.model.attention import Segments
from interlace.model.transformer import Encoder
from interlace.recipe.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldTokens:
    """Vectors `x_TD` of a field's tokens in float32, and its segments: one for each of the `S` samples."""

    x_TD: Tensor
    segments: Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Tokens of the samples, ordered by sample and inside a sample by field: see `join_fields`.

    Args:
        x_TD, segments: as in `FieldTokens`, over all kept fields.
        order_T: row of each token in the fields' vectors laid end to end, in the order of the fields.
        ends_F: where each field's rows end there.
    """

    x_TD: Tensor
    segments: Segments
    order_T: Tensor
    ends_F: Tensor

    @property
    def field_T(self) -> Tensor:
        """The number of each token's field, int64 `[T]`; of no meaning for slack."""
        return torch.searchsorted(self.ends_F, self.order_T, right=True)

    def gather(self, tokens: Mapping[str, FieldTokens]) -> Tensor:
        """The joint sequence `[T, D]` of other vectors of the same tokens."""
        return torch.cat([item.x_TD for item in tokens.values()]).index_select(0, self.order_T)

    def of_fields(self, tokens: Mapping[str, FieldTokens]) -> dict[str, Tensor]:
        """The vectors `[T, D]` of each field's own tokens, in its own order; zeros for tokens that were not kept."""
        rows = [item.segments.num_rows for item in tokens.values()]
        taken = self.segments.num_tokens
        all_TD = self.x_TD.new_zeros(sum(rows), self.x_TD.shape[1])
        all_TD = all_TD.index_copy(0, self.order_T[:taken], self.x_TD[:taken])
        return dict(zip(tokens, torch.split(all_TD, rows), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """What a fusion gives, in float32.

    Args:
        sample_SD: state of each sample; zeros where it has no kept field.
        fields: state of each field by itself, `[S, D]`; zeros where missing.
        tokens: each field's tokens after the layers within it, those of fields that are not kept too.
        joint: the samples' tokens after the layers that they share; None where the fusion has no such layers.
        weights_SF: what the fusion weighs each field with, detached; None where it has no such weights.
        votes_SF: the same with its gradient, where the fields' own predictions are to be combined by it and there is
            no joint state to predict from; else None.
    """

    sample_SD: Tensor
    fields: Mapping[str, Tensor]
    tokens: Mapping[str, FieldTokens]
    joint: Joint | None = None
    weights_SF: Tensor | None = None
    votes_SF: Tensor | None = None


def key(name: str) -> str:
    """The name of a field's or task's module: torch refuses plain ones such as `type` or `values`."""
    return f"of_{name}"


class Fusion(nn.Module, ABC):
    """What every fusion is: made from the model's settings and the fields' names, called with their tokens.

    First each field by itself (`encode`), once; then what meets (`forward`), for all fields and for groups of them.
    Its parameters are named after fields, never numbered by them, so that their order in a recipe changes nothing.
    """

    encodes: ClassVar[bool] = True
    """Whether it has layers within each field."""
    measures: bool = False
    """Whether `forward` also gives the attention that each field gets as its weight, where attention is what weighs."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__()
        encoded = names if self.encodes else ()
        self.encoders = nn.ModuleDict({key(name): Encoder(model, model.field_layers) for name in encoded})
        self.pool = Pool(model)

    def encode(self, tokens: Mapping[str, FieldTokens]) -> Mapping[str, FieldTokens]:
        """The fields' tokens after the layers within each; as they are where the fusion has none."""
        if not self.encodes:
            return tokens
        return {
            name: FieldTokens(x_TD=self.encoders[key(name)](item.x_TD, item.segments), segments=item.segments)
            for name, item in tokens.items()
        }

    def states(self, tokens: Mapping[str, FieldTokens]) -> dict[str, Tensor]:
        """Each field's own state, `[S, D]`."""
        return {name: self.pool(item.x_TD, item.segments) for name, item in tokens.items()}

    @abstractmethod
    def forward(self, tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Fused:
        """Fuse what `encode` gave; columns of `keep_SF` (bool, on the CPU) are in the order of `tokens`."""


def find_present(tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Tensor:
    """Fields that are kept and have tokens, bool `[S, F]` on the CPU."""
    return torch.stack([item.segments.host_N > 0 for item in tokens.values()], dim=1) & keep_SF


def mean_of_present(states: Mapping[str, Tensor], present_SF: Tensor) -> Tensor:
    """The mean of the present fields' states, `[S, D]`; zeros where there is none. `present_SF` lies on the CPU."""
    states_SFD = torch.stack(list(states.values()), dim=1)
    present_SF = move(present_SF, states_SFD.device)
    total_SD = (states_SFD * present_SF.unsqueeze(2)).sum(1)
    return total_SD / present_SF.sum(1, keepdim=True).clamp(min=1)


class Pool(nn.Module):
    """The mean or the maximum of the normalised tokens of each segment, float32; zeros for empty ones.

    The maximum over tokens (Collobert et al. 2011) lets one telling token decide where a mean dilutes it.
    Without gains of its own: what reads the state begins with a matrix, and no parameter is left without a gradient.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.kind = model.pool

    def forward(self, x_TD: Tensor, segments: Segments) -> Tensor:
        """`[T, D]` -> `[N, D]`."""
        normal_TD = nn.functional.layer_norm(x_TD, x_TD.shape[1:])
        return segments.max(normal_TD) if self.kind == "max" else segments.mean(normal_TD)


def join_fields(tokens: Mapping[str, FieldTokens], keep_SF: Tensor) -> Joint:
    """Tokens of the kept fields, ordered by sample and inside a sample by field, and one segment a sample.

    Fields a = [a0 a0 a1], b = [b0 b1] (numbers are samples) become [a0 a0 b0 a1 b1] with lengths [3, 2].
    """
    parts = [item.segments for item in tokens.values()]
    device = parts[0].device
    before = list(itertools.accumulate([part.num_rows for part in parts], initial=0))
    shifted = [part.host_starts_N + shift for part, shift in zip(parts, before, strict=False)]
    starts_SF = torch.stack(shifted, dim=1)
    kept = (torch.stack([part.host_N for part in parts], dim=1) * keep_SF).flatten()
    segments = Segments(kept.view(keep_SF.shape).sum(1), device)
    shifts_T = (starts_SF.flatten() - kept.cumsum(0) + kept).repeat_interleave(kept, output_size=segments.num_tokens)
    order_T = shifts_T + torch.arange(segments.num_tokens)
    order_T = nn.functional.pad(order_T, (0, segments.num_rows - segments.num_tokens))  # slack copies row 0, unread
    order_T = move(order_T, device)
    x_TD = torch.cat([item.x_TD for item in tokens.values()]).index_select(0, order_T)
    ends_F = move(torch.tensor(before[1:]), device)
    return Joint(x_TD=x_TD, segments=segments, order_T=order_T, ends_F=ends_F)
