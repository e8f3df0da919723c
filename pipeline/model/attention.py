"""Attention within segments of a packed sequence: no masks, and no padding outside the CPU kernel.

A *segment* is a run of neighbouring tokens that see each other: the tokens of one field of one sample, or all tokens of
a sample. `Segments` holds the lengths and, made once and shared by all layers, what attention needs of them; `attend`
takes the projected tokens and returns the mixed values.

- CUDA, half precision: `torch.nn.attention.varlen.varlen_attn`.
- Else: segments of similar length share a padded *bucket*, computed by matrix products up to `MATMUL_LENGTH` tokens and
  by the fused CPU kernel above (`tests/benchmarks/attention.py` prints the table that set the border).

Worked example: lengths `[2, 0, 3]` are tokens 0-1 and 2-4; the empty segment takes no part.
"""

# T tokens of the pack, N segments, H heads, K width of a head, R rows of the padded layout, B segments of a bucket,
# L their padded length, X batch of B * H

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

MATMUL_LENGTH = 512
"""Longest segment computed by plain matrix products on a CPU; above, scores would cost more memory than time saved."""

BUCKET_COST = 128.0
"""What one more bucket costs (its calls), in tokens; decides how finely lengths are grouped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Segments padded to one length, at rows `start .. start + batch * length` of the padded layout.

    Args:
        start: first row of the values; queries, keys and values have 3 times as many rows from `3 * start`.
        batch: segments times heads.
        length: padded length.
        bias_X1L: 0 at tokens, -inf at padding, added to scores.
    """

    start: int
    batch: int
    length: int
    bias_X1L: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Row numbers that carry tokens into the padded layout and back; a row is one head of one token.

    Args:
        buckets: non-empty segments, each in one bucket.
        pack_R3: row of `qkv_T3HK` for each row of the padded queries, keys and values.
        unpack_T3H: the inverse of `pack_R3` on real rows.
        pack_R: row of `o_THK` for each row of the padded values.
        unpack_TH: the inverse of `pack_R` on real rows.
        padding: rows of the padded values that are no token.
    """

    buckets: tuple[Bucket, ...]
    pack_R3: Tensor
    unpack_T3H: Tensor
    pack_R: Tensor
    unpack_TH: Tensor
    padding: Tensor


class Segments:
    """Neighbouring tokens that belong together, as lengths; what follows from them is made once, on first use.

    Args:
        lengths_N: int64 `[N]` on the model's device, zeros allowed; the sum is the number of tokens.
    """

    def __init__(self, lengths_N: Tensor) -> None:
        self.lengths_N = lengths_N
        self.ends_N = lengths_N.cumsum(0)
        self.starts_N = self.ends_N - lengths_N
        self._host: NDArray[np.int64] = lengths_N.cpu().numpy()
        self.num_tokens = int(self._host.sum())
        self.max_length = int(self._host.max(initial=0))
        self._plans: dict[int, Plan] = {}

    @functools.cached_property
    def owner_T(self) -> Tensor:
        """The segment of each token, int64 `[T]`."""
        numbers = torch.arange(len(self._host), device=self.lengths_N.device)
        return numbers.repeat_interleave(self.lengths_N, output_size=self.num_tokens)

    @functools.cached_property
    def offset_T(self) -> Tensor:
        """The place of each token within its segment, int64 `[T]`."""
        return torch.arange(self.num_tokens, device=self.lengths_N.device) - self.starts_N[self.owner_T]

    @functools.cached_property
    def cu_seqlens(self) -> Tensor:
        """Ends of the segments with a leading 0, int32 `[N + 1]`, as kernels for packed sequences want it."""
        return torch.nn.functional.pad(self.ends_N, (1, 0)).to(torch.int32)

    def plan(self, num_heads: int) -> Plan:
        """The padded layout for a number of heads."""
        if num_heads not in self._plans:
            self._plans[num_heads] = _plan(self._host, num_heads, self.lengths_N.device)
        return self._plans[num_heads]

    def mean(self, x_TD: Tensor) -> Tensor:
        """The mean of each segment in float32, `[N, D]`; zeros for empty ones."""
        x_TD = x_TD.float()
        sums_ND = x_TD.new_zeros(len(self._host), x_TD.shape[1]).index_add(0, self.owner_T, x_TD)
        return sums_ND / self.lengths_N.clamp(min=1).unsqueeze(1)


def attend(qkv_T3HK: Tensor, segments: Segments) -> Tensor:
    """Softmax attention of every token to the tokens of its segment.

    Args:
        qkv_T3HK: queries, keys and values of each token and head, any float dtype.
        segments: segments over the `T` tokens.

    Returns:
        `o_THK` in the same dtype; with no token at all it is empty and its gradient zero-sized.
    """
    if qkv_T3HK.is_cuda and qkv_T3HK.dtype in (torch.float16, torch.bfloat16):
        q_THK, k_THK, v_THK = qkv_T3HK.unbind(1)
        cu, longest = segments.cu_seqlens, segments.max_length
        o_THK = varlen_attn(q_THK, k_THK, v_THK, cu, cu, longest, longest)
        assert isinstance(o_THK, Tensor)
        return o_THK
    o_THK = _Bucketed.apply(qkv_T3HK, segments.plan(qkv_T3HK.shape[2]))  # type: ignore[no-untyped-call]
    assert isinstance(o_THK, Tensor)
    return o_THK


def bucket_lengths(lengths: NDArray[np.int64]) -> list[int]:
    """The padded lengths that cost least: dynamic programming over the distinct lengths.

    A bucket of `B` segments padded to `L` costs `BUCKET_COST + B * L * (1 + L / 128)` (measured: time per token grows
    by half from 16 to 64 tokens and doubles by 128).

    Args:
        lengths: of all segments; zeros are left out.

    Returns:
        Ascending lengths; a segment belongs to the first that holds it.
    """
    sizes, counts = np.unique(lengths[lengths > 0], return_counts=True)
    if len(sizes) > 64:  # a few more padded tokens for a bounded search
        grain = -(-int(sizes[-1]) // 64)
        return bucket_lengths(-(-lengths // grain) * grain)
    below = np.concatenate([[0], np.cumsum(counts)])
    best, came_from = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=int)
    for j, size in enumerate(sizes.tolist(), start=1):
        cost = best[:j] + BUCKET_COST + (below[j] - below[:j]) * size * (1 + size / 128)
        came_from[j] = int(cost.argmin())
        best[j] = cost[came_from[j]]
    chosen, j = [], len(sizes)
    while j:
        chosen.append(int(sizes[j - 1]))
        j = int(came_from[j])
    return chosen[::-1]


def _plan(lengths: NDArray[np.int64], num_heads: int, device: torch.device) -> Plan:
    starts = np.cumsum(lengths) - lengths
    limits = bucket_lengths(lengths)
    bucket_of = np.searchsorted(limits, lengths) if limits else np.zeros(0)
    heads = np.arange(num_heads)
    buckets, packs3, packs, pads, start = [], [], [], [], 0
    for number, limit in enumerate(limits):
        members = np.flatnonzero((bucket_of == number) & (lengths > 0))
        offsets = np.arange(limit)
        pad_BL = offsets >= lengths[members, None]
        token_BL = starts[members, None] + np.where(pad_BL, 0, offsets)  # padding repeats its own segment's first token
        token_BHL, pad_BHL = token_BL[:, None], np.repeat(pad_BL[:, None], num_heads, axis=1)
        packs.append((token_BHL * num_heads + heads[:, None]).ravel())
        parts = [((token_BHL * 3 + part) * num_heads + heads[:, None]).ravel() for part in range(3)]
        packs3.append(np.concatenate(parts))
        pads.append(pad_BHL.ravel())
        bias = np.where(pad_BHL, np.float32(-np.inf), np.float32(0)).reshape(-1, 1, limit)
        rows = bias.shape[0]
        buckets.append(Bucket(start=start, batch=rows, length=limit, bias_X1L=torch.from_numpy(bias).to(device)))
        start += rows * limit
    total = int(lengths.sum()) * num_heads
    pack3, pack, pad = (np.concatenate([*p, np.zeros(0, int)]).astype(np.int64) for p in (packs3, packs, pads))
    pad3 = np.concatenate([np.zeros(0, int), *[np.tile(p, 3) for p in pads]])
    return Plan(
        buckets=tuple(buckets),
        pack_R3=torch.from_numpy(pack3).to(device),
        unpack_T3H=_inverse(pack3, pad3, 3 * total).to(device),
        pack_R=torch.from_numpy(pack).to(device),
        unpack_TH=_inverse(pack, pad, total).to(device),
        padding=torch.from_numpy(np.flatnonzero(pad)).to(device),
    )


def _inverse(pack: NDArray[np.int64], pad: NDArray[Any], size: int) -> Tensor:
    real = np.flatnonzero(pad == 0)
    inverse = np.empty(size, dtype=np.int64)
    inverse[pack[real]] = real
    return torch.from_numpy(inverse)


class _Bucketed(torch.autograd.Function):
    """Attention by buckets. Its own backward, since autograd's copies: it stacks and transposes three gradients."""

    @staticmethod
    def forward(ctx: Any, qkv_T3HK: Tensor, plan: Plan) -> Tensor:
        tokens, _, heads, width = qkv_T3HK.shape
        qkv_RK = qkv_T3HK.reshape(tokens * 3 * heads, width).index_select(0, plan.pack_R3)
        o_RK = qkv_RK.new_empty(plan.pack_R.shape[0], width)
        kept = [_mix(bucket, qkv_RK, o_RK) for bucket in plan.buckets]
        ctx.plan, ctx.shape = plan, qkv_T3HK.shape
        ctx.save_for_backward(qkv_RK, o_RK, *kept)
        return o_RK.index_select(0, plan.unpack_TH).view(tokens, heads, width)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor, None]:
        qkv_RK, o_RK, *kept = ctx.saved_tensors
        plan: Plan = ctx.plan
        rows = grad_THK.reshape(-1, ctx.shape[3]) if grad_THK.numel() else grad_THK.new_empty(0, ctx.shape[3])
        grad_RK = rows.index_select(0, plan.pack_R).index_fill_(0, plan.padding, 0)
        dqkv_RK = torch.empty_like(qkv_RK)
        for bucket, state in zip(plan.buckets, kept, strict=True):
            _mix_backward(bucket, (qkv_RK, o_RK, state), grad_RK, dqkv_RK)
        return dqkv_RK.index_select(0, plan.unpack_T3H).view(ctx.shape), None


