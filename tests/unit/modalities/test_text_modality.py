"""Laws of texts, for each tokenizer."""

import itertools
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from interlace.contract.errors import DataError, RecordError
from interlace.contract.sample import BEGIN, END, NUM_SPECIALS, UNKNOWN
from interlace.modalities.laws import check_value
from interlace.modalities.text import TextModality
from interlace.recipe.fields import TextField
from tests.fitting import fit

CORPUS = ("a dog runs", "ein Hund läuft", "le chien court", "pes běží", "狗在跑", "😀 grinning face", "A DOG", "") * 3


def settings(tokenizer: str, **more) -> TextField:
    return TextField(modality="text", column="text", tokenizer=tokenizer, **more)


def fitted(field: TextField, texts=CORPUS) -> TextModality:
    state = json.loads(json.dumps(fit(field, ((t,) for t in texts))))
    return TextModality("name", field, state)


MODALITIES = [
    fitted(settings(tokenizer, max_tokens=n, vocab_size=300, word_dropout=0.3))
    for tokenizer, n in itertools.product(("bytes", "bpe", "characters", "ngrams"), (1, 7, 256))
]


def check_laws(m: TextModality, text: str) -> None:
    check_value(m, (text,))
    extent = m.measure((text,))
    decoded = m.decode((text,))
    tokens = m.encode(decoded)
    assert len(tokens.values) == m.num_tokens(extent) >= 1
    assert tokens.grid == m.grid(extent) == (len(tokens.values), 1)
    assert tokens.grid[0] <= m.spec.max_grid[0]
    assert tokens.values.dtype == np.int32
    assert 0 <= tokens.values.min() <= tokens.values.max() < m.spec.vocab_size
    assert m.decode((text,)).tobytes() == decoded.tobytes()
    dropped = m.augment(decoded, np.random.default_rng(5))
    assert (dropped.shape, dropped.dtype) == (decoded.shape, decoded.dtype)
    assert ((dropped == decoded) | (dropped == UNKNOWN)).all()
    assert m.augment(decoded, np.random.default_rng(5)).tobytes() == dropped.tobytes()


@given(st.text(max_size=40), st.sampled_from(MODALITIES))
def test_tokens_are_as_many_as_measured(text, m):
    check_laws(m, text)


@pytest.mark.parametrize("m", MODALITIES, ids=lambda m: f"{m._field.tokenizer}-{m._field.max_tokens}")
def test_tokens_are_as_many_as_measured_on_real_texts(m, captions, emoji_names):
    texts = [*captions[::20], *emoji_names[::500]]
    for text in texts:
        check_laws(m, text)
    assert len(texts) > 150


def test_the_extent_is_the_whole_length_and_the_grid_is_cut():
    m = fitted(settings("bytes", max_tokens=4))
    assert m.measure(("Hund läuft",)) == (11, 0)
    assert m.grid((11, 0)) == (4, 1)
    assert m.decode(("Hund läuft",)).tolist() == [b + NUM_SPECIALS for b in b"Hund"]


@pytest.mark.parametrize("m", MODALITIES)
def test_an_empty_text_is_one_end_token(m):
    assert m.measure(("",)) == (1, 0)
    assert m.decode(("",)).tolist() == [END]


def test_bytes_are_utf8_above_the_specials():
    m = fitted(settings("bytes"))
    assert m.spec.vocab_size == 256 + NUM_SPECIALS == 259
    assert {UNKNOWN, BEGIN, END} == set(range(NUM_SPECIALS))
    for text in ("狗 ä", "\0\x7f"):
        assert bytes((m.decode((text,)) - NUM_SPECIALS).astype(np.uint8)) == text.encode()


@given(st.text(st.sampled_from("aB éß狗\n-"), max_size=30), st.integers(2, 5))
def test_ngrams_are_those_of_a_well_known_analyzer(text, length):
    reference = CountVectorizer(analyzer="char_wb", ngram_range=(length, length), lowercase=False).build_analyzer()
    m = fitted(settings("ngrams", ngram=length), [text, "other words"])
    wanted = reference(unicodedata.normalize("NFC", text).casefold())
    assert list(m.token_texts(m.decode((text,)))) == (wanted or ["<end>"])
    assert m.measure((text,)) == (max(1, len(wanted)), 0)


def test_characters_are_the_most_frequent_in_nfc_and_others_unknown():
    field = settings("characters", vocab_size=260)
    texts = ["b" * 3 + "a" * 3 + "é" * 2 + "e\u0301" * 2, "".join(chr(0x4E00 + i) for i in range(400))]
    m = fitted(field, texts)
    assert fit(field, ((t,) for t in texts))["characters"][:4] == "éabĀ"[:3] + "一"
    assert m.spec.vocab_size == 260
    assert m.decode(("e\u0301a!",)).tolist() == [3, 4, UNKNOWN]


def test_byte_pairs_lose_nothing_and_shorten(captions):
    field = settings("bpe", vocab_size=1000)
    state = fit(field, ((t,) for t in captions))
    m = TextModality("name", field, state)
    tokenizer = Tokenizer.from_str(state["tokenizer"])
    assert m.spec.vocab_size == 1000
    for text in ("A dog and 3 CATS.", "никогда не виденный 🦆", captions[0]):
        assert tokenizer.decode((m.decode((text,)) - NUM_SPECIALS).tolist()).lstrip() == text
        assert tokenizer.encode(text).ids == (m.decode((text,)) - NUM_SPECIALS).tolist()
    tokens = sum(m.measure((t,))[0] for t in captions)
    assert tokens < 0.4 * sum(len(t.encode()) for t in captions)


