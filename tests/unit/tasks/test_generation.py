"""Laws of generation: losses as sums over tokens, samples apart, texts and metrics equal to references."""

import math
from itertools import pairwise

import jiwer
import pytest
import sacrebleu
import torch
from torch.nn import functional

from interlace.contract.batch import Batch
from interlace.contract.detokenizer import Detokenizer
from interlace.contract.sample import BEGIN, END, NUM_SPECIALS
from interlace.model.attention import Segments
from interlace.model.network import Network
from interlace.tasks.beam_search import beam_search
from interlace.tasks.ctc import best_path
from interlace.tasks.generation import memory_of
from interlace.tasks.text_metrics import character_errors, word_errors
from interlace.train.loop import add_states
from tests.networks import one_sample
from tests.written import CHARACTERS, batch_of, build, run, task_of, texts_of

LENGTHS = (3, None, 0, 7, 1)
HYBRID = {"ctc_field": "values", "ctc_weight": 0.3}


def text_of(batch: Batch, sample: int) -> list[int]:
    target = batch.targets["text"]
    return torch.split(target.values, target.lengths.tolist())[sample].tolist()


def alone(batch: Batch, sample: int) -> Batch:
    """A batch of one sample, with its text."""
    target = texts_of([None])
    ids = text_of(batch, sample)
    own = type(target)(
        values=torch.tensor(ids, dtype=torch.int64),
        lengths=torch.tensor([len(ids)]),
        present=batch.targets["text"].present[sample : sample + 1],
    )
    one = one_sample(batch, sample)
    return Batch(position=0, sample_ids=one.sample_ids, fields=one.fields, targets={"text": own})


@pytest.mark.parametrize("tables", ["small", "unit"])
def test_the_loss_is_the_sum_of_next_token_entropies(tables: str) -> None:
    """Written sample by sample, without packing; smoothing as torch's."""
    network, batch = build(label_smoothing=0.1, first_tables=tables), batch_of(texts_of(LENGTHS))
    task = task_of(network)
    total = 0.0
    for sample in range(5):
        single, ids = alone(batch, sample), text_of(batch, sample)
        if not ids:
            continue
        outputs = run(network, single)
        decoding = task.decoder.start(task.table.weight, task.table.weight, memory_of(outputs))
        with torch.no_grad():
            logits = torch.cat([decoding.log_probs(torch.tensor([[t]]))[0] for t in [BEGIN, *ids[:-1]]])
        total += float(functional.cross_entropy(logits, torch.tensor(ids), reduction="sum", label_smoothing=0.1))
    assert loss_of(network, batch) == pytest.approx(total, rel=1e-5)
    assert task.count(batch) == sum(n + 1 for n in LENGTHS if n is not None)


def loss_of(network: Network, batch: Batch) -> float:
    with torch.no_grad():
        return float(task_of(network).loss(network(batch), batch))


@pytest.mark.parametrize("settings", [{}, HYBRID, {"ctc_field": "values", "ctc_weight": 1.0}])
def test_a_pack_is_the_sum_of_its_samples_and_each_is_written_alike(settings: dict) -> None:
    network, batch = build(**settings), batch_of(texts_of(LENGTHS))
    task = task_of(network)
    parts = [alone(batch, s) for s in range(5)]
    assert loss_of(network, batch) == pytest.approx(sum(loss_of(network, p) for p in parts), rel=1e-4)
    with torch.no_grad():
        texts = task.generate(network(batch))
        assert [t.ids for t in texts] == [task.generate(network(part))[0].ids for part in parts]
    assert len({t.ids for t in texts}) > 1


