"""Strings -> ids.

In: `(str,)`. Out: int32 ids `[n]`, `1 <= n <= max_tokens`. Three ids come before those of every tokenizer, which are
moved up by `NUM_SPECIALS`:

| id | token | use |
| --- | --- | --- |
| 0 | `UNKNOWN` | what the vocabulary doesn't hold; what word dropout writes |
| 1 | `BEGIN` | opens a text that a model generates |
| 2 | `END` | closes it; alone, it stands for a text without any token, so that an empty text is seen to be present |
"""

import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Tokenizer

from interlace.contract.errors import RecordError
from interlace.contract.sample import END, NUM_SPECIALS, UNKNOWN, FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Modality
from interlace.modalities.columns import Columns, Measured, measure_each, missing_extents, valid
from interlace.modalities.columns import is_text as is_utf8
from interlace.modalities.vocabulary import chunks_of, count_pieces, cuts_as_ours, is_text, word_pieces
from interlace.recipe.fields import TextField

_SPECIAL_WORDS = (None, "<begin>", "<end>")

BATCH = 4096
"""Texts that a tokenizer gets at once."""
MOST_CHUNKS = 1 << 18
"""Words whose tokens are remembered, about 30 MB."""
PARALLELISM = "TOKENIZERS_PARALLELISM"


class _Tokenizer(Protocol):
    """Strings to ids: `vocab_size` with the specials, `count` of all tokens, `ids` of at least the first `limit`.

    `counts` does so for a column of UTF-8 without nulls; `measured_by` names the part of the fitted state that counts
    depend on. `word` is what a person reads for an id that is no special, None for the vocabulary's own unknown token.
    """

    vocab_size: int
    measured_by: tuple[str, ...]

    def count(self, text: str) -> int: ...

    def counts(self, texts: pa.Array) -> NDArray[np.int32]: ...

    def ids(self, text: str, limit: int) -> NDArray[np.int32]: ...

    def word(self, token: int) -> str | None: ...


@final
class _Bytes:
    """UTF-8 bytes as they are."""

    measured_by: tuple[str, ...] = ()

    def __init__(self, fitted: Fitted) -> None:
        self.vocab_size = 256 + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(text.encode())

    def counts(self, texts: pa.Array) -> NDArray[np.int32]:
        return _int32(pc.binary_length(texts))

    def ids(self, text: str, limit: int) -> NDArray[np.int32]:
        # a character is at least one byte, so `limit` characters are enough
        return np.frombuffer(text[:limit].encode(), np.uint8) + np.int32(NUM_SPECIALS)

    def word(self, token: int) -> str | None:
        byte = token - NUM_SPECIALS
        return chr(byte) if byte < 128 else f"\\x{byte:02x}"


@final
class _Characters:
    """Characters (code points in NFC) of a fitted list, the others unknown."""

    measured_by: tuple[str, ...] = ()

    def __init__(self, fitted: Fitted) -> None:
        self._characters: str = fitted["characters"]
        self._index = {c: i + NUM_SPECIALS for i, c in enumerate(self._characters)}
        self.vocab_size = len(self._index) + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(unicodedata.normalize("NFC", text))

    def counts(self, texts: pa.Array) -> NDArray[np.int32]:
        found = _int32(pc.utf8_length(texts)).copy()
        beyond = np.flatnonzero(_int32(pc.binary_length(texts)) != found)  # ASCII is in NFC
        found[beyond] = [self.count(text) for text in texts.take(pa.array(beyond)).to_pylist()]
        return found

    def ids(self, text: str, limit: int) -> NDArray[np.int32]:
        known = self._index
        return np.array([known.get(c, UNKNOWN) for c in unicodedata.normalize("NFC", text)[:limit]], np.int32)

    def word(self, token: int) -> str | None:
        return self._characters[token - NUM_SPECIALS]


@final
class _Grams:
    """Overlapping pieces of the words, spaces at their ends (Bojanowski et al. 2017), of a fitted list.

    Case is folded. Worked example: `n = 4` makes `Red fox` into ` red`, `red `, ` fox`, `fox `, and `ox` into ` ox `.
    """

    measured_by: tuple[str, ...] = ("length",)

    def __init__(self, fitted: Fitted) -> None:
        self._length: int = fitted["length"]
        self._grams: list[str] = fitted["grams"]
        self._index = {gram: i + NUM_SPECIALS for i, gram in enumerate(self._grams)}
        self.vocab_size = len(self._index) + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(word_pieces(text, self._length))

    def counts(self, texts: pa.Array) -> NDArray[np.int32]:
        return np.array([count_pieces(text, self._length) for text in texts.to_pylist()], np.int32)

    def ids(self, text: str, limit: int) -> NDArray[np.int32]:
        known = self._index
        return np.array([known.get(gram, UNKNOWN) for gram in word_pieces(text, self._length)[:limit]], np.int32)

    def word(self, token: int) -> str | None:
        return self._grams[token - NUM_SPECIALS]


