"""Encoded pictures -> square patches of uint8 pixels.

In: `(bytes,)`, a PNG, JPEG or any other file that Pillow reads. Out: patches `[rows * columns, patch * patch * 3]`, a
patch laid out `[height, width, channel]`, the grid row-major.

A picture is shrunk to `max_size` on its longest side with its aspect ratio kept (never enlarged), put on the field's
background, and filled up with background at the right and bottom to whole patches: a few pixels, never more tokens.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from interlace.contract.errors import RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Modality
from interlace.modalities.columns import Columns, Measured, measure_each
from interlace.recipe.fields import ImageField

MAX_PIXELS = 100_000_000
"""Pictures whose header claims more are refused before anything is decoded (decoding takes 4 bytes a pixel)."""

REDUCING_GAP = 2.0
"""Cheap shrinking (JPEG `draft`, box reduction) stops at this multiple of the wanted size; bicubic does the rest.

JPEGs of 640 pixels to 64: 2.5 times faster than decoding all pixels, 0.5 of 255 off on average (gap 1: 1.5 off).
"""

MAX_ASPECT = 3.3
"""Boxes that are erased are at most this many times as high as wide, or as wide as high."""

_BACKGROUND = {"white": (255, 255, 255), "black": (0, 0, 0)}
_LUMA = np.array([0.299, 0.587, 0.114])
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A picture's size in the model: pixels after shrinking, and patches that cover them."""

    width: int
    height: int
    rows: int
    columns: int


