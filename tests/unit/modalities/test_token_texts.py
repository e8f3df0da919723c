"""Words law: a person reads one word for each token, in order, and an unknown token as none."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace import modalities
from interlace.contract.sample import BEGIN, END, UNKNOWN
from interlace.recipe.fields import ImageField, TableField, TextField
from tests.data import png
from tests.fitting import fit

SEEN = ["a red disc", "a very green disc", "笑脸", "猫脸"]


def text_modality(tokenizer: str) -> modalities.Modality:
    field = TextField.model_validate(
        {"modality": "text", "column": "c", "tokenizer": tokenizer, "vocab_size": 300, "max_tokens": 32}
    )
    return modalities.make("c", field, fit(field, [(t,) for t in SEEN]))


def test_words_of_a_seen_text_make_the_text() -> None:
    for text in SEEN[:2]:
        for tokenizer in ("bytes", "characters", "bpe"):
            modality = text_modality(tokenizer)
            words = modality.token_texts(modality.decode((text,)))
            assert "".join(w or "?" for w in words).strip() == text
    modality = text_modality("characters")
    assert modality.token_texts(modality.decode((SEEN[2],))) == ("笑", "脸")


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_one_word_for_each_token_of_any_text(text: str) -> None:
    for tokenizer in ("bytes", "characters", "bpe"):
        modality = text_modality(tokenizer)
        decoded = modality.decode((text,))
        assert len(modality.token_texts(decoded)) == len(decoded)


def test_what_the_vocabulary_lacks_is_no_word() -> None:
    modality = text_modality("characters")
    assert modality.token_texts(modality.decode(("az",))) == ("a", None)
    specials = np.array([UNKNOWN, BEGIN, END], np.int32)
    assert all(
        text_modality(t).token_texts(specials) == (None, "<begin>", "<end>") for t in ("bytes", "characters", "bpe")
    )
    assert text_modality("bytes").token_texts(text_modality("bytes").decode(("é",))) == ("\\xc3", "\\xa9")


def test_tables_read_as_columns_with_values() -> None:
    numbers = TableField(modality="table", numbers=("x", "y"))
    modality = modalities.make("t", numbers, fit(numbers, [(1.0, 2.0), (3.0, None)]))
    assert modality.token_texts(modality.decode((1.5, math.nan))) == ("x = 1.5",)
    categories = TableField(modality="table", categories=("k", "b"))
    modality = modalities.make("t", categories, fit(categories, [("cat", True), ("dog", False)]))
    assert modality.token_texts(modality.decode(("dog", True))) == ("k = dog", "b = 1")
    assert modality.token_texts(modality.decode(("cow", None))) == (None,)


def test_patches_are_no_words() -> None:
    field = ImageField(modality="image", column="i", max_size=16)
    modality = modalities.make("i", field, {})
    decoded = modality.decode((png(np.random.default_rng(0), (1, 2, 3)),))
    assert modality.token_texts(decoded) == ()
    assert len(modality.encode(decoded).values) == 4
