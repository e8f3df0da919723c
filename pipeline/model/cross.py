"""Attention from the segments of one sequence to those of another, in padded buckets: see `buckets`."""

# T rows of the queries, U rows of the keys, R rows of a padded layout, H heads, K width of a head,
# X batch of a bucket (pairs of segments times heads), L padded length of queries, M of keys

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interlace.contract.batch import move
from interlace.model.buckets import (
    BUCKET_GRAIN,
    Layout,
    bucket_attention,
    bucket_attention_backward,
    bucket_lengths,
    fill,
    invert,
    join_rows,
    lay_out,
)

Rows: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossBucket:
    """Pairs of segments padded to one length of queries and one of keys.

    Args:
        q_start, kv_start: first row of the padded queries, and of the keys; values follow the keys, so they have twice
            as many rows from `2 * kv_start`.
        batch: pairs times heads.
        q_length, kv_length: padded lengths.
        bias_X1M: 0 at keys, -inf at padding, added to scores.
    """

    q_start: int
    kv_start: int
    batch: int
    q_length: int
    kv_length: int
    bias_X1M: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossPlan:
    """Row numbers that carry queries, keys and values into the padded layout and back.

    Args:
        buckets: pairs of which neither side is empty, each in one bucket.
        pack_R: row of `q_THK` for each row of the padded queries.
        unpack_TH: the inverse of `pack_R` on real rows.
        padding: padded queries that are no token, or repeat one to fill a batch.
        idle_T: rows of the queries that attend to nothing: slack, and segments without keys.
        pack_R2: row of `kv_U2HK` for each row of the padded keys and values.
        unpack_U2H: the inverse of `pack_R2` on real rows.
        idle_U: rows of the keys that nothing attends to.
    """

    buckets: tuple[CrossBucket, ...]
    pack_R: Tensor
    unpack_TH: Tensor
    padding: Tensor
    idle_T: Tensor
    pack_R2: Tensor
    unpack_U2H: Tensor
    idle_U: Tensor


def make_cross_plan(
    lengths: tuple[Rows, Rows],
    num_heads: int,
    num_rows: tuple[int, int],
    device: torch.device,
) -> CrossPlan:
    """The padded layout of pairs of segments.

    Args:
        lengths: of the query segments and of the key segments, pair by pair; zeros allowed.
        num_heads: of attention.
        num_rows: of the queries' and of the keys' tensor.
        device: where row numbers go.
    """
    buckets: list[CrossBucket] = []
    packs: tuple[list[Rows], list[Rows]] = ([], [])
    pads: tuple[list[Flags], list[Flags]] = ([], [])
    starts = [0, 0]
    for pair, filler in _pairs(lengths, num_heads):
        bias_X1M = pair[1].bias(num_heads, device)
        buckets.append(
            CrossBucket(
                q_start=starts[0],
                kv_start=starts[1],
                batch=len(bias_X1M),
                q_length=pair[0].token_BL.shape[1],
                kv_length=pair[1].token_BL.shape[1],
                bias_X1M=bias_X1M,
            )
        )
        for side, layout in enumerate(pair):
            packs[side].append(layout.rows(num_heads, side + 1))
            pads[side].append(layout.padding(num_heads, filler))
            starts[side] += pads[side][-1].size
    q_pack, kv_pack = (join_rows(rows) for rows in packs)
    q_pad, kv_pad = join_rows(pads[0]), join_rows([np.tile(p, 2) for p in pads[1]])
    alive = (lengths[0] > 0) & (lengths[1] > 0)
    idle_T, idle_U = (_idle(own, alive, rows) for own, rows in zip(lengths, num_rows, strict=True))
    return CrossPlan(
        buckets=tuple(buckets),
        pack_R=move(torch.from_numpy(q_pack), device),
        unpack_TH=move(invert(q_pack, q_pad, num_rows[0] * num_heads), device),
        padding=move(torch.from_numpy(np.flatnonzero(q_pad)), device),
        idle_T=move(torch.from_numpy(idle_T), device),
        pack_R2=move(torch.from_numpy(kv_pack), device),
        unpack_U2H=move(invert(kv_pack, kv_pad, 2 * num_rows[1] * num_heads), device),
        idle_U=move(torch.from_numpy(idle_U), device),
    )


def _pairs(lengths: tuple[Rows, Rows], num_heads: int) -> Iterator[tuple[tuple[Layout, Layout], int]]:
    """Buckets of pairs, and how many of each are copies: keys of similar length first, among them queries."""
    q_lengths, kv_lengths = lengths
    alive = (q_lengths > 0) & (kv_lengths > 0)
    for kv_members, kv_limit in _grouped(kv_lengths, alive):
        among = np.zeros_like(alive)
        among[kv_members] = True
        for members, q_limit in _grouped(q_lengths, among):
            grain = BUCKET_GRAIN // (max(q_limit, kv_limit) * num_heads)
            members, filler = fill(members, grain)
            yield (lay_out(q_lengths, members, q_limit), lay_out(kv_lengths, members, kv_limit)), filler


