"""Laws of learning by row groups: parts merge to the whole; byte pairs are those of the library over whole texts."""

import itertools
import json
from collections import Counter
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from interlace import modalities
from interlace.contract.errors import DataError
from interlace.data.index.targets import target_learner
from interlace.recipe.fields import SeriesField, TableField, TextField
from interlace.recipe.tasks import ClassificationTask
from tests.fitting import cut, fit, fit_target, learn

places = st.lists(st.integers(0, 12), max_size=4)
texts = st.text(st.sampled_from("ab'sé\u0301e狗 \t\n\u00a0\u3000\x1c3,.") | st.characters(codec="utf-8"), max_size=30)
readings = st.none() | st.just("junk") | st.floats(-1e6, 1e6)
days = st.none() | st.just("never") | st.integers(0, 20_000).map(lambda n: date(1970, 1, 1) + timedelta(n))


def text_field(tokenizer: str, **more) -> TextField:
    return TextField(modality="text", column="c", tokenizer=tokenizer, **{"vocab_size": 270, **more})


def in_parts(field, values, at) -> dict:
    return learn(modalities.learner(field), cut(values, at))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(texts | st.none()), max_size=12), places, st.sampled_from(("characters", "ngrams", "bpe")))
def test_vocabularies_depend_on_neither_cuts_nor_order(values, at, tokenizer):
    field = text_field(tokenizer)
    whole = json.dumps(fit(field, values))
    assert json.dumps(in_parts(field, values, at)) == whole
    assert json.dumps(learn(modalities.learner(field), cut(values, at)[::-1])) == whole


@given(
    st.lists(st.tuples(st.sampled_from((None, "x", "y", 1, True, 2.0, 1.5)), st.integers(0, 3)), max_size=12), places
)
def test_categories_depend_on_neither_cuts_nor_order(values, at):
    field = TableField(modality="table", categories=("a", "b"), max_categories=3)
    whole = json.dumps(fit(field, values))
    assert json.dumps(in_parts(field, values, at)) == whole
    assert json.dumps(learn(modalities.learner(field), cut(values, at)[::-1])) == whole


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(("x", "y", "z", None)), max_size=12), places)
def test_classes_depend_on_neither_cuts_nor_order(labels, at):
    task = ClassificationTask(task="classification", column="c")
    values = [(v,) for v in ["x", "y", *labels] if v is not None]
    whole = fit_target(task, values)
    assert learn(target_learner(task), cut(values, at)) == learn(target_learner(task), cut(values, at)[::-1]) == whole


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(readings, readings), min_size=1, max_size=12), st.lists(st.tuples(days, days)), places)
def test_statistics_of_parts_are_those_of_the_whole(rows, dates, at):
    cases = [
        (TableField(modality="table", numbers=("a", "b")), rows),
        (TableField(modality="table", dates=("a", "b")), dates),
        (SeriesField(modality="series", channels=("a", "b")), [([a, None], [b, 0.5]) for a, b in rows]),
        (SeriesField(modality="series", column="a"), [([[a, b]],) for a, b in rows]),
    ]
    for field, values in cases:
        whole, parts = fit(field, values), in_parts(field, values, at)
        assert parts["means"] == pytest.approx(whole["means"], rel=1e-9, abs=1e-6)
        assert parts["stds"] == pytest.approx(whole["stds"], rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("a", "b", 7)), readings)), min_size=1), places)
def test_channels_of_parts_are_those_of_the_whole(samples, at):
    field = SeriesField(modality="series", time="t", channel="c", value="v", max_channels=2)
    values = [tuple(map(list, zip(*rows, strict=True))) if rows else ([], [], []) for rows in samples]
    whole, parts = fit(field, values), in_parts(field, values, at)
    assert parts["channels"] == whole["channels"]
    assert parts["means"] == pytest.approx(whole["means"], rel=1e-9, abs=1e-6)
    assert parts["stds"] == pytest.approx(whole["stds"], rel=1e-6, abs=1e-6)


def test_a_constant_column_deviates_by_nothing_over_row_groups():
    field = TableField(modality="table", numbers=("a", "b"))
    assert in_parts(field, [(0.1, None)] * 9 + [(0.1, 2)], (3, 7, 7)) == {"means": [0.1, 2.0], "stds": [1.0, 1.0]}


@settings(deadline=None, max_examples=100)
@given(st.lists(texts, max_size=5))
def test_words_of_a_row_group_are_those_of_its_whole_texts(found):
    split, nfc = pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.NFC()
    wanted = Counter(word for text in found for word, _ in split.pre_tokenize_str(nfc.normalize_str(text)))
    assert modalities.learner(text_field("bpe")).partial((t,) for t in found) == wanted


def trained_by_the_library(found: list[str], vocab_size: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 3, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(found, trainer)
    return tokenizer.to_str()


def test_byte_pairs_of_counts_are_those_that_the_library_trains_on_texts(captions, emoji_names):
    names = [*emoji_names[::10], "\n\n  many   spaces\t ", *["again and again"] * 2500]
    for found, size in ((captions, 1000), (names, 400)):
        values = [(t,) for t in found]
        state = in_parts(text_field("bpe", vocab_size=size), values, range(0, len(values), 100))
        assert state == {"tokenizer": trained_by_the_library(found, size)}
        assert len(json.loads(state["tokenizer"])["model"]["merges"]) > 100


def test_a_column_without_labels_is_refused_by_the_first_row_group_that_shows_it():
    task = ClassificationTask(task="classification", column="c")
    parts = [target_learner(task).partial([(v,) for v in values]) for values in (["a", "b"], ["a", 0.5, b"x"], [b"x"])]
    learner = target_learner(task)
    learner.merge(parts[0])
    for part, kind in zip(parts[1:], ("float", "bytes"), strict=True):
        with pytest.raises(DataError, match=f"expected a string, .* in column `c`, but is {kind}"):
            learner.merge(part)


def test_a_partial_changes_nothing_and_is_small():
    texts = [(" ".join(p),) for p in itertools.product(("red", "green", "blue"), repeat=5)] * 4
    numbers = [(float(i), None) for i in range(len(texts))]
    for field, values in (
        (text_field("bpe"), texts),
        (text_field("characters"), texts),
        (TableField(modality="table", numbers=("a", "b")), numbers),
    ):
        learner = modalities.learner(field)
        empty = json.dumps(modalities.learner(field).finish())
        partial = json.dumps(learner.partial(values))
        assert json.dumps(learner.finish()) == empty
        assert partial == json.dumps(learner.partial(values))
        assert len(partial) < len(json.dumps(values)) / 20
