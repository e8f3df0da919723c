"""Modalities: how raw values become tokens. `README.md` beside this says how."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interlace.modalities.audio import AudioModality
from interlace.modalities.base import Fitted, FixedLearner, Learner, Modality
from interlace.modalities.image import ImageModality
from interlace.modalities.pretrained import PretrainedText, fit_pretrained
from interlace.modalities.pretrained_image import PretrainedImage, fit_pretrained_image
from interlace.modalities.series import make_series, series_learner
from interlace.modalities.table import make_table, table_learner
from interlace.modalities.text import TextModality
from interlace.modalities.vocabulary import text_learner
from interlace.recipe.fields import AnyField, ImageField, TextField
from interlace.recipe.plugins import Found, Joined


def make_image(name: str, field: ImageField, fitted: Fitted) -> Modality:
    """The modality of a field of pictures, in a size of its own or of a pretrained model."""
    return ImageModality(name, field, fitted) if field.encoder is None else PretrainedImage(name, field, fitted)


def make_text(name: str, field: TextField, fitted: Fitted) -> Modality:
    """The modality of a field of strings, with a tokenizer of its own or of a pretrained model."""
    return TextModality(name, field, fitted) if field.encoder is None else PretrainedText(name, field, fitted)


def _nothing(field: AnyField) -> Learner:
    """Pictures and sounds have nothing to learn from the training rows."""
    return FixedLearner({})


Parts = tuple[Callable[[Any], Learner], Callable[[str, Any, Fitted], Modality]]


def _parts(found: Found) -> Parts:
    learner = found.part(found.plugin.learner) if found.plugin.learner else _nothing
    return learner, found.part(found.plugin.make)


MODALITIES: Mapping[str, Parts] = Joined(
    "modalities",
    {
        "image": (_nothing, make_image),
        "text": (text_learner, make_text),
        "table": (table_learner, make_table),
        "audio": (_nothing, AudioModality),
        "series": (series_learner, make_series),
    },
    _parts,
)
"""`modality` of a field's settings -> what learns for it, how to make it."""


def learner(field: AnyField) -> Learner:
    """What learns for a field, and has learned nothing yet; `FixedLearner` where there is nothing to learn from rows.

    Raises:
        DataError: settings that can't be followed (a tokenizer file that can't be read).
    """
    return MODALITIES[field.modality][0](field)


def fit_from_folder(field: AnyField, folder: Path) -> Fitted:
    """The state of a field with a pretrained encoder: what the encoder's folder says. Raises DataError."""
    return fit_pretrained_image(folder) if field.modality == "image" else fit_pretrained(folder)


def make(name: str, field: AnyField, fitted: Fitted) -> Modality:
    """The modality of one field.

    Args:
        name: the field's name in the recipe.
        field: its settings.
        fitted: what the learner of the same settings gave, possibly after a round trip through JSON.
    """
    return MODALITIES[field.modality][1](name, field, fitted)