def layout(extent: Extent, max_size: int, patch: int) -> Layout:
    """How a picture of `extent` (width, height) lies in patches; integers only, so that every caller rounds alike.

    Worked example: 500 x 250 at `max_size=64, patch=8` becomes 64 x 32 pixels, 4 rows of 8 patches.
    """
    longest = max(extent)
    width, height = extent
    if longest > max_size:
        width = max(1, (width * max_size + longest // 2) // longest)
        height = max(1, (height * max_size + longest // 2) // longest)
    return Layout(width=width, height=height, rows=-(-height // patch), columns=-(-width // patch))


@final
class ImageModality(Modality):
    """One column of encoded pictures. Extent: (width, height) in pixels as shown, EXIF orientation applied."""

    def __init__(self, name: str, field: ImageField, fitted: Fitted) -> None:
        self._field = field
        moved = field.rotate_degrees or field.rescale or field.shift or field.flip
        self.varies = bool(moved or field.color or field.erase or field.noise)
        self.background = _BACKGROUND[field.background]
        side = -(-field.max_size // field.patch)
        self._spec = FieldSpec(
            name=name,
            kind="patches",
            patch_dim=field.patch * field.patch * 3,
            patch_dtype="uint8",
            max_grid=(side, side),
            channels=3,
        )

    @property
    def spec(self) -> FieldSpec:
        """Patches of uint8 pixels with 3 channels."""
        return self._spec

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """Width and height from the header; pixels are not decoded. Raises RecordError."""
        with _pillow():
            return _open(value)[1]

    def measure_column(self, columns: Columns) -> Measured:
        """Value by value: headers must be parsed."""
        return measure_each(self.measure, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """All of it."""
        return fitted

    def grid(self, extent: Extent) -> tuple[int, int]:
        """Rows and columns of patches after shrinking."""
        at = layout(extent, self._field.max_size, self._field.patch)
        return at.rows, at.columns

    def decode(self, value: tuple[Any, ...]) -> NDArray[np.uint8]:
        """RGB pixels, uint8 `[rows * patch, columns * patch, 3]`. Raises RecordError."""
        with _pillow():
            image, extent, orientation = _open(value)
            at = layout(extent, self._field.max_size, self._field.patch)
            size = (at.width, at.height) if orientation < 5 else (at.height, at.width)
            box = None
            if (at.width, at.height) != extent:
                least = round(size[0] * REDUCING_GAP), round(size[1] * REDUCING_GAP)
                if min(image.width // least[0], image.height // least[1]) > 1:  # else a draft is the whole picture
                    draft = image.draft(None, least)
                    box = draft[1] if draft else None
            image = _to_rgb(image, self.background)
            if image.size != size:
                image = image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=REDUCING_GAP)
            if orientation in _UPRIGHT:
                image = image.transpose(_UPRIGHT[orientation])
            return self._fill(np.asarray(image), at)

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Rotate, rescale, mirror, shift (one bilinear transform), change colours (one matrix), erase a box, add noise.

        The canvas keeps its size; background fills what comes into view. Colours are
        `contrast * (saturation * (brightness * x))`, each towards the grey that `PIL.ImageEnhance` uses, rounded and
        clipped once at the end.
        """
        changed = self._changed(decoded, rng)
        if self._field.erase:
            changed = _erase(changed, self._field.erase, self.background, rng)
        return _add_noise(changed, self._field.noise, rng) if self._field.noise else changed

    def _changed(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """All of `augment` but for box and noise."""
        field = self._field
        turn, zoom, *colors = rng.uniform(-1.0, 1.0, 5)
        mirror = field.flip and rng.random() < 0.5
        across, down = rng.uniform(-field.shift, field.shift, 2) if field.shift else (0.0, 0.0)
        moved = bool(field.rotate_degrees or field.rescale or field.shift)
        if not (moved or mirror or field.color):
            return decoded
        if mirror and not moved:
            decoded = decoded[:, ::-1]
        if not (moved or field.color):
            return np.ascontiguousarray(decoded)
        image = Image.fromarray(np.ascontiguousarray(decoded))
        if moved:
            affine = _affine(image.size, turn * field.rotate_degrees, 1 + zoom * field.rescale, mirror)
            affine = _shifted(affine, across * image.width, down * image.height)
            image = image.transform(
                image.size,
                Image.Transform.AFFINE,
                affine,
                Image.Resampling.BILINEAR,
                fillcolor=self.background,
            )
        if field.color:
            image = _recolor(image, *(1 + c * field.color for c in colors))
        return np.asarray(image)

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """Patches of the pixels, uint8 `[rows * columns, patch * patch * 3]`."""
        patch = self._field.patch
        rows, columns = decoded.shape[0] // patch, decoded.shape[1] // patch
        cells = decoded.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 1, 3, 4)
        return Tokens(values=cells.reshape(rows * columns, self._spec.patch_dim), grid=(rows, columns))

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """None at all: patches are looked at."""
        return ()

    def _fill(self, pixels: NDArray[np.uint8], at: Layout) -> NDArray[np.uint8]:
        """The pixels at the top left of a canvas of whole patches."""
        height, width = at.rows * self._field.patch, at.columns * self._field.patch
        if pixels.shape[:2] == (height, width):
            return pixels
        canvas = np.full((height, width, 3), self.background[0], np.uint8)
        canvas[: at.height, : at.width] = pixels
        return canvas


def read_stretched(
    value: tuple[Any, ...], size: tuple[int, int], resample: int, background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """A picture upright in RGB, stretched to `size` (width, height) by one of Pillow's filters. Raises RecordError."""
    with _pillow():
        image, _, orientation = _open(value)
        image = _to_rgb(image, background)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        return np.asarray(image.resize(size, Image.Resampling(resample)))


@contextmanager
def _pillow() -> Iterator[None]:
    """Turn whatever Pillow raises into RecordError, and silence its warnings (broken metadata of whole pictures)."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except RecordError:
        raise
    except Exception as error:  # the sample boundary: damaged bytes make decoders raise anything
        first = str(error).partition("\n")[0]
        raise RecordError(f"expected a whole picture, but Pillow says {type(error).__name__}: {first}") from error


def _open(value: tuple[Any, ...]) -> tuple[Image.Image, Extent, int]:
    """The lazily opened picture, its (width, height) as shown, and its EXIF orientation still to apply (1 to 8)."""
    data = value[0]
    if not isinstance(data, bytes):
        raise RecordError(f"expected an encoded picture as bytes, but is {type(data).__name__}")
    if not data:
        raise RecordError("expected an encoded picture, but is 0 bytes")
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise RecordError(
            f"expected a picture that Pillow can open, but is {len(data)} bytes beginning {data[:8]!r}"
        ) from error
    except Image.DecompressionBombError as error:
        raise RecordError(f"expected at most {MAX_PIXELS:,} pixels, but Pillow says: {error}") from error
    width, height = image.size
    if not 1 <= width * height <= MAX_PIXELS:
        raise RecordError(f"expected at most {MAX_PIXELS:,} pixels, but the header claims {width} x {height}")
    orientation = _orientation(image)
    return image, (height, width) if orientation > 4 else (width, height), orientation


def _orientation(image: Image.Image) -> int:
    """EXIF orientation from the header, 1 (upright) where there is none or it can't be read."""
    if image.format == "TIFF" or not image.info.keys() & {"exif", "xmp", "XML:com.adobe.xmp"}:
        return 1  # Pillow turns TIFF upright itself
    try:
        # PngImageFile.getexif would decode the pixels to look for late metadata; the base method reads the header
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata costs the metadata, not the picture
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The picture as RGB: 16 bits cut to 8, transparency put on the background."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise RecordError(f"expected 8 or 16 bits a channel, but pixels reach {pixels.min()} to {pixels.max()}")
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise RecordError("expected 8 or 16 bits a channel, but pixels are floating-point numbers")
    if not image.has_transparency_data:
        return image.convert("RGB")
    cut_out = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(cut_out, mask=cut_out)
    return canvas


def _affine(size: tuple[int, int], degrees: float, scale: float, mirror: bool) -> tuple[float, ...]:
    """Output -> input coordinates of a rotation, enlargement and mirroring about the centre, as Pillow wants them."""
    x, y = size[0] / 2, size[1] / 2
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    a, b, d, e = (-cos, sin, sin, cos) if mirror else (cos, -sin, sin, cos)
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y


def _shifted(affine: tuple[float, ...], across: float, down: float) -> tuple[float, ...]:
    """The transform, and then a shift by pixels to the right and down."""
    a, b, c, d, e, f = affine
    return a, b, c - a * across - b * down, d, e, f - d * across - e * down


def _erase(
    pixels: NDArray[np.uint8], share: float, background: tuple[int, int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A box of up to `share` of the area filled with background (random erasing, Zhong et al. 2020).

    Every picture gets its box (the paper: half of them), of log-uniform aspect, cut where it is longer than the picture
    (the paper draws again), filled with background (the paper: noise).
    """
    height, width = pixels.shape[:2]
    size, aspect, *place = rng.random(4)
    area = size * share * height * width
    ratio = MAX_ASPECT ** (2 * aspect - 1)
    box = min(height, int(math.sqrt(area * ratio))), min(width, int(math.sqrt(area / ratio)))
    top, left = round(place[0] * (height - box[0])), round(place[1] * (width - box[1]))
    erased = pixels.copy()
    erased[top : top + box[0], left : left + box[1]] = background
    return erased


def _add_noise(pixels: NDArray[np.uint8], most: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Normal noise on the brightness of each pixel, cut to 0..255; its deviation is drawn from 0 to `most` of white."""
    deviation = np.float32(rng.uniform(0, most) * 255)
    noise = rng.standard_normal((*pixels.shape[:2], 1), np.float32) * deviation
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _recolor(image: Image.Image, brightness: float, saturation: float, contrast: float) -> Image.Image:
    """Scale brightness, then saturation (towards each pixel's grey), then contrast (towards the mean grey)."""
    mean = image.reduce(image.size).getpixel((0, 0))
    grey = float(_LUMA @ np.array(mean)) * brightness
    mix = contrast * brightness * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
    matrix = np.concatenate([mix, np.full((3, 1), (1 - contrast) * grey)], axis=1)
    return image.convert("RGB", tuple(matrix.ravel().tolist()))
