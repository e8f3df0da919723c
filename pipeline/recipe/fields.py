"""Settings of fields, one class a modality: which columns of a source they read, and how values become tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field, model_validator

from interlace.recipe.base import MODEL_SETTINGS, ColumnKind, FieldSettings, PretrainedEncoder
from interlace.recipe.plugins import union


class ImageField(FieldSettings):
    """A column of encoded pictures (PNG, JPEG and whatever Pillow reads)."""

    training_only = MODEL_SETTINGS | frozenset(
        {"zero", "rotate_degrees", "rescale", "shift", "flip", "color", "erase", "noise"}
    )

    modality: Literal["image"]
    stem: Literal["linear", "cnn"] = Field(
        "linear", description="What comes before the field's Transformer layers: a projection, or convolutions."
    )
    column: str = Field(description="Column that holds the encoded bytes.")
    max_size: int = Field(64, ge=1, le=4096, description="Longest side in pixels; larger pictures are shrunk to it.")
    patch: int = Field(8, ge=1, le=64, description="Side of a square patch in pixels; one patch is one token.")
    background: Literal["white", "black"] = Field("white", description="What shows through transparent pixels.")
    zero: Literal["grey", "white", "black"] = Field(
        "grey",
        description="What the network sees as zeros: the ground of ink on even paper, of which it else sees too much.",
    )
    rotate_degrees: float = Field(0.0, ge=0, le=180, description="Training: rotation drawn from +- this.")
    rescale: float = Field(0.0, ge=0, lt=1, description="Training: scale drawn from 1 +- this; above 1 it is a crop.")
    shift: float = Field(0.0, ge=0, lt=1, description="Training: moved by up to this share of each side.")
    flip: bool = Field(False, description="Training: mirror left and right in half of the draws.")
    color: float = Field(0.0, ge=0, lt=1, description="Training: brightness, contrast, saturation from 1 +- this.")
    erase: float = Field(0.0, ge=0, lt=1, description="Training: largest share of the area that a box blanks out.")
    noise: float = Field(0.0, ge=0, le=1, description="Training: largest deviation of noise, as a share of white.")
    encoder: PretrainedEncoder | None = Field(
        None,
        description="A pretrained vision Transformer to see the picture, in its own size, before the field's layers.",
    )

    @model_validator(mode="after")
    def _one_size(self) -> "ImageField":
        own = ("stem", "max_size", "patch")
        if self.encoder and (given := [n for n in own if getattr(self, n) != type(self).model_fields[n].default]):
            raise ValueError(f"`{given[0]}` has no effect with `encoder`, whose size and patches are used")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that this field reads."""
        return (self.column,)

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "pictures"


class TextField(FieldSettings):
    """A column of strings."""

    training_only = MODEL_SETTINGS | frozenset({"word_dropout", "word_swap"})

    modality: Literal["text"]
    column: str = Field(description="Column that holds the string.")
    tokenizer: Literal["bytes", "bpe", "characters", "ngrams"] = Field(
        "bytes",
        description="UTF-8 bytes, a byte-pair vocabulary fitted on the training text, its characters, or overlapping"
        " pieces of its words (good on few short texts, where they tell more than whole words).",
    )
    ngram: int = Field(4, ge=2, le=8, description="`ngrams`: characters in a piece.")
    vocab_size: int = Field(1000, ge=260, le=200_000, description="Ids of a fitted vocabulary.")
    tokenizer_file: str | None = Field(None, description="A `tokenizers` JSON file to use instead of fitting one.")
    vocabulary: str | None = Field(
        None,
        min_length=1,
        description="Name of a vocabulary fitted on all text fields that give this name, together; or that which one of"
        " them starts with (`init`).",
    )
    max_tokens: int = Field(256, ge=1, description="Longer texts are cut to this many tokens.")
    word_dropout: float = Field(0.0, ge=0, lt=1, description="Training: share of tokens replaced by the unknown token.")
    word_swap: float = Field(0.0, ge=0, lt=1, description="Training: share of tokens that change places with the next.")
    encoder: PretrainedEncoder | None = Field(
        None, description="A pretrained model to read the text, with its own tokenizer, before the field's layers."
    )

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "TextField":
        own = ("tokenizer", "ngram", "vocab_size", "tokenizer_file", "vocabulary")
        if self.encoder and (given := [n for n in own if getattr(self, n) != type(self).model_fields[n].default]):
            raise ValueError(f"`{given[0]}` has no effect with `encoder`, whose tokenizer is used")
        return self

    @model_validator(mode="after")
    def _fits_one(self) -> "TextField":
        if self.vocabulary is not None and (self.tokenizer == "bytes" or self.tokenizer_file is not None):
            given = "tokenizer: bytes" if self.tokenizer == "bytes" else "tokenizer_file"
            raise ValueError(f"`vocabulary` has no effect with `{given}`, which fits none")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that this field reads."""
        return (self.column,)

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "string"


class TableField(FieldSettings):
    """Several columns of one table row, all numbers, all categories or all dates; one token for each present value."""

    places = frozenset({"numbers", "categories", "dates"})

    modality: Literal["table"]
    stem: Literal["linear", "cnn"] = Field(
        "linear", description="What comes before the field's Transformer layers: a projection, or convolutions."
    )
    numbers: tuple[str, ...] = Field((), description="Numeric columns, standardised by the training rows.")
    categories: tuple[str, ...] = Field((), description="Columns of categories (strings, integers or booleans).")
    dates: tuple[str, ...] = Field((), description="Columns of dates or timestamps, or of ISO 8601 strings.")
    max_categories: int = Field(256, ge=1, description="Most frequent categories kept of each column.")

    @model_validator(mode="after")
    def _one_kind(self) -> "TableField":
        if sum(map(bool, (self.numbers, self.categories, self.dates))) != 1:
            raise ValueError("expected one of `numbers`, `categories` and `dates` (several fields make a mixed table)")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that this field reads."""
        return self.numbers or self.categories or self.dates

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        if self.dates:
            return "date"
        return "number" if self.numbers else "category"


