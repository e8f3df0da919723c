"""What text fields learn: which pieces their texts consist of, and from these a vocabulary.

In: the texts of a row group. Its partial: pieces (characters, pieces of words, words of bytes) and how often each
occurs. Out: the state of the tokenizer in `interlace.modalities.text`. Counts add up, so the vocabulary depends neither
on the order of the texts nor on the fields that they come from.

Byte pairs are trained from the counts of words, which is all that the algorithm looks at (Sennrich et al. 2016). Worked
example: `low lower low` are the words ` low` (2) and ` lower` (1), however many rows they come from.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from interlace.contract.errors import DataError
from interlace.contract.sample import NUM_SPECIALS
from interlace.modalities.base import Fitted, FixedLearner, Learner, Values
from interlace.recipe.fields import TextField

_REPEATS = 1000
"""Copies of a word that the trainer gets at once."""

_BEFORE_WORD = re.compile(r"(?= \S)")
_NFC = normalizers.NFC()
_BYTE_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=True)


def _empty() -> str:
    """Byte pairs that learned nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = _NFC, _BYTE_WORDS
    return str(tokenizer.to_str())


_EMPTY = _empty()


def text_learner(field: TextField) -> Learner:
    """What learns the state of the field's tokenizer.

    The state is `{}` for bytes; `{"characters": str}` or `{"grams": [str], "length": n}`, most frequent first;
    `{"tokenizer": str}`, a `tokenizers` JSON.

    Raises:
        DataError: `tokenizer_file` can't be read, or is given beside another tokenizer than `bpe`.
    """
    if field.tokenizer_file is not None:
        return FixedLearner({"tokenizer": _load(field)})
    return FixedLearner({}) if field.tokenizer == "bytes" else Vocabulary(field)


@final
class Vocabulary(Learner):
    """Counts of pieces, and the vocabulary that they give. Fields that share one merge their partials here."""

    def __init__(self, field: TextField) -> None:
        self._field = field
        self._count, self._state = _VOCABULARIES[field.tokenizer]
        self._counts: Counter[str] = Counter()

    def partial(self, values: Values) -> dict[str, int]:
        """Pieces and their counts."""
        return self._count((v[0] for v in values if is_text(v[0])), self._field)

    def merge(self, partial: dict[str, int]) -> None:
        """Add the counts."""
        self._counts.update(partial)

    def finish(self) -> Fitted:
        """The most frequent pieces, of equally frequent ones the first in order; or byte pairs."""
        return self._state(self._counts, self._field)


def _characters(texts: Iterable[str], field: TextField) -> Counter[str]:
    """Characters in NFC."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(unicodedata.normalize("NFC", text))
    return counts


def _character_state(counts: Counter[str], field: TextField) -> Fitted:
    return {"characters": "".join(_frequent(counts, field))}


def _grams(texts: Iterable[str], field: TextField) -> Counter[str]:
    """Pieces of words, each distinct word cut once."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(_words(text))
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for piece in _cut(word, field.ngram):
            counts[piece] += times
    return counts


def _gram_state(counts: Counter[str], field: TextField) -> Fitted:
    return {"grams": _frequent(counts, field), "length": field.ngram}


def word_pieces(text: str, length: int) -> list[str]:
    """Overlapping pieces of the words of a text, case folded, each word with a space at either end."""
    return [piece for word in _words(text) for piece in _cut(word, length)]


def _words(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).casefold().split()


def _cut(word: str, length: int) -> list[str]:
    word = f" {word} "
    return [word[i : i + length] for i in range(max(1, len(word) - length + 1))]


def count_pieces(text: str, length: int) -> int:
    """How many `word_pieces` a text has."""
    return sum(max(1, len(word) + 3 - length) for word in _words(text))


def chunks_of(text: str) -> list[str]:
    """A text cut before each space that a word follows: its byte-level words are those of its chunks."""
    return _BEFORE_WORD.split(text)


def cuts_as_ours(tokenizer: str) -> bool:
    """Whether a `tokenizers` JSON cuts texts into words as the byte pairs that are fitted here do."""
    settings = json.loads(tokenizer)
    ours = json.loads(_EMPTY)
    keys = ("normalizer", "pre_tokenizer", "added_tokens", "truncation", "padding")
    return all(settings.get(key) == ours[key] for key in keys) and settings["model"].get("type") == "BPE"


def _byte_words(texts: Iterable[str], field: TextField) -> Counter[str]:
    """Words as byte-level BPE sees them (Radford et al. 2019), in NFC, case kept.

    A text is cut before a space that a word follows: there a word begins whatever stands before, so each distinct chunk
    is looked at once. The law in the tests: the words of the chunks are those of the whole texts.
    """
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(chunks_of(text))
    counts: Counter[str] = Counter()
    for chunk, times in chunks.items():
        for word in _words_of(chunk):
            counts[word] += times
    return counts


@lru_cache(maxsize=1 << 15)
def _words_of(chunk: str) -> tuple[str, ...]:
    """The byte-level words of a chunk; the frequent ones come again in every row group."""
    return tuple(word for word, _ in _BYTE_WORDS.pre_tokenize_str(_NFC.normalize_str(chunk))) if chunk else ()


def _byte_pair_state(counts: Counter[str], field: TextField) -> Fitted:
    """Byte-level BPE; no text is out of vocabulary.

    The library counts words by itself and takes no counts, so each word is handed to it as often as it was counted:
    3 million words a CPU-second, where reading texts anew takes the library 0.4 million.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")  # a byte-level word holds none
    trainer = trainers.BpeTrainer(
        vocab_size=field.vocab_size - NUM_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(counts), trainer)
    tokenizer.normalizer = _NFC
    tokenizer.pre_tokenizer = _BYTE_WORDS
    tokenizer.decoder = decoders.ByteLevel()
    return {"tokenizer": str(tokenizer.to_str())}


def _repeated(counts: Counter[str]) -> Iterator[str]:
    """Each word as often as it was counted, some in one text."""
    for word, times in counts.items():
        whole, rest = divmod(times, _REPEATS)
        yield from (" ".join([word] * n) for n in [_REPEATS] * whole + [rest])


def _frequent(counts: Counter[str], field: TextField) -> list[str]:
    ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return ranked[: field.vocab_size - NUM_SPECIALS]


_Count = Callable[[Iterable[str], TextField], Counter[str]]
_State = Callable[[Counter[str], TextField], Fitted]
_VOCABULARIES: dict[str, tuple[_Count, _State]] = {
    "characters": (_characters, _character_state),
    "ngrams": (_grams, _gram_state),
    "bpe": (_byte_words, _byte_pair_state),
}
"""Tokenizer -> how to count pieces, how to make its state of the counts."""


def _load(field: TextField) -> str:
    if field.tokenizer != "bpe":
        raise DataError(f"`tokenizer_file` needs `tokenizer: bpe`, but it is `{field.tokenizer}`")
    try:
        tokenizer = Tokenizer.from_str(Path(str(field.tokenizer_file)).read_text(encoding="utf-8"))
    except Exception as error:  # the library raises Exception itself
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"`tokenizer_file`: expected a `tokenizers` JSON file, but {field.tokenizer_file}: {why}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if hasattr(tokenizer.model, "dropout"):
        tokenizer.model.dropout = None  # the same text must give the same ids
    return str(tokenizer.to_str())


def is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
