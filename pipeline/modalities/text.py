"""Strings -> ids.

In: `(str,)`. Out: int32 ids `[n]`, `1 <= n <= max_tokens`. Three ids come before those of every tokenizer, which are
moved up by `NUM_SPECIALS`:

| id | token | use |
| --- | --- | --- |
| 0 | `UNKNOWN` | what the vocabulary doesn't hold; what word dropout writes |
| 1 | `BEGIN` | opens a text that a model generates |
| 2 | `END` | closes it; alone, it stands for a text without any token, so that an empty text is seen to be present |
"""

import unicodedata
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from interlace.contract.errors import RecordError
from interlace.contract.sample import END, NUM_SPECIALS, UNKNOWN, FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Modality
from interlace.modalities.vocabulary import is_text, word_pieces
from interlace.recipe.fields import TextField

_SPECIAL_WORDS = (None, "<begin>", "<end>")


class _Tokenizer(Protocol):
    """Strings to ids: `vocab_size` with the specials, `count` of all tokens, `ids` of at least the first `limit`.

    `word` is what a person reads for an id that is no special, None for the vocabulary's own unknown token.
    """

    vocab_size: int

    def count(self, text: str) -> int: ...

    def ids(self, text: str, limit: int) -> NDArray[np.int32]: ...

    def word(self, token: int) -> str | None: ...


@final
class _Bytes:
    """UTF-8 bytes as they are."""

    def __init__(self, fitted: Fitted) -> None:
        self.vocab_size = 256 + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(text.encode())

    def ids(self, text: str, limit: int) -> NDArray[np.int32]:
        # a character is at least one byte, so `limit` characters are enough
        return np.frombuffer(text[:limit].encode(), np.uint8) + np.int32(NUM_SPECIALS)

    def word(self, token: int) -> str | None:
        byte = token - NUM_SPECIALS
        return chr(byte) if byte < 128 else f"\\x{byte:02x}"


@final
class _Characters:
    """Characters (code points in NFC) of a fitted list, the others unknown."""

    def __init__(self, fitted: Fitted) -> None:
        self._characters: str = fitted["characters"]
        self._index = {c: i + NUM_SPECIALS for i, c in enumerate(self._characters)}
        self.vocab_size = len(self._index) + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(unicodedata.normalize("NFC", text))

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

    def __init__(self, fitted: Fitted) -> None:
        self._length: int = fitted["length"]
        self._grams: list[str] = fitted["grams"]
        self._index = {gram: i + NUM_SPECIALS for i, gram in enumerate(self._grams)}
        self.vocab_size = len(self._index) + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(word_pieces(text, self._length))

    def ids(self, text: str, limit: int) -> NDArray[np.int32]:
        known = self._index
        return np.array([known.get(gram, UNKNOWN) for gram in word_pieces(text, self._length)[:limit]], np.int32)

    def word(self, token: int) -> str | None:
        return self._grams[token - NUM_SPECIALS]


@final
class _BytePairs:
    """A tokenizer of the `tokenizers` library, without the special tokens that its file may add."""

    def __init__(self, fitted: Fitted) -> None:
        self._tokenizer = Tokenizer.from_str(fitted["tokenizer"])
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1 + NUM_SPECIALS

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

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
