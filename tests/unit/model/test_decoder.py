"""Laws of the decoder: packed, by steps, and a plain padded implementation agree; samples don't see each other."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from interlace.model.attention import Segments
from interlace.model.decoder import Decoder, Memory
from interlace.recipe.model import Model

MODEL = Model(dim=32, head_dim=16, dropout=0.0)
VOCAB = 11
MEMORY_LENGTHS = (4, 0, 7, 1)
TEXT_LENGTHS = (5, 3, 0, 6)


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(MODEL, 2, 12).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return decoder


@pytest.fixture
def table() -> Tensor:
    return torch.randn(VOCAB, MODEL.dim, generator=torch.Generator().manual_seed(1))


def packed(lengths: tuple[int, ...], rows: list[Tensor]) -> tuple[Tensor, Segments]:
    segments = Segments(torch.tensor(lengths))
    flat = torch.cat(rows)
    return functional.pad(flat, (0, 0, 0, segments.num_rows - len(flat))), segments


def draw(seed: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    """Memory vectors and ids of each sample."""
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(n, MODEL.dim, generator=generator) for n in MEMORY_LENGTHS]
    return vectors, [torch.randint(0, VOCAB, (n,), generator=generator) for n in TEXT_LENGTHS]


def states(decoder: Decoder, table: Tensor, vectors: list[Tensor], ids: list[Tensor]) -> list[Tensor]:
    """The packed decoder's states of each sample."""
    x_UD, memory = packed(tuple(map(len, vectors)), vectors)
    segments = Segments(torch.tensor([len(row) for row in ids]))
    x_TD = decoder(table, torch.cat(ids), segments, Memory(x_UD=x_UD, segments=memory))
    return list(x_TD[: segments.num_tokens].split([len(row) for row in ids]))


def plain(decoder: Decoder, table: Tensor, vectors: Tensor, ids: Tensor) -> Tensor:
    """One sample by torch's own attention with a dense mask."""

    def heads(x: Tensor) -> Tensor:
        return x.view(len(x), MODEL.dim // MODEL.head_dim, MODEL.head_dim).transpose(0, 1)

    x, memory = table[ids] + decoder.position.weight[: len(ids)], decoder.memory_norm(vectors)
    for layer in decoder.layers:
        q, k, v = layer.qkv(layer.attention_norm(x)).chunk(3, dim=1)
        seen = torch.ones(len(x), len(x), dtype=torch.bool).tril()
        o = functional.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=seen)
        x = x + layer.attention_out(o.transpose(0, 1).reshape(x.shape))
        if len(memory):
            k, v = layer.cross_kv(memory).chunk(2, dim=1)
            q = layer.cross_q(layer.cross_norm(x))
            o = functional.scaled_dot_product_attention(heads(q), heads(k), heads(v))
            x = x + layer.cross_out(o.transpose(0, 1).reshape(x.shape))
        x = x + layer.mlp_out(functional.gelu(layer.mlp_in(layer.mlp_norm(x))))
    return decoder.out_norm(x)


def test_packed_equals_a_plain_dense_implementation(decoder: Decoder, table: Tensor) -> None:
    vectors, ids = draw()
    with torch.no_grad():
        got = states(decoder, table, vectors, ids)
        for own, vector, row in zip(got, vectors, ids, strict=True):
            torch.testing.assert_close(own, plain(decoder, table, vector, row), atol=1e-5, rtol=1e-5)
    assert [len(own) for own in got] == list(TEXT_LENGTHS)


def test_samples_and_later_tokens_are_not_seen(decoder: Decoder, table: Tensor) -> None:
    vectors, ids = draw()
    with torch.no_grad():
        before = states(decoder, table, vectors, ids)
        vectors[2], ids[1][2] = vectors[2].flip(1), (ids[1][2] + 1) % VOCAB
        vectors[3] = vectors[3].flip(1)
        after = states(decoder, table, vectors, ids)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1][:2], after[1][:2])
    assert not torch.allclose(before[1][2], after[1][2])
    assert not torch.allclose(before[3], after[3])


def test_steps_with_a_cache_equal_the_packed_pass(decoder: Decoder, table: Tensor) -> None:
    vectors, _ = draw()
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, VOCAB, (4, 6), generator=generator)
    out = torch.randn(VOCAB, MODEL.dim, generator=generator)
    x_UD, memory = packed(MEMORY_LENGTHS, vectors)
    with torch.no_grad():
        whole = torch.stack(states(decoder, table, vectors, list(ids))) @ out.T
        decoding = decoder.start(table, out, Memory(x_UD=x_UD, segments=memory))
        steps = torch.cat([decoding.log_probs(ids[:, i : i + 1]) for i in range(6)], dim=1)
    torch.testing.assert_close(steps, whole.log_softmax(2), atol=1e-5, rtol=1e-5)
    assert decoding.num_written == 6


def test_reordered_and_dropped_texts_go_on_as_if_written_so(decoder: Decoder, table: Tensor) -> None:
    vectors, _ = draw()
    x_UD, memory = packed(MEMORY_LENGTHS, vectors)
    first = torch.tensor([[3], [4], [5], [6]])
    second = torch.tensor([[7, 8], [9, 3], [2, 4], [5, 6]])
    parents = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]])
    third = torch.tensor([[8, 7], [3, 2], [10, 9], [4, 4]])
    with torch.no_grad():
        decoding = decoder.start(table, table, Memory(x_UD=x_UD, segments=memory))
        decoding.log_probs(first)
        decoding.reorder(torch.zeros(4, 2, dtype=torch.int64))
        decoding.log_probs(second)
        decoding.reorder(parents)
        decoding.keep(torch.tensor([0, 2, 3]))
        got = decoding.log_probs(third[[0, 2, 3]])
        for row, sample in enumerate((0, 2, 3)):
            for text in range(2):
                ids = torch.stack([first[sample, 0], second[sample, parents[sample, text]], third[sample, text]])
                wanted = (plain(decoder, table, vectors[sample], ids)[-1] @ table.T).log_softmax(0)
                torch.testing.assert_close(got[row, text], wanted, atol=1e-5, rtol=1e-5)
    assert got.shape == (3, 2, VOCAB)


def test_gradients_reach_every_parameter(decoder: Decoder, table: Tensor) -> None:
    vectors, ids = draw()
    table.requires_grad_()
    sum(own.square().sum() for own in states(decoder, table, vectors, ids)).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert table.grad is not None