def test_ctc_equals_torch_on_padded_tensors_and_leaves_out_what_can_not_be_aligned() -> None:
    network = build(ctc_field="values", ctc_weight=1.0)
    batch = batch_of(texts_of((1, 12, 2, None, 1)), missing=0.0)
    task, outputs = task_of(network), run(network, batch)
    tokens = outputs.tokens["values"]
    total, left_out = 0.0, 0
    for sample in range(5):
        ids = [i for i in text_of(batch, sample) if i != END]
        start, length = int(tokens.segments.starts_N[sample]), int(tokens.segments.lengths_N[sample])
        needed = len(ids) + sum(a == b for a, b in pairwise(ids))
        if not batch.targets["text"].present[sample]:
            continue
        if length < needed:
            left_out += 1
            continue
        with torch.no_grad():
            scores = task.ctc.project(task.ctc.norm(tokens.x_TD[start : start + length])).log_softmax(1)
        total += float(
            functional.ctc_loss(
                scores[:, None], torch.tensor([ids]), torch.tensor([length]), torch.tensor([len(ids)]), blank=BEGIN,
                reduction="sum",
            )
        )  # fmt: skip
    assert loss_of(network, batch) == pytest.approx(total, rel=1e-5)
    assert left_out
    with torch.no_grad():
        state = task.state(outputs, batch)
    assert task.compute(state)["ctc_unaligned"] == left_out / 4


def test_a_sample_that_can_not_be_aligned_has_no_gradient() -> None:
    network = build(ctc_field="values", ctc_weight=1.0)
    batch = batch_of(texts_of((60, 60)), missing=0.0)
    network.zero_grad()
    loss = task_of(network).loss(network(batch), batch)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or torch.equal(p.grad, torch.zeros_like(p.grad)) for p in network.parameters())


def test_the_best_path_merges_repeats_and_leaves_out_blanks() -> None:
    a, b = NUM_SPECIALS, NUM_SPECIALS + 1
    said = torch.tensor([[a, a, BEGIN, a, b, b], [BEGIN, b, END, END, END, END]])
    log_probs = functional.one_hot(said.T, 8).float().log_softmax(2)
    texts = best_path(log_probs, Segments(torch.tensor([6, 2])))
    assert [t.ids for t in texts] == [(a, a, b), (b,)]
    assert texts[1].log_prob == pytest.approx(2 * float(log_probs.max()))


@pytest.mark.parametrize("settings", [{}, HYBRID, {"ctc_field": "values", "ctc_weight": 1.0}, {"tied": False}])
@pytest.mark.parametrize("lengths", [LENGTHS, (None, None)])
def test_every_parameter_has_a_gradient_even_without_targets(settings: dict, lengths: tuple) -> None:
    network, batch = build(**settings), batch_of(texts_of(lengths), missing=0.0)
    task = task_of(network)
    task.loss(network(batch), batch).backward()
    without = [n for n, p in task.named_parameters() if p.grad is None]
    assert without == []
    moved = [n for n, p in task.named_parameters() if p.grad is not None and p.grad.any()]
    assert bool(moved) == (lengths is LENGTHS)


def test_beam_and_ctc_agree_on_a_text_among_those_found() -> None:
    network, batch = build(beam=4, length_penalty=0.5, **HYBRID), batch_of(texts_of(LENGTHS))
    task = task_of(network)
    texts = task.generate(run(network, batch))
    assert len(texts) == 5
    with torch.no_grad():
        best = _by_hand(network, batch)
    assert [t.ids for t in texts] == best
    plain = task_of(build(beam=4, length_penalty=0.5)).generate(run(network, batch))
    assert [t.ids for t in plain] != best


