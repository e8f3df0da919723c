"""What a pretrained model of the `transformers` library reads: the data arm's half of `encoder`.

Strings -> the ids that it knows (pictures in its size: `interlace.modalities.pretrained_image`).
In: `(str,)`. Out: int32 ids `[n]` with the special tokens around them, `n` at most `max_tokens` and what the model can
take. Read with the `tokenizers` library alone: neither torch nor `transformers` is imported here. Ids are the model's
own, without the three that `interlace.modalities.text` puts before those of its tokenizers.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from interlace.contract.errors import DataError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Modality
from interlace.modalities.columns import Columns, Measured
from interlace.modalities.text import batch_counts, measure_texts, string_of, vary
from interlace.recipe.fields import TextField

CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"

NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Settings of a BERT tokenizer that go before those of its `tokenizer.json`, and their names there."""


def fit_pretrained(folder: Path) -> Fitted:
    """What a model's folder says of its tokens.

    Returns:
        `{"tokenizer": str, "config": {...}, "limit": n, "unknown": id}`: a `tokenizers` JSON, the model's
        configuration, its longest input, and the id that word dropout writes (the mask, else the unknown token).

    Raises:
        DataError: a file is missing or is no JSON, or there is no vocabulary.
    """
    config = read_json(folder / CONFIG)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    whole = read_json(folder / TOKENIZER)
    normalizer = whole.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        normalizer.update({own: settings[name] for name, own in NORMALIZER.items() if name in settings})
    whole |= {"truncation": None, "padding": None}
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    unknown = [tokenizer.token_to_id(_token(settings.get(name)) or "") for name in ("mask_token", "unk_token")]
    if "vocab_size" not in config:
        raise DataError(f"{folder / CONFIG}: expected a model of text with `vocab_size`, but it has none")
    limits = [config.get("max_position_embeddings"), settings.get("model_max_length")]
    return {
        "tokenizer": tokenizer.to_str(),
        "config": config,
        "limit": int(min((n for n in limits if n is not None), default=2**31)),
        "unknown": next((i for i in unknown if i is not None), 0),
    }


@final
class PretrainedText(Modality):
    """One column of strings. Extent: (tokens with specials after the cut, 0)."""

    def __init__(self, name: str, field: TextField, fitted: Fitted) -> None:
        self._field = field
        limit = min(field.max_tokens, fitted["limit"])
        self._tokenizer = Tokenizer.from_str(fitted["tokenizer"])
        self._tokenizer.enable_truncation(limit)
        self._unknown = int(fitted["unknown"])
        self._spec = FieldSpec(
            name=name,
            kind="ids",
            vocab_size=fitted["config"]["vocab_size"],
            max_grid=(limit, 1),
            pretrained=json.dumps(fitted["config"]),
        )

    @property
    def spec(self) -> FieldSpec:
        """Ids of the model's vocabulary, and its configuration."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """Number of tokens, specials included, after the cut; at least 1. Raises RecordError."""
        return len(self.decode(value)), 0

    def measure_column(self, columns: Columns) -> Measured:
        """By batches."""
        count = partial(batch_counts, self._tokenizer, add_special_tokens=True)
        return measure_texts(self.measure, count, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """The tokenizer and where it cuts."""
        return {"tokenizer": fitted["tokenizer"], "limit": fitted["limit"]}

    def grid(self, extent: Extent) -> tuple[int, int]:
        """As many tokens, one column."""
        return extent[0], 1

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.int32]:
        """Ids, int32 `[n]`; the unknown one for a text without any. Raises RecordError."""
        ids = self._tokenizer.encode(string_of(value)).ids
        return np.array(ids or [self._unknown], np.int32)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """As of any text (`interlace.modalities.text.vary`), special tokens apart."""
        added = self._tokenizer.get_added_tokens_decoder()
        inner = ~np.isin(decoded, [i for i, token in added.items() if token.special])
        varied = decoded.copy()
        varied[inner] = vary(decoded[inner], self._field, self._unknown, rng)
        return varied

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """The ids themselves."""
        return Tokens(values=decoded, grid=(len(decoded), 1))

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """Pieces of words as the vocabulary has them."""
        return tuple(self._tokenizer.id_to_token(i) for i in decoded.tolist())


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file of a model's folder. Raises DataError."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"`encoder.pretrained`: expected JSON in {path}, but {error}") from error
    if not isinstance(read, dict):
        raise DataError(f"`encoder.pretrained`: expected an object in {path}, but it is {type(read).__name__}")
    return read


def _token(entry: Any) -> str | None:
    """The text of a special token, which older files write as an object."""
    return entry.get("content") if isinstance(entry, dict) else entry
