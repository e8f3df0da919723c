"""Laws of the recurrent stem: torch's own GRU, one sample at a time, is the reference."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from interlace.model.attention import Segments
from interlace.model.recurrent import RecurrentStem, time_major

LENGTHS = [3, 0, 1, 5, 5, 0, 2]


def test_time_major_is_the_order_of_torchs_packed_sequences():
    lengths = torch.tensor(LENGTHS)
    rows, sizes = time_major(lengths)
    parts = [part for part in torch.arange(sum(LENGTHS)).split(LENGTHS) if len(part)]
    want = pack_sequence(sorted(parts, key=len, reverse=True))
    assert rows.tolist() == want.data.tolist()
    assert sizes.tolist() == want.batch_sizes.tolist()
    assert [r.tolist() for r in time_major(torch.tensor([2, 0, 3]))] == [[2, 0, 3, 1, 4], [2, 2, 1]]


@pytest.mark.parametrize("dim", [8, 9])
def test_recurrent_stem_equals_a_gru_over_each_sample_alone(dim: int):
    torch.manual_seed(0)
    stem, segments = RecurrentStem(dim), Segments(torch.tensor(LENGTHS))
    x = torch.randn(segments.num_rows, dim)
    out, start = stem(x, segments), 0
    for length in filter(None, LENGTHS):
        own = x[start : start + length]
        want = own + stem.project(stem.cells(stem.norm(own))[0])
        torch.testing.assert_close(out[start : start + length], want, atol=1e-6, rtol=1e-5)
        start += length
    assert torch.equal(out[start:], x[start:])
    assert start == 16 < len(out)


def test_samples_are_independent_and_tokens_see_both_sides():
    torch.manual_seed(0)
    stem, segments = RecurrentStem(8), Segments(torch.tensor([4, 4]))
    x = torch.randn(segments.num_rows, 8)
    other = x.clone()
    other[2] = torch.randn(8)
    moved = (stem(other, segments) - stem(x, segments)).abs().sum(1)
    assert (moved[:4] > 0).all()
    assert not moved[4:].any()


def test_a_pack_without_tokens_gives_every_weight_a_gradient_of_zero():
    stem, segments = RecurrentStem(8), Segments(torch.zeros(3, dtype=torch.int64))
    stem(torch.zeros(0, 8), segments).sum().backward()
    grads = [p.grad for p in stem.parameters()]
    assert all(g is not None and not g.any() for g in grads)
    assert len(grads) == 12


def test_mixed_precision_changes_nothing():
    stem, segments = RecurrentStem(8), Segments(torch.tensor([6, 2]))
    x = torch.randn(segments.num_rows, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = stem(x, segments)
    assert torch.equal(mixed, stem(x, segments))
    assert mixed.dtype == torch.float32
