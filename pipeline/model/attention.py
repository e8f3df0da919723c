"""Attention within segments of a packed sequence: no masks, and no padding outside the CPU kernel.

A *segment* is a run of neighbouring tokens that see each other: the tokens of one field of one sample, or all tokens of
a sample. `Segments` holds the lengths and, made once and shared by all layers, what attention needs of them; `attend`
takes the projected tokens and returns the mixed values.

- CUDA, half precision: `torch.nn.attention.varlen.varlen_attn`.
- Else: segments of similar length share a padded *bucket*, computed by matrix products up to `MATMUL_LENGTH` tokens and
  by the fused CPU kernel above.

Shapes are rounded up on a CPU, since oneDNN compiles a kernel for each new shape of a bf16 product: 5 to 9 ms where the
product itself takes 0.5 (`[1600, 128] x [128, 512]`, one AMX core). So sequences end with up to an eighth, 4 % on
average, of *slack*: rows that are no token, that nothing reads and whose gradient is zero.

Worked example: lengths `[2, 0, 3]` are tokens 0-1 and 2-4, then 27 slack rows; the empty segment takes no part.
"""

# T rows of the sequence (tokens, then slack), N segments, H heads, K width of a head, R rows of the padded layout,
# X batch of a bucket (segments times heads), L padded length of a bucket

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MATMUL_LENGTH = 512
"""Longest segment computed by plain matrix products on a CPU. Forward and backward of 4,096 tokens with 2 heads of 64
in bf16 on one AMX core took 34 ms against 60 (fused kernel) at 512 tokens, 85 against 82 at 1,024."""

BUCKET_COST = 128.0
"""What one more bucket costs (its calls), in tokens; decides how finely lengths are grouped."""

ROW_GRAIN, LENGTH_GRAIN, BUCKET_GRAIN = 32, 8, 256
"""Least steps to which rows, padded lengths and tokens of a bucket are rounded up on a CPU."""


def round_up(number: int, grain: int) -> int:
    """The next multiple of `grain`, or of an eighth of the power of two below if that is more; 0 stays 0.

    So there are at most 8 sizes between a number and its double, and at most an eighth is added (above 8 grains).
    """
    step = max(grain, 1 << max(number.bit_length() - 4, 0))
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


class Segments:
    """Neighbouring tokens that belong together, as lengths; what follows from them is made once, on first use.

    Args:
        lengths_N: int64 `[N]` on the model's device, zeros allowed.

    Attributes:
        num_tokens: the sum of the lengths.
        num_rows: rows of the tensors that hold these tokens: `num_tokens`, rounded up on a CPU.
        max_length: of the longest segment.
    """

    def __init__(self, lengths_N: Tensor) -> None:
        self.lengths_N = lengths_N
        self._host: NDArray[np.int64] = lengths_N.cpu().numpy()
        self.num_tokens = int(self._host.sum())
        self.num_rows = self.num_tokens if lengths_N.is_cuda else round_up(self.num_tokens, ROW_GRAIN)
        self.max_length = int(self._host.max(initial=0))
        self._plans: dict[int, Plan] = {}

    @functools.cached_property
    def starts_N(self) -> Tensor:
        """First row of each segment, int64 `[N]`."""
        return self.lengths_N.cumsum(0) - self.lengths_N

    @functools.cached_property
    def owner_T(self) -> Tensor:
        """The segment of each row, int64 `[T]`; `N` for slack."""
        runs = torch.nn.functional.pad(self.lengths_N, (0, 1), value=self.num_rows - self.num_tokens)
        return torch.arange(len(runs), device=runs.device).repeat_interleave(runs, output_size=self.num_rows)

    @functools.cached_property
    def offset_T(self) -> Tensor:
        """The place of each row within its segment, int64 `[T]`; 0 for slack."""
        rows = torch.arange(self.num_rows, device=self.lengths_N.device)
        starts_T = torch.cat([self.starts_N, self.starts_N.new_zeros(1)])[self.owner_T]
        return (rows - starts_T).masked_fill_(rows >= self.num_tokens, 0)

    @functools.cached_property
    def cu_seqlens(self) -> Tensor:
        """Ends of the segments with a leading 0, int32 `[N + 1]`, as kernels for packed sequences want it."""
        return torch.nn.functional.pad(self.lengths_N.cumsum(0), (1, 0)).to(torch.int32)

    def plan(self, num_heads: int) -> Plan:
        """The padded layout for a number of heads."""
        if num_heads not in self._plans:
            self._plans[num_heads] = make_plan(self._host, num_heads, self.num_rows, self.lengths_N.device)
        return self._plans[num_heads]

    def mean(self, x_TD: Tensor) -> Tensor:
        """The mean of each segment in float32, `[N, D]`; zeros for empty ones."""
        x_TD = x_TD.float()
        sums_ND = x_TD.new_zeros(len(self._host) + 1, x_TD.shape[1]).index_add(0, self.owner_T, x_TD)[:-1]
        return sums_ND / self.lengths_N.clamp(min=1).unsqueeze(1)

    def max(self, x_TD: Tensor) -> Tensor:
        """The largest of each number in each segment in float32, `[N, D]`; zeros for empty ones."""
        x_TD = x_TD.float()
        lowest = torch.finfo(x_TD.dtype).min
        most_ND = x_TD.new_full((len(self._host) + 1, x_TD.shape[1]), lowest)
        owner_TD = self.owner_T.unsqueeze(1).expand_as(x_TD)
        most_ND = most_ND.scatter_reduce(0, owner_TD, x_TD, "amax")[:-1]
        return most_ND.masked_fill((self.lengths_N == 0).unsqueeze(1), 0.0)