def _grouped(lengths: Rows, among: Flags) -> Iterator[tuple[Rows, int]]:
    """Numbers of segments of similar length, with the padded length."""
    limits = bucket_lengths(lengths[among])
    bucket_of = np.searchsorted(limits, lengths) if limits else lengths
    for number, limit in enumerate(limits):
        yield np.flatnonzero((bucket_of == number) & among), limit


def _idle(lengths: Rows, alive: Flags, num_rows: int) -> Rows:
    """Rows of segments that take no part, and slack."""
    idle = np.repeat(~alive, lengths)
    return np.concatenate([np.flatnonzero(idle), np.arange(len(idle), num_rows)])


def padded_cross_attention(q_THK: Tensor, kv_U2HK: Tensor, plan: CrossPlan) -> Tensor:
    """Attention of the pairs of a plan, `o_THK`, zeros at `idle_T`."""
    o_THK: Tensor = _PaddedCrossAttention.apply(q_THK, kv_U2HK, plan)  # type: ignore[no-untyped-call]
    return o_THK


class _PaddedCrossAttention(torch.autograd.Function):
    """As `buckets._PaddedAttention`, for two sequences."""

    @staticmethod
    def forward(ctx: Any, q_THK: Tensor, kv_U2HK: Tensor, plan: CrossPlan) -> Tensor:
        ctx.plan, ctx.shapes = plan, (q_THK.shape, kv_U2HK.shape)
        width = q_THK.shape[2]
        q_RK = q_THK.reshape(-1, width).index_select(0, plan.pack_R)
        kv_RK = kv_U2HK.reshape(-1, width).index_select(0, plan.pack_R2)
        o_RK = torch.empty_like(q_RK)
        kept = [bucket_attention((*_views(b, q_RK, kv_RK), _rows(b, o_RK)), _bias(b, q_RK)) for b in plan.buckets]
        ctx.save_for_backward(q_RK, kv_RK, o_RK, *kept)
        return _unpack(o_RK, plan.unpack_TH, plan.idle_T, q_THK.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor, Tensor, None]:
        q_RK, kv_RK, o_RK, *kept = ctx.saved_tensors
        plan: CrossPlan = ctx.plan
        grad_RK = grad_THK.reshape(-1, q_RK.shape[1]).index_select(0, plan.pack_R).index_fill_(0, plan.padding, 0)
        dq_RK, dkv_RK = torch.empty_like(q_RK), torch.empty_like(kv_RK)
        for bucket, state in zip(plan.buckets, kept, strict=True):
            saved = (*_views(bucket, q_RK, kv_RK), _rows(bucket, o_RK), state)
            grads = _views(bucket, dq_RK, dkv_RK)
            bucket_attention_backward(saved, _rows(bucket, grad_RK), grads, _bias(bucket, q_RK))
        dq_THK = _unpack(dq_RK, plan.unpack_TH, plan.idle_T, ctx.shapes[0])
        return dq_THK, _unpack(dkv_RK, plan.unpack_U2H, plan.idle_U, ctx.shapes[1]), None


def _unpack(rows_RK: Tensor, unpack: Tensor, idle: Tensor, shape: torch.Size) -> Tensor:
    """Padded rows back in their order; zeros for what took no part."""
    if not len(rows_RK):
        return rows_RK.new_zeros(shape)
    return rows_RK.index_select(0, unpack).view(shape).index_fill_(0, idle, 0)


def _rows(bucket: CrossBucket, rows_RK: Tensor) -> Tensor:
    """A bucket's queries, or what has their shape, `[X, L, K]`."""
    end = bucket.q_start + bucket.batch * bucket.q_length
    return rows_RK[bucket.q_start : end].view(bucket.batch, bucket.q_length, -1)


def _views(bucket: CrossBucket, q_RK: Tensor, kv_RK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A bucket's queries `[X, L, K]`, keys and values `[X, M, K]`, as views."""
    first, rows = 2 * bucket.kv_start, bucket.batch * bucket.kv_length
    kv = kv_RK[first : first + 2 * rows].view(2, bucket.batch, bucket.kv_length, -1)
    return _rows(bucket, q_RK), kv[0], kv[1]


def _bias(bucket: CrossBucket, like: Tensor) -> Tensor:
    return bucket.bias_X1M.to(like.dtype)
