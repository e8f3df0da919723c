"""Laws of attention within segments."""

import numpy as np
import pytest
import torch
from torch import Tensor

from interlace.model import buckets
from interlace.model.attention import Segments, attend
from interlace.model.buckets import bucket_lengths, round_up

LENGTHS = [
    [3, 0, 5, 1, 0, 17, 2],
    [16] * 9,
    [1],
    [0, 4],
    [40, 8, 33, 70, 130, 2, 2, 2, 0],
]


def dense(qkv_T3HK: Tensor, lengths: list[int], causal: bool = False) -> Tensor:
    """The reference: one dense mask over all tokens."""
    tokens = sum(lengths)
    q, k, v = (x[:tokens].transpose(0, 1).double() for x in qkv_T3HK.unbind(1))
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    scores = (q @ k.transpose(1, 2)) * q.shape[2] ** -0.5
    hidden = owner[:, None] != owner[None]
    if causal:
        hidden = hidden | torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    scores = scores.masked_fill(hidden, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


def draw(lengths: list[int], heads: int = 2, width: int = 16) -> tuple[Tensor, Segments]:
    segments = Segments(torch.tensor(lengths))
    torch.manual_seed(0)
    return torch.randn(segments.num_rows, 3, heads, width, requires_grad=True), segments


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("fused_kernel", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_buckets_equal_a_dense_mask(
    lengths: list[int], fused_kernel: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
):
    if fused_kernel:
        monkeypatch.setattr(buckets, "MATMUL_LENGTH", 0)
    qkv, segments = draw(lengths)
    weight = torch.randn(sum(lengths), 2, 16)
    got = attend(qkv, segments, causal=causal)
    want = dense(qkv, lengths, causal)
    got_grad = torch.autograd.grad((got[: len(want)] * weight).sum(), qkv)[0]
    want_grad = torch.autograd.grad((want * weight).sum(), qkv)[0]
    torch.testing.assert_close(got[: len(want)], want.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got_grad, want_grad.float(), atol=1e-5, rtol=1e-5)
    assert want_grad.abs().sum() > 0


def test_a_causal_token_sees_nothing_ahead():
    lengths = [6, 3]
    qkv, segments = draw(lengths)
    changed = qkv.detach().clone()
    changed[4:6] += 1
    before, after = (attend(x, segments, causal=True) for x in (qkv, changed))
    assert torch.equal(before[:4], after[:4])
    assert (before[4:6] - after[4:6]).abs().min(0).values.max() > 1e-3
    assert torch.equal(before[6:], after[6:])


def test_three_heads_and_several_buckets_equal_a_dense_mask():
    lengths = [2, 90, 3, 2, 200, 1, 2, 4, 88]
    qkv, segments = draw(lengths, heads=3, width=8)
    want = dense(qkv, lengths)
    torch.testing.assert_close(attend(qkv, segments)[: len(want)], want.float(), atol=1e-5, rtol=1e-5)
    assert len(segments.plan(3).buckets) > 1


def test_slack_is_zero_and_takes_no_part():
    lengths = [5, 9, 3]
    qkv, segments = draw(lengths)
    poisoned = qkv.detach().clone()
    poisoned[17:] = torch.nan
    poisoned.requires_grad_()
    out = attend(poisoned, segments)
    grad = torch.autograd.grad(out.square().sum(), poisoned)[0]
    assert torch.equal(out, attend(qkv, segments))
    assert not out[17:].any()
    assert not grad[17:].any()
    assert segments.num_rows == 32
    assert len(out) == 32


def test_a_nan_stays_in_its_segment():
    lengths = [4, 2, 7, 3]
    qkv, segments = draw(lengths)
    poisoned = qkv.detach().clone()
    poisoned[4:6] = torch.nan
    clean, dirty = attend(qkv, segments), attend(poisoned, segments)
    others = torch.tensor([i for i in range(segments.num_rows) if i not in (4, 5)])
    assert torch.equal(clean[others], dirty[others])
    assert dirty[4:6].isnan().all()


def test_no_token_at_all_gives_an_empty_output_with_a_gradient():
    segments = Segments(torch.tensor([0, 0, 0]))
    qkv = torch.zeros(0, 3, 2, 16, requires_grad=True)
    out = attend(qkv, segments)
    out.sum().backward()
    assert out.shape == (0, 2, 16)
    assert qkv.grad is not None
    assert segments.mean(torch.zeros(0, 5)).tolist() == [[0.0] * 5] * 3


def test_bf16_is_close_to_fp32():
    lengths = [20, 31, 5, 16, 16]
    qkv, segments = draw(lengths, width=64)
    weight = torch.randn(segments.num_rows, 2, 64)
    half = qkv.detach().bfloat16().requires_grad_()
    out, out_half = attend(qkv, segments), attend(half, segments)
    (out * weight).sum().backward()
    (out_half * weight).sum().backward()
    assert out_half.dtype == torch.bfloat16
    assert qkv.grad is not None
    assert half.grad is not None
    torch.testing.assert_close(out_half.float(), out, atol=0.03, rtol=0.03)
    torch.testing.assert_close(half.grad.float(), qkv.grad, atol=0.06, rtol=0.06)


def test_rounding_up_adds_at_most_an_eighth_and_keeps_few_sizes():
    sizes = [round_up(n, 32) for n in range(1025)]
    assert sizes[0] == 0
    assert all(n <= size < n + max(32, n / 8 + 1) for n, size in enumerate(sizes))
    assert len(set(sizes[513:])) == 8


def test_buckets_hold_every_segment_and_cost_little():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 60, 200)
    limits = bucket_lengths(lengths)
    plan = Segments(torch.tensor(lengths)).plan(2)
    padded = sum(b.batch * b.length for b in plan.buckets) / 2
    assert max(limits) >= lengths.max()
    assert limits == sorted(set(limits))
    assert 1 < len(limits) <= 8
    assert padded < 1.3 * lengths.sum()
    assert padded > lengths.sum()


def test_means_are_those_of_each_segment():
    segments = Segments(torch.tensor([2, 0, 3]))
    x = torch.randn(segments.num_rows, 4)
    means = segments.mean(x)
    torch.testing.assert_close(means[0], x[:2].mean(0))
    torch.testing.assert_close(means[2], x[2:5].mean(0))
    assert not means[1].any()
    assert segments.offset_T[:6].tolist() == [0, 1, 0, 1, 2, 0]
    assert segments.cu_seqlens.tolist() == [0, 2, 2, 5, segments.num_rows]


def test_maxima_are_those_of_each_segment_and_slack_counts_for_nothing():
    segments = Segments(torch.tensor([2, 0, 3]))
    x = torch.randn(segments.num_rows, 4)
    x[5:] = 100.0
    x.requires_grad_()
    maxima = segments.max(x)
    torch.testing.assert_close(maxima[0], x[:2].amax(0))
    torch.testing.assert_close(maxima[2], x[2:5].amax(0))
    assert not maxima[1].any()
    maxima.sum().backward()
    assert x.grad is not None
    assert x.grad[:5].sum() == 8
    assert segments.num_rows > 5
    assert not x.grad[5:].any()


def test_attention_repeats_to_the_bit():
    qkv, segments = draw([9, 30, 4, 4, 61])
    runs = []
    for _ in range(3):
        out = attend(qkv, segments)
        runs.append((out, *torch.autograd.grad(out.square().sum(), qkv)))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
    assert runs[0][1].abs().sum() > 0
