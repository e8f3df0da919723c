"""Laws of search: beam 1 is greedy, wider is no worse, and both equal searches written plainly."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from interlace.contract.sample import BEGIN, END
from interlace.model.attention import Segments
from interlace.model.decoder import Decoder, DecodingState, Memory
from interlace.recipe.model import Model
from interlace.tasks.beam_search import Text, beam_search, greedy, length_norm

MODEL = Model(dim=32, head_dim=16, dropout=0.0)
VOCAB = 8
LIMIT = 9


class World:
    """A random decoder over random memories."""

    def __init__(self, samples: int, seed: int = 0, scale: float = 0.5, limit: int = LIMIT) -> None:
        torch.manual_seed(seed)
        self.decoder = Decoder(MODEL, 1, limit + 1).eval()
        with torch.no_grad():
            for parameter in self.decoder.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        self.table = torch.randn(VOCAB, MODEL.dim)
        self.out = torch.randn(VOCAB, MODEL.dim) * scale
        self.segments = Segments(torch.randint(0, 6, (samples,)))
        self.x_UD = torch.randn(self.segments.num_rows, MODEL.dim)

    def start(self) -> DecodingState:
        return self.decoder.start(self.table, self.out, Memory(x_UD=self.x_UD, segments=self.segments))

    def log_prob(self, sample: int, ids: tuple[int, ...], ended: bool) -> float:
        """Of a text, by the packed decoder, without a cache."""
        row = torch.tensor([BEGIN, *ids, *([END] if ended else [])])
        read, said = row[:-1], row[1:]
        segments = Segments(torch.tensor([len(read)]))
        own = Memory(x_UD=self.memory(sample), segments=Segments(self.segments.lengths_N[sample : sample + 1]))
        x_TD = self.decoder(self.table, read, segments, own)[: len(read)]
        return float((x_TD @ self.out.T).log_softmax(1).gather(1, said[:, None]).double().sum())

    def memory(self, sample: int) -> Tensor:
        length, start = int(self.segments.lengths_N[sample]), int(self.segments.starts_N[sample])
        own = Segments(torch.tensor([length]))
        return functional.pad(self.x_UD[start : start + length], (0, 0, 0, own.num_rows - length))

    def next_token(self, sample: int, ids: tuple[int, ...]) -> dict[int, float]:
        """Log-probability of each token after these ids, without a cache; the two that are never written left out."""
        scores = {token: self.log_prob(sample, (*ids, token), ended=False) for token in range(2, VOCAB)}
        before = self.log_prob(sample, ids, ended=False) if ids else 0.0
        return {token: score - before for token, score in scores.items()}


@pytest.fixture(autouse=True)
def _without_gradients() -> object:
    with torch.no_grad():
        yield


def test_greedy_equals_decoding_without_a_cache() -> None:
    world = World(6)
    for sample, text in enumerate(greedy(world.start(), LIMIT)):
        ids: tuple[int, ...] = ()
        while len(ids) < LIMIT:
            scores = world.next_token(sample, ids)
            token = max(scores, key=lambda t: scores[t])
            if token == END:
                break
            ids = (*ids, token)
        assert text.ids == ids
        assert text.ended == (len(ids) < LIMIT)
        assert text.log_prob == pytest.approx(world.log_prob(sample, ids, text.ended), abs=1e-4)


def test_a_beam_of_one_is_greedy() -> None:
    world = World(200)
    first, second = greedy(world.start(), LIMIT), beam_search(world.start(), LIMIT, 1, 0.0)
    assert [[t.ids for t in found] for found in second] == [[t.ids] for t in first]
    assert [found[0].log_prob for found in second] == pytest.approx([t.log_prob for t in first], abs=1e-5)
    lengths = {len(t.ids) for t in first}
    assert len(lengths) > 3
    assert {t.ended for t in first} == {True, False}


def test_a_wider_beam_is_no_less_likely() -> None:
    world = World(200, seed=1)
    sums = [sum(found[0].log_prob for found in beam_search(world.start(), LIMIT, w, 0.0)) for w in (1, 4, 16)]
    assert sums[0] < sums[1] <= sums[2]


def test_a_beam_wide_enough_finds_the_best_of_all_texts() -> None:
    limit = 3
    world = World(5, seed=2, limit=limit)
    letters = range(3, VOCAB)
    whole = [ids for n in range(limit) for ids in itertools.product(letters, repeat=n)]
    cut = list(itertools.product(letters, repeat=limit))
    for penalty in (0.0, 1.0):
        for sample, found in enumerate(beam_search(world.start(), limit, 200, penalty)):
            every = [Text(ids=ids, log_prob=world.log_prob(sample, ids, True), ended=True) for ids in whole]
            every += [Text(ids=ids, log_prob=world.log_prob(sample, ids, False), ended=False) for ids in cut]
            best = max(every, key=lambda t: t.score(penalty))
            assert found[0].ids == best.ids
            assert found[0].log_prob == pytest.approx(best.log_prob, abs=1e-4)


def plain_beam(world: World, sample: int, width: int, penalty: float) -> Text:
    """One sample's beam search with lists, without a cache and without leaving early."""
    open_texts: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    found: list[Text] = []
    for _ in range(LIMIT):
        places = width - len(found)
        grown = [
            ((*ids, token), score + more)
            for ids, score in open_texts
            for token, more in world.next_token(sample, ids).items()
        ]
        grown = sorted(grown, key=lambda item: -item[1])[:places]
        found += [Text(ids=ids[:-1], log_prob=score, ended=True) for ids, score in grown if ids[-1] == END]
        open_texts = [item for item in grown if item[0][-1] != END]
    found += [Text(ids=ids, log_prob=score, ended=False) for ids, score in open_texts]
    return max(found, key=lambda t: t.score(penalty))


@pytest.mark.parametrize("penalty", [0.0, 0.6])
def test_beam_search_equals_a_plain_one(penalty: float) -> None:
    world = World(4, seed=3)
    for sample, found in enumerate(beam_search(world.start(), LIMIT, 3, penalty)):
        wanted = plain_beam(world, sample, 3, penalty)
        assert found[0].ids == wanted.ids
        assert found[0].log_prob == pytest.approx(wanted.log_prob, abs=1e-4)
        assert found == sorted(found, key=lambda t: -t.score(penalty))


def test_a_length_penalty_prefers_longer_texts() -> None:
    world = World(60, seed=4)
    short, long = (sum(len(f[0].ids) for f in beam_search(world.start(), LIMIT, 4, p)) for p in (0.0, 2.0))
    assert short < long
    assert length_norm(7, 0.0) == 1
    assert length_norm(7, 0.6) == pytest.approx(math.pow(2, 0.6))


def test_a_sample_is_written_alike_in_any_company() -> None:
    world = World(7, seed=5)
    together = beam_search(world.start(), LIMIT, 3, 0.5)
    whole = world.segments
    for sample in range(7):
        x_UD = world.memory(sample)
        own = Memory(x_UD=x_UD, segments=Segments(whole.lengths_N[sample : sample + 1]))
        alone = beam_search(world.decoder.start(world.table, world.out, own), LIMIT, 3, 0.5)[0]
        assert [t.ids for t in alone] == [t.ids for t in together[sample]]