def _views(bucket: Bucket, qkv_RK: Tensor, o_RK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A bucket's queries, keys, values and outputs, each `[X, L, K]`, as views."""
    rows, first = bucket.batch * bucket.length, bucket.start
    parts = qkv_RK[3 * first : 3 * (first + rows)].view(3, bucket.batch, bucket.length, -1)
    return parts[0], parts[1], parts[2], o_RK[first : first + rows].view(bucket.batch, bucket.length, -1)


def _mix(bucket: Bucket, qkv_RK: Tensor, o_RK: Tensor) -> Tensor:
    """Write a bucket's outputs; returns what its backward needs (attention weights, or the log of their sums)."""
    q_XLK, k_XLK, v_XLK, o_XLK = _views(bucket, qkv_RK, o_RK)
    bias_X1L = bucket.bias_X1L.to(q_XLK.dtype)
    if bucket.length > MATMUL_LENGTH and not q_XLK.is_cuda:
        out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_XLK[:, None], k_XLK[:, None], v_XLK[:, None], attn_mask=_square(bias_X1L)
        )
        o_XLK.copy_(out[:, 0])
        assert isinstance(log_sums, Tensor)
        return log_sums
    p_XLL = torch.baddbmm(bias_X1L, q_XLK, k_XLK.transpose(1, 2), alpha=q_XLK.shape[2] ** -0.5).softmax(-1)
    torch.bmm(p_XLL, v_XLK, out=o_XLK)
    return p_XLL