@final
class _BytePairs:
    """A tokenizer of the `tokenizers` library, without the special tokens that its file may add."""

    measured_by: tuple[str, ...] = ("tokenizer",)

    def __init__(self, fitted: Fitted) -> None:
        self._tokenizer = Tokenizer.from_str(fitted["tokenizer"])
        self._by_chunks = cuts_as_ours(fitted["tokenizer"])
        self._known: dict[str, int] = {"": 0}
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1 + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def counts(self, texts: pa.Array) -> NDArray[np.int32]:
        if not self._by_chunks:
            return batch_counts(self._tokenizer, texts, add_special_tokens=False)
        if len(self._known) > MOST_CHUNKS:
            self._known = {"": 0}
        cut = [chunks_of(text) for text in texts.to_pylist()]
        new = list({chunk for chunks in cut for chunk in chunks} - self._known.keys())
        if new:
            counted = batch_counts(self._tokenizer, pa.array(new, pa.string()), add_special_tokens=False)
            self._known.update(zip(new, counted.tolist(), strict=True))
        known = self._known
        return np.array([sum([known[chunk] for chunk in chunks]) for chunks in cut], np.int32)

    def ids(self, text: str, limit: int) -> NDArray[np.int32]:
        ids = np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
        ids += NUM_SPECIALS
        return ids

    def word(self, token: int) -> str | None:
        name = self._tokenizer.id_to_token(token - NUM_SPECIALS)
        if name is None or name == getattr(self._tokenizer.model, "unk_token", None):
            return None
        return str(self._tokenizer.decode([token - NUM_SPECIALS], skip_special_tokens=False))


_TOKENIZERS: dict[str, type[_Bytes] | type[_Characters] | type[_Grams] | type[_BytePairs]] = {
    "bytes": _Bytes,
    "characters": _Characters,
    "ngrams": _Grams,
    "bpe": _BytePairs,
}


@final
class TextModality(Modality):
    """One column of strings. Extent: (tokens before the cut to `max_tokens`, at least 1; 0)."""

    def __init__(self, name: str, field: TextField, fitted: Fitted) -> None:
        self._field = field
        self.varies = bool(field.word_dropout or field.word_swap)
        self._tokenizer: _Tokenizer = _TOKENIZERS[field.tokenizer](fitted)
        self._spec = FieldSpec(
            name=name, kind="ids", vocab_size=self._tokenizer.vocab_size, max_grid=(field.max_tokens, 1)
        )

    @property
    def spec(self) -> FieldSpec:
        """Ids of the tokenizer and the three specials."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """Number of tokens of the whole text, an empty one counting as 1. Raises RecordError."""
        return max(1, self._tokenizer.count(string_of(value))), 0

    def measure_column(self, columns: Columns) -> Measured:
        """By lengths of buffers, by words met before, or by batches, as the tokenizer allows."""
        return measure_texts(self.measure, self._tokenizer.counts, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """What the tokenizer needs to count."""
        return {name: fitted[name] for name in self._tokenizer.measured_by}

    def grid(self, extent: Extent) -> tuple[int, int]:
        """Tokens after the cut, one column."""
        return min(extent[0], self._field.max_tokens), 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.int32]:
        """Ids, int32 `[n]`. Raises RecordError."""
        limit = self._field.max_tokens
        ids = self._tokenizer.ids(string_of(value), limit)[:limit]
        return ids if len(ids) else np.array([END], np.int32)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """See `vary`."""
        return vary(decoded, self._field, UNKNOWN, rng)

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """The ids themselves."""
        return Tokens(values=decoded, grid=(len(decoded), 1))

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """Bytes, characters or pieces of words; specials in angle brackets."""
        return tuple(_SPECIAL_WORDS[i] if i < NUM_SPECIALS else self._tokenizer.word(i) for i in decoded.tolist())


def measure_texts(
    measure: Callable[[tuple[Any, ...]], Extent], counts: Callable[[pa.Array], NDArray[np.int32]], columns: Columns
) -> Measured:
    """Extents of a column of strings: the tokens that `counts` finds in those that are there, at least 1."""
    (column,) = columns
    if not is_utf8(column):
        return measure_each(measure, columns)
    there = valid(column)
    extents = missing_extents(len(column))
    extents[there, 0] = np.maximum(counts(column.drop_null()), 1)
    extents[there, 1] = 0
    return extents, {}


def batch_counts(tokenizer: Tokenizer, texts: pa.Array, *, add_special_tokens: bool) -> NDArray[np.int32]:
    """Tokens of texts in batches, in this thread alone: the tasks around it have been given their CPUs."""
    found: list[int] = []
    with _one_thread():
        for first in range(0, len(texts), BATCH):
            batch = texts.slice(first, BATCH).to_pylist()
            found += [len(e.ids) for e in tokenizer.encode_batch_fast(batch, add_special_tokens=add_special_tokens)]
    return np.array(found, np.int32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The `tokenizers` library without threads of its own; it reads the setting at each call."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before


def _int32(lengths: pa.Array) -> NDArray[np.int32]:
    found: NDArray[np.int32] = lengths.to_numpy(zero_copy_only=False).astype(np.int32)
    return found


def vary(decoded: NDArray[Any], field: TextField, unknown: int, rng: np.random.Generator) -> NDArray[Any]:
    """Replace each token by `unknown` with the chance `word_dropout`, then let neighbours change places.

    A local shuffle as in Lample et al. (2018), here by one place: tokens are paired from the first or the second
    on, and each pair is swapped with the chance `word_swap`, so that this share of the tokens stands elsewhere.
    """
    if field.word_dropout:
        decoded = np.where(rng.random(len(decoded)) < field.word_dropout, np.int32(unknown), decoded)
    if field.word_swap:
        left = np.arange(rng.integers(2), len(decoded) - 1, 2)
        left = left[rng.random(len(left)) < field.word_swap]
        decoded = decoded.copy()
        decoded[left], decoded[left + 1] = decoded[left + 1], decoded[left]
    return decoded


def string_of(value: tuple[Any, ...]) -> str:
    """The string of a value. Raises RecordError if it is none."""
    text = value[0]
    if is_text(text):
        return str(text)
    found = "a string with half a surrogate pair" if isinstance(text, str) else type(text).__name__
    raise RecordError(f"expected a string that UTF-8 can hold, but is {found}")