def _by_hand(network: Network, batch: Batch) -> list[tuple[int, ...]]:
    """Beam search without CTC, then each text scored on its own."""
    task, best = task_of(network), []
    for sample in range(5):
        outputs = run(network, alone(batch, sample))
        table = task.table.weight
        found = beam_search(task.decoder.start(table, table, memory_of(outputs)), 12, 4, 0.5)[0]
        tokens = outputs.tokens["values"]
        length = int(tokens.segments.lengths_N[0])
        scores = []
        for text in found:
            ctc = torch.tensor(math.inf)
            if length:
                frames = task.ctc.project(task.ctc.norm(tokens.x_TD[:length])).log_softmax(1)
                given = (torch.tensor([text.ids]), torch.tensor([length]), torch.tensor([len(text.ids)]))
                ctc = functional.ctc_loss(frames[:, None], *given, blank=BEGIN, reduction="sum")
            norm = ((5 + len(text.ids) + text.ended) / 6) ** 0.5
            scores.append((0.7 * text.log_prob - 0.3 * float(ctc)) / norm)
        best.append(found[scores.index(max(scores))].ids)
    return best


def test_states_add_to_the_metrics_of_the_whole_set() -> None:
    network = build()
    task = task_of(network)
    task.thorough = True
    batches = [batch_of(texts_of((3, 5, None, 2), seed=s), seed=s) for s in range(3)]
    total: dict = {"text": {}}
    for batch in batches:
        add_states(total, {"text": task.state(run(network, batch), batch)})
    numbers = task.compute(total["text"])
    pairs = []
    for batch in batches:
        for sample, row in enumerate(task.predict(run(network, batch))):
            if batch.targets["text"].present[sample]:
                pairs.append(("".join(CHARACTERS[i - 3] for i in text_of(batch, sample)[:-1]).strip(), row[""]))
    references, written = [p[0] for p in pairs], [p[1] for p in pairs]
    assert total["text"]["references"] == references
    assert numbers["wer"] == pytest.approx(100 * jiwer.wer(references, written))
    assert numbers["cer"] == pytest.approx(100 * jiwer.cer(references, written))
    assert numbers["bleu"] == sacrebleu.corpus_bleu(written, [references]).score
    assert numbers["chrf"] == sacrebleu.corpus_chrf(written, [references]).score
    losses = sum(loss_of(network, b) for b in batches)
    assert numbers["loss"] == pytest.approx(losses / sum(task.count(b) for b in batches), rel=1e-6)
    assert len(pairs) == 9


def test_evaluations_while_training_write_the_first_rows_only() -> None:
    network, batch = build(eval_samples=2), batch_of(texts_of((3, 5, None, 2)))
    task = task_of(network)
    some = task.state(run(network, batch), batch)
    task.thorough = True
    every = task.state(run(network, batch), batch)
    assert (len(some["written"]), len(every["written"])) == (2, 3)
    assert every["written"][:2] == some["written"]
    empty = batch_of(texts_of((None, None)))
    numbers = task.compute(task.state(run(network, empty), empty))
    assert set(numbers) == {"loss", "token_accuracy", "wer", "cer", "bleu", "chrf"}
    assert all(math.isnan(v) for v in numbers.values())


@pytest.mark.parametrize(
    ("reference", "written"),
    [
        ("the cat sat", "the cat sat"),
        ("the cat sat on the mat", "a cat sat  mat"),
        ("Please press 1, then 2.", "press 1 then, 2"),
        ("naïve über Straße", "naive uber Strasse"),
        ("one", ""),
        ("a b", "b a c d e"),
    ],
)
def test_error_rates_equal_those_of_jiwer(reference: str, written: str) -> None:
    words, characters = word_errors(reference, written), character_errors(reference, written)
    assert words[0] / words[1] == pytest.approx(jiwer.wer(reference, written))
    assert characters[0] / characters[1] == pytest.approx(jiwer.cer(reference, written))


def test_a_text_is_joined_from_its_ids() -> None:
    said = Detokenizer({"characters": "ab "})
    assert said([BEGIN, 3, 5, 4, END]) == "a b"
    assert said([3, 0, 4]) == "a\N{REPLACEMENT CHARACTER}b"
    assert Detokenizer({})([b + 3 for b in "zwölf".encode()]) == "zwölf"
    assert Detokenizer({})([0xC3 + 3]) == "\N{REPLACEMENT CHARACTER}"