class AudioField(FieldSettings):
    """A column of encoded sound (WAV, FLAC, Ogg and whatever libsndfile reads) as log-mel frames."""

    training_only = MODEL_SETTINGS | frozenset(
        {"gain_db", "shift_s", "noise_db", "speed", "pitch", "tempo", "time_mask", "band_mask", "masks"}
    )

    modality: Literal["audio"]
    column: str = Field(description="Column that holds the encoded bytes.")
    rate_hz: int = Field(16_000, ge=1000, le=192_000, description="Sounds are mixed to mono and resampled to this.")
    max_seconds: float = Field(10.0, gt=0, le=600, description="Longer sounds are cut to their middle of this length.")
    num_mels: int = Field(64, ge=8, le=256, description="Bands of the mel scale.")
    window_ms: float = Field(25.0, gt=0, le=500, description="Length of a frame of the short-time spectrum.")
    hop_ms: float = Field(10.0, gt=0, le=500, description="Time between frames.")
    patch_frames: int = Field(4, ge=1, le=256, description="Frames in a patch; one patch is one token.")
    range_db: float | None = Field(None, gt=0, le=200, description="What is further below the loudest is raised to it.")
    normalise: Literal["none", "bands"] = Field("bands", description="`bands`: the mean of each band is removed.")
    gain_db: float = Field(0.0, ge=0, le=60, description="Training: loudness changed by up to +- this.")
    shift_s: float = Field(0.0, ge=0, description="Training: moved in time by up to +- this.")
    noise_db: float | None = Field(None, le=60, description="Training: white noise this far below the sound, or more.")
    speed: float = Field(0.0, ge=0, lt=1, description="Training: speed and pitch changed by a factor from 1 +- this.")
    pitch: float = Field(0.0, ge=0, lt=1, description="Training: pitch alone changed by a factor from 1 +- this.")
    tempo: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Training: each second's speed drawn from 1 +- this, the length of the whole kept: nothing is cut.",
    )
    time_mask: float = Field(0.0, ge=0, lt=1, description="Training: largest share of the frames blanked in a row.")
    band_mask: float = Field(0.0, ge=0, lt=1, description="Training: largest share of the bands blanked in a row.")
    masks: int = Field(1, ge=1, le=16, description="Training: blocks of frames, and of bands, that are blanked.")

    @model_validator(mode="after")
    def _masks_of_a_size(self) -> "AudioField":
        if self.masks > 1 and not (self.time_mask or self.band_mask):
            raise ValueError("`masks` has no effect without `time_mask` or `band_mask`")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that this field reads."""
        return (self.column,)

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "sounds"


SeriesStatistic = Literal["mean", "min", "max", "first", "last"]


class SeriesField(FieldSettings):
    """Sensor readings over time: regular (one list a channel, or one list of rows) or irregular (aligned lists)."""

    training_only = MODEL_SETTINGS | frozenset({"jitter", "scale", "shift", "time_mask"})
    places = frozenset({"channels", "column", "time", "channel", "value"})

    modality: Literal["series"]
    channels: tuple[str, ...] = Field((), description="Regular: a column of numbers for each channel, of equal length.")
    column: str | None = Field(None, description="Regular: one column of rows `[n, channels]`.")
    time: str | None = Field(None, description="Irregular: column of a list of times; also needs `channel`, `value`.")
    channel: str | None = Field(None, description="Irregular: column of a list of channel names, aligned with `time`.")
    value: str | None = Field(None, description="Irregular: column of a list of readings, aligned with `time`.")
    max_channels: int = Field(64, ge=1, le=4096, description="Irregular: most frequent channels kept.")
    statistics: tuple[SeriesStatistic, ...] = Field(
        ("mean",),
        min_length=1,
        description="Irregular: what a patch says of a channel's readings in the window, besides their number.",
    )
    scores: Literal["standard", "rank"] = Field(
        "standard",
        description="Irregular: readings as z-scores, or by their rank among the channel's training readings, which"
        " impossible values and skewed channels can't spoil.",
    )
    deviations: bool = Field(
        False,
        description="Irregular: a patch also holds each statistic without its sign: how far from usual, either way.",
    )
    rate_hz: float = Field(1.0, gt=0, description="Regular: readings a second.")
    time_unit_s: float = Field(1.0, gt=0, description="Irregular: seconds in a unit of the times (60 for minutes).")
    window_s: float = Field(1.0, gt=0, description="Seconds in a patch; one patch is one token.")
    max_seconds: float = Field(3600.0, gt=0, description="Longer series are cut to this length.")
    keep: Literal["first", "middle", "last"] = Field("first", description="Which part of a longer series is kept.")
    jitter: float = Field(0.0, ge=0, description="Training: noise added, in standard deviations of its channel.")
    scale: float = Field(0.0, ge=0, lt=1, description="Training: readings times a factor from 1 +- this, by channel.")
    shift: float = Field(0.0, ge=0, lt=1, description="Training: windows begin earlier or later by up to this share.")
    time_mask: float = Field(0.0, ge=0, lt=1, description="Training: largest share of the time blanked in a row.")

    @model_validator(mode="after")
    def _one_form(self) -> "SeriesField":
        aligned = [self.time, self.channel, self.value]
        forms = [bool(self.channels), self.column is not None, any(aligned)]
        if sum(forms) != 1 or (any(aligned) and not all(aligned)):
            raise ValueError("expected one of `channels`, `column`, and all three of `time`, `channel`, `value`")
        if len(set(self.statistics)) < len(self.statistics):
            raise ValueError(f"expected each of `statistics` once, but they are {', '.join(self.statistics)}")
        for name in ("statistics", "scores", "deviations"):
            if not self.time and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect without `time`, `channel` and `value`")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that this field reads."""
        if self.time and self.channel and self.value:
            return (self.time, self.channel, self.value)
        return self.channels or (self.column or "",)

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        if column == self.column:
            return "rows"
        return "categories" if column == self.channel else "numbers"


if TYPE_CHECKING:
    AnyField: TypeAlias = FieldSettings
else:
    AnyField = union("modalities", (ImageField, TextField, TableField, AudioField, SeriesField))
"""Settings of a field of any modality, those of other packages included."""


def check_vocabularies(fields: Mapping[str, AnyField]) -> None:
    """Refuse a vocabulary that one text alone names, or texts of unequal tokenizers. Raises ValueError."""
    users: dict[str, list[str]] = {}
    for name, field in fields.items():
        if isinstance(field, TextField) and field.vocabulary is not None:
            users.setdefault(field.vocabulary, []).append(name)
    errors = []
    for vocabulary, (first, *others) in users.items():
        if not others:
            errors.append(f"`{first}.vocabulary`: expected another user of the vocabulary `{vocabulary}`")
        for other in others:
            for setting in ("tokenizer", "vocab_size", "ngram"):
                one, two = getattr(fields[first], setting), getattr(fields[other], setting)
                if one != two:
                    errors.append(
                        f"`{first}.{setting}` and `{other}.{setting}` must be equal, because they share the vocabulary"
                        f" `{vocabulary}`, but are {one!r} and {two!r}"
                    )
    if errors:
        raise ValueError("; ".join(errors))
