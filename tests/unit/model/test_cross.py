"""Laws of attention from the segments of one sequence to those of another."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from interlace.model import buckets
from interlace.model.attention import Segments, attend, attend_to

PAIRS = [
    ([3, 0, 5, 1, 0, 17, 2], [2, 4, 0, 9, 0, 1, 30]),
    ([16] * 9, [16] * 9),
    ([1], [70]),
    ([40, 8, 33, 70, 2], [8, 130, 70, 2, 0]),
    ([4, 2], [0, 0]),
    ([0, 0], [3, 1]),
]


def dense(q_THK: Tensor, kv_U2HK: Tensor, pair: tuple[list[int], list[int]]) -> Tensor:
    """The reference: one dense mask over all pairs of tokens, zeros where nothing is seen."""
    owners = [torch.arange(len(n)).repeat_interleave(torch.tensor(n)) for n in pair]
    q = q_THK[: len(owners[0])].transpose(0, 1).double()
    k, v = (x[: len(owners[1])].transpose(0, 1).double() for x in kv_U2HK.unbind(1))
    scores = (q @ k.transpose(1, 2)) * q.shape[2] ** -0.5
    seen = owners[0][:, None] == owners[1][None]
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).masked_fill(~seen, 0.0)
    return (weights @ v).transpose(0, 1)


def draw(pair: tuple[list[int], list[int]], heads: int = 2, width: int = 16):
    torch.manual_seed(0)
    q_segments, kv_segments = (Segments(torch.tensor(n)) for n in pair)
    q = torch.randn(q_segments.num_rows, heads, width, requires_grad=True)
    kv = torch.randn(kv_segments.num_rows, 2, heads, width, requires_grad=True)
    return q, kv, q_segments, kv_segments


@pytest.mark.parametrize("fused_kernel", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_equal_a_dense_mask(
    pair: tuple[list[int], list[int]], fused_kernel: bool, monkeypatch: pytest.MonkeyPatch
):
    if fused_kernel:
        monkeypatch.setattr(buckets, "MATMUL_LENGTH", 0)
    q, kv, q_segments, kv_segments = draw(pair)
    weight = torch.randn(sum(pair[0]), 2, 16)
    got, want = attend_to(q, kv, q_segments, kv_segments), dense(q, kv, pair)
    assert len(got) == q_segments.num_rows
    torch.testing.assert_close(got[: len(want)], want.float(), atol=1e-5, rtol=1e-5)
    grads = torch.autograd.grad((got[: len(want)] * weight).sum(), (q, kv))
    wanted = torch.autograd.grad((want * weight).sum(), (q, kv))
    for a, b in zip(grads, wanted, strict=True):
        torch.testing.assert_close(a, b.float(), atol=1e-5, rtol=1e-5)
    meet = any(a and b for a, b in zip(*pair, strict=True))
    assert bool(wanted[0].any()) == meet


def test_a_sequence_that_asks_itself_equals_attention_within_segments():
    lengths = [9, 30, 4, 0, 61]
    q, kv, segments, _ = draw((lengths, lengths), heads=3)
    both = torch.cat([q.unsqueeze(1), kv], dim=1)
    torch.testing.assert_close(attend_to(q, kv, segments, segments), attend(both, segments))


def test_slack_is_zero_and_takes_no_part_and_a_nan_stays_in_its_pair():
    pair = ([5, 9, 3], [4, 2, 6])
    q, kv, q_segments, kv_segments = draw(pair)
    q_bad, kv_bad = q.detach().clone(), kv.detach().clone()
    q_bad[17:], kv_bad[12:] = torch.nan, torch.nan
    q_bad.requires_grad_(), kv_bad.requires_grad_()
    clean, out = (attend_to(*x, q_segments, kv_segments) for x in ((q, kv), (q_bad, kv_bad)))
    assert torch.equal(out, clean)
    grads = torch.autograd.grad(out.square().sum(), (q_bad, kv_bad))
    assert not out[17:].any()
    assert not grads[0][17:].any()
    assert not grads[1][12:].any()
    kv_bad = kv.detach().clone()
    kv_bad[4:6] = torch.nan
    out = attend_to(q, kv_bad, q_segments, kv_segments)
    assert torch.equal(out[:5], clean[:5])
    assert torch.equal(out[14:], clean[14:])
    assert out[5:14].isnan().all()


def test_bf16_is_close_to_fp32():
    q, kv, q_segments, kv_segments = draw(([20, 31, 5], [7, 40, 16]), width=64)
    half = attend_to(q.bfloat16(), kv.bfloat16(), q_segments, kv_segments)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attend_to(q, kv, q_segments, kv_segments), atol=0.03, rtol=0.03)


def test_two_sequences_that_ask_each_other_are_freed_without_the_collector():
    gc.disable()
    try:
        q, kv, a, b = draw(([2, 3], [4, 1]))
        attend_to(q, kv, a, b)
        attend_to(torch.randn(b.num_rows, 2, 16), torch.randn(a.num_rows, 2, 2, 16), b, a)
        gone = [weakref.ref(a), weakref.ref(b)]
        del a, b
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
