"""Padded buckets: attention of segments of similar length as batched matrix products, with a backward of its own.

`make_plan` lays the tokens of a sequence out in buckets; `padded_attention` carries rows into that layout, attends, and
carries the values back. `cross` does the same for two sequences, by the same products (`bucket_attention` and its
backward).
"""

# T rows of the sequence (tokens, then slack: see `attention`), H heads, K width of a head, R rows of the padded layout,
# B segments of a bucket, X its batch (segments times heads), L padded length of queries, M of keys (equal within one
# sequence)

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interlace.contract.batch import move

MATMUL_LENGTH = 512
"""Longest segment computed by plain matrix products on a CPU. Forward and backward of 4,096 tokens with 2 heads of 64
in bf16 on one AMX core took 34 ms against 60 (fused kernel) at 512 tokens, 85 against 82 at 1,024."""

BUCKET_COST = 128.0
"""What one more bucket costs (its calls), in tokens; decides how finely lengths are grouped."""

ROW_GRAIN, LENGTH_GRAIN, BUCKET_GRAIN = 32, 8, 256
"""Least steps to which rows, padded lengths and tokens of a bucket are rounded up on a CPU."""


def round_up(number: int, grain: int, parts: int = 8) -> int:
    """The next multiple of `grain`, or of an eighth of the power of two below if that is more; 0 stays 0.

    So there are at most 8 sizes between a number and its double, and at most an eighth is added (above 8 grains).

    Args:
        number: 0 or more.
        grain: least step.
        parts: another power of two in place of 8.
    """
    step = max(grain, (1 << number.bit_length()) // (2 * parts))
    return -(-number // step) * step


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
        padding: rows of the padded values that are no token, or repeat one to fill a batch.
        num_tokens: rows of the sequence before slack.
    """

    buckets: tuple[Bucket, ...]
    pack_R3: Tensor
    unpack_T3H: Tensor
    pack_R: Tensor
    unpack_TH: Tensor
    padding: Tensor
    num_tokens: int


def bucket_lengths(lengths: NDArray[np.int64]) -> list[int]:
    """The padded lengths that cost least: dynamic programming over the distinct lengths, rounded up.

    A bucket of `B` segments padded to `L` costs `BUCKET_COST + B * L * (1 + L / 128)` (measured: time per token grows
    by half from 16 to 64 tokens and doubles by 128).

    Args:
        lengths: of all segments; zeros are left out.

    Returns:
        Ascending lengths; a segment belongs to the first that holds it.
    """
    rounded = [round_up(n, LENGTH_GRAIN) for n in lengths[lengths > 0].tolist()]
    sizes, counts = np.unique(np.array(rounded, dtype=np.int64), return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    best, came_from = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=np.int64)
    for j, size in enumerate(sizes.tolist(), start=1):
        cost = best[:j] + BUCKET_COST + (below[j] - below[:j]) * size * (1 + size / 128)
        came_from[j] = cost.argmin()
        best[j] = cost[came_from[j]]
    chosen, j = [], len(sizes)
    while j:
        chosen.append(int(sizes[j - 1]))
        j = int(came_from[j])
    return chosen[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Segments of one bucket, padded to one length.

    Args:
        token_BL: row of the sequence at each place; padding repeats a token of its own segment.
        pad_BL: whether a place is padding.
    """

    token_BL: NDArray[np.int64]
    pad_BL: NDArray[np.bool_]

    def rows(self, num_heads: int, parts: int) -> NDArray[np.int64]:
        """Row of `[T, parts, H, K]` for each row of the parts, one after the other, each `[B * H, L]`."""
        token_BHL = np.repeat(self.token_BL, num_heads, axis=0).reshape(-1, num_heads, self.token_BL.shape[1])
        heads = np.arange(num_heads)[:, None]
        return np.concatenate([((token_BHL * parts + part) * num_heads + heads).ravel() for part in range(parts)])

    def padding(self, num_heads: int, filler: int) -> NDArray[np.bool_]:
        """Whether each row of `[B * H, L]` is padding, or belongs to the last `filler` segments, which are copies."""
        idle_BL = self.pad_BL.copy()
        idle_BL[len(idle_BL) - filler :] = True
        return np.repeat(idle_BL, num_heads, axis=0).ravel()

    def bias(self, num_heads: int, device: torch.device) -> Tensor:
        """`[X, 1, L]`: 0 at tokens, -inf at padding."""
        bias_BL = np.where(self.pad_BL, np.float32(-np.inf), np.float32(0))
        return move(torch.from_numpy(np.repeat(bias_BL, num_heads, axis=0)[:, None]), device)


def lay_out(lengths: NDArray[np.int64], members: NDArray[np.int64], limit: int) -> Layout:
    """The layout of some of the segments of a sequence, none of them empty, padded to `limit`."""
    starts = np.cumsum(lengths) - lengths
    pad_BL = np.arange(limit) >= lengths[members, None]
    token_BL = starts[members, None] + np.where(pad_BL, 0, np.arange(limit))
    return Layout(token_BL=token_BL, pad_BL=pad_BL)


def fill(members: NDArray[np.int64], grain: int) -> tuple[NDArray[np.int64], int]:
    """The members of a bucket with copies of the first up to a rounded number, and how many copies."""
    filler = round_up(len(members), max(grain, 1)) - len(members)
    return np.concatenate([members, np.repeat(members[:1], filler)]), filler


def make_plan(lengths: NDArray[np.int64], num_heads: int, num_rows: int, device: torch.device) -> Plan:
    """The padded layout of segments of these lengths, of which `num_rows` rows are made; see `Plan`."""
    limits = bucket_lengths(lengths)
    bucket_of = np.searchsorted(limits, lengths) if limits else lengths
    buckets, one, three, pads, start = [], [], [], [], 0
    for number, limit in enumerate(limits):
        members, filler = fill(
            np.flatnonzero((bucket_of == number) & (lengths > 0)), BUCKET_GRAIN // (limit * num_heads)
        )
        layout = lay_out(lengths, members, limit)
        one.append(layout.rows(num_heads, 1))
        three.append(layout.rows(num_heads, 3))
        pads.append(layout.padding(num_heads, filler))
        bias_X1L = layout.bias(num_heads, device)
        buckets.append(Bucket(start=start, batch=len(bias_X1L), length=limit, bias_X1L=bias_X1L))
        start += pads[-1].size
    pad, pad3 = join_rows(pads), join_rows([np.tile(p, 3) for p in pads])
    return Plan(
        buckets=tuple(buckets),
        pack_R3=move(torch.from_numpy(join_rows(three)), device),
        unpack_T3H=move(invert(join_rows(three), pad3, 3 * num_rows * num_heads), device),
        pack_R=move(torch.from_numpy(join_rows(one)), device),
        unpack_TH=move(invert(join_rows(one), pad, num_rows * num_heads), device),
        padding=move(torch.from_numpy(np.flatnonzero(pad)), device),
        num_tokens=int(lengths.sum()),
    )


def join_rows(parts: list[NDArray[Any]]) -> NDArray[np.int64]:
    """One array of row numbers, empty where there is no part."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)


def invert(pack: NDArray[np.int64], pad: NDArray[np.int64], size: int) -> Tensor:
    """Where each row went; 0 for one that went nowhere (slack)."""
    real = np.flatnonzero(pad == 0)
    inverse = np.zeros(size, dtype=np.int64)
    inverse[pack[real]] = real
    return torch.from_numpy(inverse)


def padded_attention(qkv_T3HK: Tensor, plan: Plan, *, causal: bool) -> Tensor:
    """Attention within the segments of a plan, `o_THK`, zeros at slack."""
    o_THK: Tensor = _PaddedAttention.apply(qkv_T3HK, plan, causal)  # type: ignore[no-untyped-call]
    return o_THK


class _PaddedAttention(torch.autograd.Function):
    """Attention by buckets. Its own backward, since autograd's copies: it stacks and transposes three gradients."""

    @staticmethod
    def forward(ctx: Any, qkv_T3HK: Tensor, plan: Plan, causal: bool) -> Tensor:
        tokens, _, heads, width = qkv_T3HK.shape
        qkv_RK = qkv_T3HK.reshape(tokens * 3 * heads, width).index_select(0, plan.pack_R3)
        o_RK = qkv_RK.new_empty(plan.pack_R.shape[0], width)
        kept = [bucket_attention(_views(b, qkv_RK, o_RK), _bias(b, qkv_RK, causal)) for b in plan.buckets]
        ctx.plan, ctx.shape, ctx.causal = plan, qkv_T3HK.shape, causal
        ctx.save_for_backward(qkv_RK, o_RK, *kept)
        o_THK = o_RK.index_select(0, plan.unpack_TH).view(tokens, heads, width)
        o_THK[plan.num_tokens :] = 0
        return o_THK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor, None, None]:
        qkv_RK, o_RK, *kept = ctx.saved_tensors
        plan: Plan = ctx.plan
        tokens, _, heads, width = ctx.shape
        rows = grad_THK.reshape(tokens * heads, width)
        grad_RK = rows.index_select(0, plan.pack_R).index_fill_(0, plan.padding, 0)
        dqkv_RK = torch.empty_like(qkv_RK)
        for bucket, state in zip(plan.buckets, kept, strict=True):
            *grads, grad_XLK = _views(bucket, dqkv_RK, grad_RK)
            saved = (*_views(bucket, qkv_RK, o_RK), state)
            bucket_attention_backward(saved, grad_XLK, grads, _bias(bucket, qkv_RK, ctx.causal))
        dqkv_T3HK = dqkv_RK.index_select(0, plan.unpack_T3H).view(ctx.shape)
        dqkv_T3HK[plan.num_tokens :] = 0
        return dqkv_T3HK, None, None


def _views(bucket: Bucket, qkv_RK: Tensor, o_RK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A bucket's queries, keys, values and outputs, each `[X, L, K]`, as views."""
    rows, first = bucket.batch * bucket.length, bucket.start
    parts = qkv_RK[3 * first : 3 * (first + rows)].view(3, bucket.batch, bucket.length, -1)
    return parts[0], parts[1], parts[2], o_RK[first : first + rows].view(bucket.batch, bucket.length, -1)


def _bias(bucket: Bucket, like: Tensor, causal: bool) -> Tensor:
    """What is added to a bucket's scores. Padding lies behind the tokens: where none looks ahead, none sees it."""
    return _ahead(bucket.length, like.dtype, like.device) if causal else bucket.bias_X1L.to(like.dtype)


@functools.lru_cache(maxsize=64)
def _ahead(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[1, L, L]`: -inf where a key lies ahead of the query, else 0."""
    return torch.full((1, length, length), -torch.inf, dtype=dtype, device=device).triu_(1)


def bucket_attention(views: tuple[Tensor, Tensor, Tensor, Tensor], bias: Tensor) -> Tensor:
    """Write the outputs of queries `[X, L, K]`, keys and values `[X, M, K]` into the last of the views `[X, L, K]`.

    Args:
        views: queries, keys, values, outputs.
        bias: added to scores `[X, L, M]`, in any shape that broadcasts to it.

    Returns:
        What the backward needs: the attention weights, or of the fused kernel the log of their sums.
    """
    q_XLK, k_XMK, v_XMK, o_XLK = views
    if _is_long(q_XLK, k_XMK):
        out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_XLK[:, None], k_XMK[:, None], v_XMK[:, None], attn_mask=bias[:, None]
        )
        o_XLK.copy_(out[:, 0])
        assert isinstance(log_sums, Tensor)
        return log_sums
    scores_XLM = torch.baddbmm(bias, q_XLK, k_XMK.transpose(1, 2), alpha=q_XLK.shape[2] ** -0.5)
    p_XLM = scores_XLM.softmax(-1, dtype=torch.float32).to(v_XMK.dtype)  # in bf16 it takes 2 to 4 times as long
    torch.bmm(p_XLM, v_XMK, out=o_XLK)
    return p_XLM


def bucket_attention_backward(saved: tuple[Tensor, ...], g_XLK: Tensor, grads: Sequence[Tensor], bias: Tensor) -> None:
    """Write the gradients of queries, keys and values (Dao et al. 2022, algorithm 4, without tiles).

    Args:
        saved: the views of `bucket_attention` and what it returned.
        g_XLK: gradient of the outputs.
        grads: where the three gradients go.
        bias: as in `bucket_attention`.
    """
    q_XLK, k_XMK, v_XMK, o_XLK, state = saved
    dq_XLK, dk_XMK, dv_XMK = grads
    scale = q_XLK.shape[2] ** -0.5
    if _is_long(q_XLK, k_XMK):
        heads = [x[:, None] for x in (g_XLK, q_XLK, k_XMK, v_XMK, o_XLK)]
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *heads, state, 0.0, False, attn_mask=bias[:, None]
        )
        for out, grad in zip(grads, found, strict=True):
            out.copy_(grad[:, 0])
        return
    torch.bmm(state.transpose(1, 2), g_XLK, out=dv_XMK)
    mean_XL1 = (g_XLK * o_XLK).sum(-1, keepdim=True)
    ds_XLM = torch.baddbmm(mean_XL1, g_XLK, v_XMK.transpose(1, 2), beta=-scale, alpha=scale).mul_(state)
    torch.bmm(ds_XLM, k_XMK, out=dq_XLK)
    torch.bmm(ds_XLM.transpose(1, 2), q_XLK, out=dk_XMK)


def _is_long(q_XLK: Tensor, k_XMK: Tensor) -> bool:
    """Whether the fused CPU kernel takes it."""
    return q_XLK.shape[1] * k_XMK.shape[1] > MATMUL_LENGTH**2 and not q_XLK.is_cuda
