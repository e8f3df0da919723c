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
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.errors import DataError, RecordError
from pipeline.fields import TextField
from pipeline.modalities.base import Extent, Fitted, Modality, Values
from pipeline.sample import FieldSpec, Tokens

UNKNOWN, BEGIN, END = 0, 1, 2
NUM_SPECIALS = 3
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
        return len(_grams(text, self._length))

    def ids(self, text: str, limit: int) -> NDArray[np.int32]:
        known = self._index
        return np.array([known.get(gram, UNKNOWN) for gram in _grams(text, self._length)[:limit]], np.int32)

    def word(self, token: int) -> str | None:
        return self._grams[token - NUM_SPECIALS]


def _grams(text: str, length: int) -> list[str]:
    words = [f" {word} " for word in unicodedata.normalize("NFC", text).casefold().split()]
    return [word[i : i + length] for word in words for i in range(max(1, len(word) - length + 1))]


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

    def words(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
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


def fit_text(field: TextField, values: Values) -> Fitted:
    """The state of the field's tokenizer.

    Returns:
        `{}` for bytes; `{"characters": str}` or `{"grams": [str], "length": n}`, most frequent first;
        `{"tokenizer": str}`, a `tokenizers` JSON.

    Raises:
        DataError: `tokenizer_file` can't be read, or is given beside another tokenizer than `bpe`.
    """
    if field.tokenizer_file is not None:
        return {"tokenizer": _load(field)}
    if field.tokenizer == "bpe":
        return {"tokenizer": _train(field, values)}
    if field.tokenizer == "characters":
        return {"characters": "".join(_frequent(field, values, lambda text: unicodedata.normalize("NFC", text)))}
    if field.tokenizer == "ngrams":
        grams = _frequent(field, values, lambda text: _grams(text, field.ngram))
        return {"grams": grams, "length": field.ngram}
    return {}


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


def _train(field: TextField, values: Values) -> str:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) in NFC, case kept; no text is out of vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=field.vocab_size - NUM_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((v[0] for v in values if _is_text(v[0])), trainer)
    return str(tokenizer.to_str())


def _frequent(field: TextField, values: Values, pieces: Callable[[str], Iterable[str]]) -> list[str]:
    """The most frequent pieces of the texts; of equally frequent ones the first in order."""
    counts: Counter[str] = Counter()
    for value in values:
        if _is_text(value[0]):
            counts.update(pieces(value[0]))
    ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
    return ranked[: field.vocab_size - NUM_SPECIALS]


def _is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def string_of(value: tuple[Any, ...]) -> str:
    """The string of a value. Raises RecordError if it is none."""
    text = value[0]
    if _is_text(text):
        return str(text)
    found = "a string with half a surrogate pair" if isinstance(text, str) else type(text).__name__
    raise RecordError(f"expected a string that UTF-8 can hold, but is {found}")