FIT = """
import json, sys
from tests.fitting import fit
from interlace.recipe.fields import TextField
field = TextField(modality="text", column="t", tokenizer="bpe", vocab_size=400)
print(json.dumps(fit(field, ((t,) for t in json.load(sys.stdin)))))
"""


def test_the_same_texts_give_the_same_byte_pairs_in_every_process():
    words = ["".join(p) for p in itertools.product("abcd", "efg", "hij")]  # many ties between pairs
    texts = [" ".join(words[i : i + 5]) for i in range(len(words))]
    field = settings("bpe", vocab_size=400)
    here = {fit(field, ((t,) for t in texts))["tokenizer"] for _ in range(5)}
    assert len(here) == 1
    done = subprocess.run(
        [sys.executable, "-c", FIT], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert {json.loads(done.stdout)["tokenizer"]} == here
    assert len(json.loads(here.pop())["model"]["merges"]) > 20


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe", "characters", "ngrams"])
def test_fitting_passes_over_what_is_no_text(tokenizer):
    field = settings(tokenizer, vocab_size=300)
    junk = [(3,), (b"bytes",), ("half \ud800",), (None,)]
    good = [(t,) for t in CORPUS]
    assert fit(field, iter(junk + good + junk)) == fit(field, iter(good))
    assert fitted(field, []).decode(("ab",)).size > 0


@pytest.mark.parametrize("m", MODALITIES[::3])
@pytest.mark.parametrize(("value", "found"), [(3, "int"), (b"x", "bytes"), (None, "NoneType"), ("\ud83d", "surrogate")])
def test_what_is_no_text_is_refused_with_a_reason(m, value, found):
    for use in (m.measure, m.decode):
        with pytest.raises(RecordError, match=f"expected a string .* but is .*{found}"):
            use((value,))


def test_word_dropout_hides_its_share():
    m = fitted(settings("bytes", word_dropout=0.25, max_tokens=20_000))
    decoded = m.decode(("x" * 20_000,))
    share = [np.mean(m.augment(decoded, np.random.default_rng(s)) == UNKNOWN) for s in range(3)]
    assert share == pytest.approx([0.25] * 3, abs=0.02)
    assert len(set(share)) > 1
    assert fitted(settings("bytes")).augment(decoded, np.random.default_rng(0)) is decoded


@given(st.text(max_size=30), st.integers(0, 99))
def test_word_swap_moves_tokens_by_one_place_only(text, seed):
    m = fitted(settings("characters", vocab_size=300, word_swap=0.9))
    decoded = np.arange(m.decode((text,)).size, dtype=np.int32)
    before = decoded.copy()
    swapped = m.augment(decoded, np.random.default_rng(seed))
    assert sorted(swapped.tolist()) == decoded.tolist() == before.tolist()
    assert swapped.dtype == np.int32
    assert np.abs(swapped - decoded).max() <= 1
    assert m.augment(decoded, np.random.default_rng(seed)).tobytes() == swapped.tobytes()


def test_word_swap_moves_its_share():
    decoded = np.arange(20_000, dtype=np.int32)
    m = fitted(settings("bytes", word_swap=0.3))
    swapped = [m.augment(decoded, np.random.default_rng(s)) for s in range(4)]
    assert [np.mean(s != decoded) for s in swapped] == pytest.approx([0.3] * 4, abs=0.02)
    assert {int(np.flatnonzero(s > decoded)[0] % 2) for s in swapped} == {0, 1}  # pairs from the first or the second on


def test_word_swap_comes_after_word_dropout_and_leaves_its_draws():
    decoded = np.arange(10, 1010, dtype=np.int32)
    dropped, both = (
        fitted(settings("bytes", word_dropout=0.2, word_swap=s)).augment(decoded, np.random.default_rng(1))
        for s in (0, 0.5)
    )
    assert sorted(both.tolist()) == sorted(dropped.tolist())
    assert both.tolist() != dropped.tolist()


def test_a_tokenizer_file_is_used_and_travels_with_the_state(tmp_path):
    """With all that a file may switch on: truncation, padding, special tokens, random merges."""
    given = Tokenizer(models.BPE({"[CLS]": 0, "a": 1, "b": 2, "ab": 9}, [("a", "b")], dropout=0.5))
    given.pre_tokenizer = pre_tokenizers.Whitespace()
    given.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    given.enable_truncation(2)
    given.enable_padding(length=8)
    file = tmp_path / "tokenizer.json"
    given.save(str(file))
    field = settings("bpe", tokenizer_file=str(file))
    state = fit(field, iter([]))
    file.unlink()
    m = TextModality("name", field, state)
    assert m.spec.vocab_size == 10 + NUM_SPECIALS
    for _ in range(20):
        assert m.decode(("ab a b",)).tolist() == [9 + NUM_SPECIALS, 1 + NUM_SPECIALS, 2 + NUM_SPECIALS]
    check_laws(m, "ab ab")
    check_laws(m, "zzz")


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"not json", b"{}"])
def test_an_unreadable_tokenizer_file_is_named(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"`tokenizer_file`: expected a `tokenizers` JSON file, but .*") as error:
        fit(settings("bpe", tokenizer_file=str(file)), iter([]))
    assert str(file) in str(error.value)


def test_a_tokenizer_file_without_bpe_is_an_error():
    with pytest.raises(DataError, match="needs `tokenizer: bpe`, but it is `bytes`"):
        fit(settings("bytes", tokenizer_file="x.json"), iter([]))
