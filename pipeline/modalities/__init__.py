"""Modalities: how raw values become tokens.

1. A *field* is a named column (or several, for a table) read through one modality.
2. `fit(field, values)` goes once over the training rows and gives `Fitted`: plain JSON that travels with the model.
3. `make(name, field, fitted)` gives the `Modality`, cheap enough to make in every data task.
4. Per value: `measure -> grid` when indexing (headers only), `decode -> augment -> encode` when reading.

To add a modality: its settings in `pipeline/fields.py`, one file here with a `fit` function and a class that follows
`base.Modality`, and one row of `MODALITIES`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.fields import AnyField, ImageField, TextField
from pipeline.modalities.audio import AudioModality, fit_audio
from pipeline.modalities.base import Fitted, Modality, Values
from pipeline.modalities.image import ImageModality, fit_image
from pipeline.modalities.pretrained import PretrainedText, fit_pretrained
from pipeline.modalities.pretrained_image import PretrainedImage, fit_pretrained_image
from pipeline.modalities.series import fit_series, make_series
from pipeline.modalities.table import fit_table, make_table
from pipeline.modalities.text import TextModality, fit_text


def make_image(name: str, field: ImageField, fitted: Fitted) -> Modality:
    """The modality of a field of pictures, in a size of its own or of a pretrained model."""
    return ImageModality(name, field, fitted) if field.encoder is None else PretrainedImage(name, field, fitted)


def make_text(name: str, field: TextField, fitted: Fitted) -> Modality:
    """The modality of a field of strings, with a tokenizer of its own or of a pretrained model."""
    return TextModality(name, field, fitted) if field.encoder is None else PretrainedText(name, field, fitted)


MODALITIES: dict[str, tuple[Callable[[Any, Values], Fitted], Callable[[str, Any, Fitted], Modality]]] = {
    "image": (fit_image, make_image),
    "text": (fit_text, make_text),
    "table": (fit_table, make_table),
    "audio": (fit_audio, AudioModality),
    "series": (fit_series, make_series),
}
"""`modality` of a field's settings -> how to fit it, how to make it."""


def fit(field: AnyField, values: Values) -> Fitted:
    """What a field must learn from the training rows, in one pass that keeps counts and statistics, not rows.

    Values that `measure` would refuse are passed over. The same values in the same order give the same state.

    Args:
        field: the field's settings.
        values: raw values of the training rows; not read at all where the modality has nothing to learn.

    Raises:
        DataError: settings that can't be followed (a tokenizer file that can't be read).
    """
    return MODALITIES[field.modality][0](field, values)


def fit_from_folder(field: AnyField, folder: Path) -> Fitted:
    """The state of a field with a pretrained encoder: what the encoder's folder says. Raises DataError."""
    return fit_pretrained_image(folder) if field.modality == "image" else fit_pretrained(folder)


def make(name: str, field: AnyField, fitted: Fitted) -> Modality:
    """The modality of one field.

    Args:
        name: the field's name in the recipe.
        field: its settings.
        fitted: what `fit` gave for the same settings, possibly after a round trip through JSON.
    """
    return MODALITIES[field.modality][1](name, field, fitted)
