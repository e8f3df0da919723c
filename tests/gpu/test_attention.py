"""Attention within segments and across them, by the kernel for packed sequences, equals a dense mask."""

import pytest
import torch
from torch import Tensor

from interlace.model.attention import Segments, attend, attend_to

pytestmark = pytest.mark.gpu
LENGTHS = ([3, 0, 5, 1, 0, 17, 2], [1], [0, 4], [40, 8, 33, 70, 130, 2, 2, 2, 0], [576, 3, 1200, 144])
SHAPES = ((2, 16), (6, 64), (4, 128))
"""Heads and their width."""
ROUNDING = 2**-6
"""Twice that of bf16 (8 bits) relative to the largest number: gradients pass two products whose factors are rounded."""
MEAN_ROUNDING = 2**-7
"""Of the whole, as a norm."""


def dense(q_THK: Tensor, k_UHK: Tensor, v_UHK: Tensor, seen_TU: Tensor) -> Tensor:
    """The reference: one mask over all tokens, in float64; zeros where a token sees nothing."""
    q, k, v = (x.double().transpose(0, 1) for x in (q_THK, k_UHK, v_UHK))
    scores = (q @ k.transpose(1, 2)) * q.shape[2] ** -0.5
    return (scores.masked_fill(~seen_TU, -torch.inf).softmax(-1).nan_to_num(0.0) @ v).transpose(0, 1)


def owners(lengths: list[int], device: torch.device) -> Tensor:
    """The segment of each token."""
    return torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(lengths, device=device))


def equal(got: Tensor, want: Tensor) -> None:
    """To the rounding of bf16."""
    assert got.dtype == torch.bfloat16
    got, want = got.detach().double(), want.detach()
    assert float((got - want).abs().max()) <= ROUNDING * max(float(want.abs().max()), 1.0)
    assert float((got - want).norm()) <= MEAN_ROUNDING * max(float(want.norm()), 1.0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_within_segments_equals_a_dense_mask(
    lengths: list[int], shape: tuple[int, int], causal: bool, device: torch.device
) -> None:
    segments, tokens = Segments(torch.tensor(lengths), device), sum(lengths)
    torch.manual_seed(0)
    drawn = torch.randn(segments.num_rows, 3, *shape).bfloat16()
    weight = torch.randn(tokens, *shape).bfloat16().to(device)
    qkv = drawn.to(device).requires_grad_()
    got = attend(qkv, segments, causal=causal)[:tokens]
    (got_grad,) = torch.autograd.grad((got * weight).sum(), qkv)
    owner = owners(lengths, device)
    seen = owner[:, None] == owner[None]
    if causal:
        seen = seen & torch.ones_like(seen).tril()
    exact = qkv.detach().double().requires_grad_()
    want = dense(*exact[:tokens].unbind(1), seen)
    (want_grad,) = torch.autograd.grad((want * weight.double()).sum(), exact)
    equal(got, want)
    equal(got_grad[:tokens], want_grad[:tokens])
    assert float(want_grad.abs().sum()) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_to_another_sequence_equals_a_dense_mask(shape: tuple[int, int], device: torch.device) -> None:
    asked, known = [3, 0, 40, 5, 130, 1], [7, 4, 90, 0, 33, 600]
    queries, keys = Segments(torch.tensor(asked), device), Segments(torch.tensor(known), device)
    torch.manual_seed(0)
    q = torch.randn(queries.num_rows, *shape).bfloat16().to(device).requires_grad_()
    kv = torch.randn(keys.num_rows, 2, *shape).bfloat16().to(device).requires_grad_()
    got = attend_to(q, kv, queries, keys)[: sum(asked)]
    weight = torch.randn(sum(asked), *shape).bfloat16().to(device)
    got_grads = torch.autograd.grad((got * weight).sum(), (q, kv))
    exact_q, exact_kv = (x.detach().double().requires_grad_() for x in (q, kv))
    seen = owners(asked, device)[:, None] == owners(known, device)[None]
    want = dense(exact_q[: sum(asked)], *exact_kv[: sum(known)].unbind(1), seen)
    want_grads = torch.autograd.grad((want * weight.double()).sum(), (exact_q, exact_kv))
    equal(got, want)
    for got_grad, want_grad, tokens in zip(got_grads, want_grads, (sum(asked), sum(known)), strict=True):
        equal(got_grad[:tokens], want_grad[:tokens])
    assert not got[43:48].any()  # of these there is nothing to attend to


@pytest.mark.parametrize("shape", SHAPES)
def test_no_token_at_all_gives_nothing_and_has_a_gradient(shape: tuple[int, int], device: torch.device) -> None:
    """A field may be missing from all samples of a pack."""
    nothing, some = (Segments(torch.tensor(lengths), device) for lengths in ([0, 0, 0], [2, 0, 3]))
    torch.manual_seed(0)
    qkv, q, kv = (
        torch.randn(*size, *shape).bfloat16().to(device).requires_grad_()
        for size in ((0, 3), (some.num_rows,), (some.num_rows, 2))
    )
    empty_q, empty_kv = (torch.zeros(*size, *shape).bfloat16().to(device) for size in ((0,), (0, 2)))
    within = attend(qkv, nothing)
    asks, asked = attend_to(q, empty_kv, some, nothing), attend_to(empty_q, kv, nothing, some)
    (within.sum() + asks.sum() + asked.sum()).backward()
    assert within.shape == asked.shape == (0, *shape)
    assert not asks.any()
    assert not q.grad.any()
    assert not kv.grad.any()
    assert qkv.grad.shape == qkv.shape
