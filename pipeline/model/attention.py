"""Attention within segments of a packed sequence: no masks, and no padding outside the padded kernel.

A *segment* is a run of neighbouring tokens that see each other: the tokens of one field of one sample, or all tokens of
a sample. `Segments` holds the lengths and, made once and shared by all layers, what attention needs of them; `attend`
takes the projected tokens and returns the mixed values, `attend_to` takes queries of one sequence and keys and values
of another.

- CUDA, half precision: `torch.nn.attention.varlen.varlen_attn`.
- Else: segments of similar length share a padded *bucket*, computed by matrix products up to `MATMUL_LENGTH` tokens and
  by the fused CPU kernel above (`buckets`, `cross`).

Rows are rounded up (`rows_of`), so that kernels meet few shapes. On a CPU oneDNN compiles a kernel for each new shape
of a bf16 product: 5 to 9 ms where the product itself takes 0.5 (`[1600, 128] x [128, 512]`, one AMX core). So sequences
end with *slack*: rows that are no token, that nothing reads and whose gradient is zero. Kernels for packed sequences
leave memory outside their segments as they find it, so slack is one more segment to them.

Worked example: lengths `[2, 0, 3]` are tokens 0-1 and 2-4, then 27 slack rows; the empty segment takes no part.
"""

# T rows of the sequence (tokens, then slack), U of the sequence that is asked, N segments, H heads, K width of a head

import functools
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interlace.contract.batch import move
from interlace.model.buckets import ROW_GRAIN, Plan, make_plan, padded_attention, round_up
from interlace.model.cross import CrossPlan, make_cross_plan, padded_cross_attention

GPU_ROW_GRAIN = 128
"""Least step of rows on a GPU: those of a tile of its matrix products."""


def rows_of(num_tokens: int, device: torch.device) -> int:
    """Rows of the tensors that hold so many tokens.

    On a CPU multiples of 32, above 256 in 8 sizes from a number to its double: at most an eighth is added, 4 % on
    average. On a GPU multiples of 128, above 2,048 in 16 such sizes: at most 127 rows or a sixteenth, 3 % on average;
    joint sequences of packs that fill their budget have one size.
    """
    if device.type == "cuda":
        return round_up(num_tokens, GPU_ROW_GRAIN, parts=16)
    return round_up(num_tokens, ROW_GRAIN)


class Segments:
    """Neighbouring tokens that belong together, as lengths; what follows from them is made once, on first use.

    Args:
        host_N: the lengths, int64 `[N]` on the CPU, zeros allowed.
        device: the model's.

    Attributes:
        host_N: as given.
        device: as given.
        num_tokens: the sum of the lengths.
        num_rows: rows of the tensors that hold these tokens: `num_tokens`, rounded up (`rows_of`).
        max_length: of the longest segment.
    """

    def __init__(self, host_N: Tensor, device: torch.device | str = "cpu") -> None:
        self.host_N, self.device = host_N, torch.device(device)
        self._host: NDArray[np.int64] = host_N.numpy()
        self.num_tokens = int(self._host.sum())
        self.num_rows = rows_of(self.num_tokens, self.device)
        self.max_length = int(self._host.max(initial=0))
        self._plans: dict[int, Plan] = {}
        self._cross_plans: WeakKeyDictionary[Segments, dict[int, CrossPlan]] = WeakKeyDictionary()

    @functools.cached_property
    def lengths_N(self) -> Tensor:
        """The lengths on the model's device, int64 `[N]`."""
        return move(self.host_N, self.device)

    @functools.cached_property
    def starts_N(self) -> Tensor:
        """First row of each segment, int64 `[N]`."""
        return move(self.host_starts_N, self.device)

    @functools.cached_property
    def host_starts_N(self) -> Tensor:
        """`starts_N` on the CPU."""
        return self.host_N.cumsum(0) - self.host_N

    @functools.cached_property
    def owner_T(self) -> Tensor:
        """The segment of each row, int64 `[T]`; `N` for slack."""
        runs = torch.nn.functional.pad(self.lengths_N, (0, 1), value=self.num_rows - self.num_tokens)
        return torch.arange(len(runs), device=runs.device).repeat_interleave(runs, output_size=self.num_rows)

    @functools.cached_property
    def offset_T(self) -> Tensor:
        """The place of each row within its segment, int64 `[T]`; 0 for slack."""
        rows = torch.arange(self.num_rows, device=self.device)
        starts_T = torch.cat([self.starts_N, self.starts_N.new_zeros(1)])[self.owner_T]
        return (rows - starts_T).masked_fill_(rows >= self.num_tokens, 0)

    @functools.cached_property
    def cu_seqlens(self) -> Tensor:
        """Ends of the segments, and of slack, with a leading 0, int32 `[N + 2]`: what kernels for them want."""
        ends = torch.nn.functional.pad(self.host_N.cumsum(0), (1, 1))
        ends[-1] = self.num_rows
        return move(ends.to(torch.int32), self.device)

    @property
    def longest(self) -> int:
        """Rows of the longest segment, or of slack if that is longer: what goes with `cu_seqlens`."""
        return max(self.max_length, self.num_rows - self.num_tokens)

    def plan(self, num_heads: int) -> Plan:
        """The padded layout for a number of heads."""
        if num_heads not in self._plans:
            self._plans[num_heads] = make_plan(self._host, num_heads, self.num_rows, self.device)
        return self._plans[num_heads]

    def cross_plan(self, keys: "Segments", num_heads: int) -> CrossPlan:
        """The padded layout of these segments, as queries, beside those of their keys, for a number of heads."""
        plans = self._cross_plans.setdefault(keys, {})  # weak: two fields that ask each other must not be a cycle
        if num_heads not in plans:
            lengths, rows = (self._host, keys._host), (self.num_rows, keys.num_rows)
            plans[num_heads] = make_cross_plan(lengths, num_heads, rows, self.device)
        return plans[num_heads]

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