def attend(qkv_T3HK: Tensor, segments: Segments) -> Tensor:
    """Softmax attention of every token to the tokens of its segment.

    Args:
        qkv_T3HK: queries, keys and values of each row and head, any float dtype; `T` is `segments.num_rows`.
        segments: where the tokens belong.

    Returns:
        `o_THK` in the same dtype, zeros at slack; empty where there is no token at all.
    """
    if qkv_T3HK.is_cuda and qkv_T3HK.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn  # brings torch's compiler: 2 s that a CPU need not pay

        q_THK, k_THK, v_THK = qkv_T3HK.unbind(1)
        cu, longest = segments.cu_seqlens, segments.max_length
        o_THK = varlen_attn(q_THK, k_THK, v_THK, cu, cu, longest, longest)
    else:
        o_THK = _Bucketed.apply(qkv_T3HK, segments.plan(qkv_T3HK.shape[2]))  # type: ignore[no-untyped-call]
    assert isinstance(o_THK, Tensor)
    return o_THK


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


def make_plan(lengths: NDArray[np.int64], num_heads: int, num_rows: int, device: torch.device) -> Plan:
    """The padded layout of segments of these lengths, of which `num_rows` rows are made; see `Plan`."""
    starts = np.cumsum(lengths) - lengths
    limits = bucket_lengths(lengths)
    bucket_of = np.searchsorted(limits, lengths) if limits else lengths
    buckets, packs, pads, start = [], [], [], 0
    for number, limit in enumerate(limits):
        members = np.flatnonzero((bucket_of == number) & (lengths > 0))
        filler = round_up(len(members), max(BUCKET_GRAIN // (limit * num_heads), 1)) - len(members)
        members = np.concatenate([members, np.repeat(members[:1], filler)])
        pad_BL = np.arange(limit) >= lengths[members, None]
        token_BL = starts[members, None] + np.where(pad_BL, 0, np.arange(limit))  # padding repeats its own segment
        bias = np.repeat(np.where(pad_BL, np.float32(-np.inf), np.float32(0)), num_heads, axis=0)
        pad_BL[len(members) - filler :] = True
        packs.append(np.repeat(token_BL, num_heads, axis=0).reshape(-1, num_heads, limit))
        pads.append(np.repeat(pad_BL, num_heads, axis=0).ravel())
        bias_X1L = torch.from_numpy(bias[:, None]).to(device)
        buckets.append(Bucket(start=start, batch=len(bias), length=limit, bias_X1L=bias_X1L))
        start += bias.size
    heads = np.arange(num_heads)[:, None]
    one = [(token * num_heads + heads).ravel() for token in packs]
    three = [((token * 3 + part) * num_heads + heads).ravel() for token in packs for part in range(3)]
    pad, pad3 = _join(pads), _join([p for p in pads for _ in range(3)])
    return Plan(
        buckets=tuple(buckets),
        pack_R3=torch.from_numpy(_join(three)).to(device),
        unpack_T3H=_inverse(_join(three), pad3, 3 * num_rows * num_heads).to(device),
        pack_R=torch.from_numpy(_join(one)).to(device),
        unpack_TH=_inverse(_join(one), pad, num_rows * num_heads).to(device),
        padding=torch.from_numpy(np.flatnonzero(pad)).to(device),
        num_tokens=int(lengths.sum()),
    )


def _join(parts: list[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)


def _inverse(pack: NDArray[np.int64], pad: NDArray[np.int64], size: int) -> Tensor:
    """Where each row went; 0 for slack, which went nowhere."""
    real = np.flatnonzero(pad == 0)
    inverse = np.zeros(size, dtype=np.int64)
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
        o_THK = o_RK.index_select(0, plan.unpack_TH).view(tokens, heads, width)
        o_THK[plan.num_tokens :] = 0
        return o_THK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor, None]:
        qkv_RK, o_RK, *kept = ctx.saved_tensors
        plan: Plan = ctx.plan
        tokens, _, heads, width = ctx.shape
        rows = grad_THK.reshape(tokens * heads, width)
        grad_RK = rows.index_select(0, plan.pack_R).index_fill_(0, plan.padding, 0)
        dqkv_RK = torch.empty_like(qkv_RK)
        for bucket, state in zip(plan.buckets, kept, strict=True):
            _mix_backward(bucket, (qkv_RK, o_RK, state), grad_RK, dqkv_RK)
        dqkv_T3HK = dqkv_RK.index_select(0, plan.unpack_T3H).view(ctx.shape)
        dqkv_T3HK[plan.num_tokens :] = 0
        return dqkv_T3HK, None


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
