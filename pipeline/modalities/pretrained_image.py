"""Encoded pictures -> patches in the size that a pretrained vision Transformer wants.

In: `(bytes,)`. Out: patches uint8 `[rows * columns, patch * patch * 3]` of the picture stretched to the model's size.
Mean and deviation travel with the model's configuration; pixels are brought to them on the device.
"""

import json
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interlace.contract.errors import DataError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Modality
from interlace.modalities.columns import Columns, Measured, measure_each
from interlace.modalities.image import ImageModality, read_stretched
from interlace.modalities.pretrained import CONFIG, read_json
from interlace.recipe.fields import ImageField

PROCESSOR = "preprocessor_config.json"
BILINEAR = 2
"""What processors stretch with where they do not say it, as Pillow numbers filters."""


def fit_pretrained_image(folder: Path) -> Fitted:
    """What a model's folder says of its pictures.

    Returns:
        `{"config": {...}, "size": [height, width], "patch": n, "resample": n}`; the configuration also holds
        `pixel_mean` and `pixel_std` of the three channels, of pixels in 0..1.

    Raises:
        DataError: a file is missing, or the processor does more than stretch pictures to the model's size.
    """
    config, processor = read_json(folder / CONFIG), read_json(folder / PROCESSOR)
    sides, patch = config.get("image_size"), config.get("patch_size")
    size = [sides, sides] if isinstance(sides, int) else sides
    wanted = processor.get("size")
    wanted = {"height": wanted, "width": wanted} if isinstance(wanted, int) else wanted
    if not isinstance(patch, int) or size is None or wanted != {"height": size[0], "width": size[1]}:
        raise DataError(
            f"`encoder.pretrained`: expected pictures stretched to the `image_size` of the model in square patches, but"
            f" {CONFIG} has {sides} in patches of {patch}, {PROCESSOR} the size {processor.get('size')}"
        )
    if processor.get("do_center_crop") or not processor.get("do_rescale", True):
        raise DataError(
            f"`encoder.pretrained`: {folder / PROCESSOR} crops or does not rescale, which is not known here"
        )
    scaled = processor.get("do_normalize", True)
    mean = processor.get("image_mean", [0.5] * 3) if scaled else [0.0] * 3
    std = processor.get("image_std", [0.5] * 3) if scaled else [1.0] * 3
    return {
        "config": config | {"pixel_mean": mean, "pixel_std": std},
        "size": size,
        "patch": patch,
        "resample": processor.get("resample", BILINEAR),
    }


@final
class PretrainedImage(Modality):
    """One column of encoded pictures, all in one size. Extent: (width, height) in pixels as shown."""

    def __init__(self, name: str, field: ImageField, fitted: Fitted) -> None:
        height, width = fitted["size"]
        patch = fitted["patch"]
        same = field.model_copy(update={"max_size": max(height, width), "patch": patch, "encoder": None})
        self._inner = ImageModality(name, same, fitted)
        self._grid = height // patch, width // patch
        self._size, self._resample = (width, height), int(fitted["resample"])
        self._spec = FieldSpec(
            name=name,
            kind="patches",
            patch_dim=patch * patch * 3,
            patch_dtype="uint8",
            max_grid=self._grid,
            channels=3,
            pretrained=json.dumps(fitted["config"]),
        )

    @property
    def spec(self) -> FieldSpec:
        """Patches of uint8 pixels with 3 channels, and the model's configuration."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """Width and height from the header. Raises RecordError."""
        return self._inner.measure(value)

    def measure_column(self, columns: Columns) -> Measured:
        """Value by value: headers must be parsed."""
        return measure_each(self.measure, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """All of it."""
        return fitted

    def grid(self, extent: Extent) -> tuple[int, int]:
        """Rows and columns of patches, the same for every picture."""
        return self._grid

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.uint8]:
        """RGB pixels, uint8 `[height, width, 3]`, stretched to the model's size. Raises RecordError."""
        return read_stretched(value, self._size, self._resample, self._inner.background)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """As of any picture."""
        return self._inner.augment(decoded, rng)

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """Patches of the pixels."""
        return self._inner.encode(decoded)

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """None at all: patches are looked at."""
        return ()