def attend(qkv_T3HK: Tensor, segments: Segments, *, causal: bool = False) -> Tensor:
    """Softmax attention of every token to the tokens of its segment.

    Args:
        qkv_T3HK: queries, keys and values of each row and head, any float dtype; `T` is `segments.num_rows`.
        segments: where the tokens belong.
        causal: whether a token sees only itself and those before it.

    Returns:
        `o_THK` in the same dtype, finite at slack; empty where there is no token at all.
    """
    if not _has_varlen(qkv_T3HK):
        return padded_attention(qkv_T3HK, segments.plan(qkv_T3HK.shape[2]), causal=causal)
    q_THK, *kv = qkv_T3HK.unbind(1)
    return _varlen(q_THK, (kv[0], kv[1]), (segments.cu_seqlens,) * 2, (segments.longest,) * 2, causal)


def attend_to(q_THK: Tensor, kv_U2HK: Tensor, q_segments: Segments, kv_segments: Segments) -> Tensor:
    """Softmax attention of every token to all tokens of the segment of another sequence that has its segment's number.

    Args:
        q_THK: queries of each row and head, any float dtype; `T` is `q_segments.num_rows`.
        kv_U2HK: keys and values in the same dtype; `U` is `kv_segments.num_rows`.
        q_segments: where the queries belong.
        kv_segments: where the keys belong, as many segments; either may be empty anywhere.

    Returns:
        `o_THK` in the same dtype; zeros where there is nothing to attend to, finite at slack.
    """
    if not _has_varlen(q_THK):
        return padded_cross_attention(q_THK, kv_U2HK, q_segments.cross_plan(kv_segments, q_THK.shape[1]))
    starts, longest = (q_segments.cu_seqlens, kv_segments.cu_seqlens), (q_segments.longest, kv_segments.longest)
    k_UHK, v_UHK = kv_U2HK.unbind(1)
    return _varlen(q_THK, (k_UHK, v_UHK), starts, longest, False)


def _varlen(
    q_THK: Tensor, kv: tuple[Tensor, Tensor], starts: tuple[Tensor, Tensor], longest: tuple[int, int], causal: bool
) -> Tensor:
    """Torch's kernel for packed sequences: of queries and keys the first rows of segments, and the longest ones'."""
    from torch.nn.attention.varlen import varlen_attn  # brings torch's compiler: 2 s that a CPU need not pay

    o_THK = varlen_attn(q_THK, *kv, *starts, *longest, window_size=(-1, 0) if causal else (-1, -1))
    assert isinstance(o_THK, Tensor)
    return o_THK


def _has_varlen(x: Tensor) -> bool:
    """Whether torch's kernel for packed sequences takes it."""
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)