def _mix_backward(bucket: Bucket, saved: tuple[Tensor, Tensor, Tensor], grad_RK: Tensor, dqkv_RK: Tensor) -> None:
    """Write the gradients of a bucket's queries, keys and values (Dao et al. 2022, algorithm 4, without tiles)."""
    q_XLK, k_XLK, v_XLK, o_XLK = _views(bucket, saved[0], saved[1])
    dq_XLK, dk_XLK, dv_XLK, g_XLK = _views(bucket, dqkv_RK, grad_RK)
    scale = q_XLK.shape[2] ** -0.5
    if bucket.length > MATMUL_LENGTH and not q_XLK.is_cuda:
        heads = [x[:, None] for x in (g_XLK, q_XLK, k_XLK, v_XLK, o_XLK)]
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *heads, saved[2], 0.0, False, attn_mask=_square(bucket.bias_X1L.to(q_XLK.dtype))
        )
        for out, grad in zip((dq_XLK, dk_XLK, dv_XLK), grads, strict=True):
            out.copy_(grad[:, 0])
        return
    p_XLL = saved[2]
    torch.bmm(p_XLL.transpose(1, 2), g_XLK, out=dv_XLK)
    mean_XL1 = (g_XLK * o_XLK).sum(-1, keepdim=True)
    ds_XLL = torch.baddbmm(mean_XL1, g_XLK, v_XLK.transpose(1, 2), beta=-scale, alpha=scale).mul_(p_XLL)
    torch.bmm(ds_XLL, k_XLK, out=dq_XLK)
    torch.bmm(ds_XLL.transpose(1, 2), q_XLK, out=dk_XLK)


def _square(bias_X1L: Tensor) -> Tensor:
    """The bias as the fused kernel takes it, `[X, 1, 1, L]` (its rows are broadcast)."""
    return bias_X1L[:, None]
