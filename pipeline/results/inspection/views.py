"""Samples as a person looks at them: what the model gets of each field, and a variant as training augments it.

record -> decode -> augment -> what of both can be looked at: pixels, bands and sound, lines, cells, words

Decoding, augmenting and encoding are those of the modalities, with the random numbers that the reader would give them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interlace.contract.errors import RecordError
from interlace.data.index.manifest import Manifest
from interlace.data.index.records import Record, RecordCodec, field_value
from interlace.modalities.audio import AudioModality, Header, read_header
from interlace.modalities.base import Modality
from interlace.modalities.image import ImageModality
from interlace.modalities.irregular import IrregularSeries
from interlace.modalities.series import RegularSeries
from interlace.modalities.table import CategoriesModality, NumbersModality
from interlace.results.inspection.html import plural

SHEET_SAMPLES = 24
SHEET_GROUPS = 8
"""Row groups that the sheet's samples are drawn from: bounds what is read."""
SOUND_BYTES = 1_000_000
"""Longest sound that is embedded as its file has it; of a longer one the part that is used, if that is shorter."""
LINES = 12
"""Channels that are drawn, those with the most readings."""

PLAYED = {"WAV": "audio/wav", "WAVEX": "audio/wav", "FLAC": "audio/flac", "OGG": "audio/ogg", "MPEG": "audio/mpeg"}
PLAYED_WAVES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT")
"""Formats, and of WAV encodings, that browsers play."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A sound to play: the bytes of a file with their media type, and in words what it is."""

    data: bytes
    kind: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Log-mel bands as the model gets them.

    Args:
        bands: float16 `[frames, num_mels]`, the lowest first.
        times: float32 `[frames]`, seconds at the middle of each frame.
        bands_hz: float64 `[num_mels]`, where each band peaks.
    """

    bands: NDArray[np.float16]
    times: NDArray[np.float32]
    bands_hz: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Readings of one channel in raw units, NaN where absent, float64 `[m]`, at times in seconds `[m]`."""

    name: str
    times: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Channels of a series.

    Args:
        lines: those that are drawn.
        left_out: channels with readings that are not drawn.
        windows: float64 `[tokens]`, middle of each window in seconds.
        window_s: length of a window.
        joined: whether readings follow each other at a constant rate, so that lines may join them.
    """

    lines: tuple[Line, ...]
    left_out: int
    windows: NDArray[np.float64]
    window_s: float
    joined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One column of a table row: its value as a person reads it, None where absent; whether training rows have it."""

    column: str
    value: str | None
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldView:
    """One field of a sample as the model gets it; all empty where it is missing. Pairs: decoded, then any variant.

    Args:
        name: the field.
        size: how many tokens, in words.
        note: what else is to be said of the value, in words.
        text: the raw string, for fields of one.
        pictures: pixels, uint8 `[height, width, 3]`.
        spectra: bands of a sound.
        sound: to be played; None where there is none or it is too long, as `note` then says.
        plots: channels of a series.
        cells: columns of a table.
        words: each token as a person reads it, None where unknown.
        variant_words: the same after augmentation, where that changed anything.
        error: why it could not be decoded.
    """

    name: str
    size: str = ""
    note: str = ""
    text: str | None = None
    pictures: tuple[NDArray[np.uint8], ...] = ()
    spectra: tuple[Spectrum, ...] = ()
    sound: Sound | None = None
    plots: tuple[Plot, ...] = ()
    cells: tuple[tuple[Cell, ...], ...] = ()
    words: tuple[str | None, ...] = ()
    variant_words: tuple[str | None, ...] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleView:
    """One sample of the sheet: where it is, its labels by task (None: no label), its fields."""

    place: str
    labels: Mapping[str, str | None]
    fields: tuple[FieldView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A field of a record to be viewed: its raw value and columns, and what was decoded with any variant."""

    value: tuple[Any, ...]
    columns: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]


def sample_sheet(manifest: Manifest, codec: RecordCodec, seed: int) -> list[SampleView]:
    """Usable records drawn at random from a few row groups, decoded, each with its variant of epoch 0."""
    rng = np.random.default_rng(seed)
    starts = manifest.starts
    groups = rng.permutation(len(manifest.groups))[:SHEET_GROUPS]
    rows = np.concatenate([starts[g] + np.flatnonzero(manifest.rows(g).usable) for g in groups.tolist()])
    chosen = np.sort(rng.choice(rows, min(SHEET_SAMPLES, len(rows)), replace=False))
    readers = manifest.readers()
    views = []
    for number in sorted(groups.tolist()):
        inside = chosen[(chosen >= starts[number]) & (chosen < starts[number + 1])]
        if not len(inside):
            continue
        group = manifest.group(number)
        table = readers[group.source].read(group, codec.columns)
        records = table.take(inside - starts[number]).to_pylist()
        for row, record in zip(inside.tolist(), records, strict=True):
            shard, at = manifest.locate(row)
            views.append(view_sample(record, codec, np.random.default_rng((seed, 0, row)), f"{shard} row {at}"))
    return views


def view_sample(record: Record, codec: RecordCodec, rng: np.random.Generator, place: str) -> SampleView:
    """One record as the model gets it; `rng` is used as the reader uses it, so variants are those of training."""
    views: list[FieldView] = []
    for name, (modality, columns) in codec.fields.items():
        value = field_value(record, columns)
        try:
            found = FieldView(name=name) if value is None else _view_field(name, modality, (value, columns), rng)
        except RecordError as error:
            found = FieldView(name=name, error=str(error))
        views.append(found)
    return SampleView(
        place=place,
        labels={name: _label_text(record, columns) for name, (_, columns) in codec.targets.items()},
        fields=tuple(views),
    )


def _view_field(
    name: str, modality: Modality, raw: tuple[tuple[Any, ...], tuple[str, ...]], rng: np.random.Generator
) -> FieldView:
    decoded = modality.decode(raw[0])
    variant = modality.augment(decoded, rng)
    grid = modality.encode(decoded).grid
    changed = not np.array_equal(variant, decoded, equal_nan=decoded.dtype.kind == "f")
    plain = FieldView(name=name, size=plural(grid[0] * grid[1], "token"))
    view = VIEWS.get(type(modality), _view_words)
    return view(plain, modality, _Seen(value=raw[0], columns=raw[1], arrays=(decoded, variant)[: 1 + changed]))


def _view_words(plain: FieldView, modality: Modality, seen: _Seen) -> FieldView:
    """Tokens that are words, after the text that they come from."""
    words = [modality.token_texts(array) for array in seen.arrays]
    return replace(
        plain,
        text=seen.value[0] if isinstance(seen.value[0], str) and len(seen.value) == 1 else None,
        words=words[0],
        variant_words=words[1] if len(words) > 1 else None,
    )


def _view_picture(plain: FieldView, modality: Modality, seen: _Seen) -> FieldView:
    rows, columns = modality.encode(seen.arrays[0]).grid
    return replace(plain, size=f"{rows} x {columns} patches", pictures=seen.arrays)


def _view_table(plain: FieldView, modality: Modality, seen: _Seen) -> FieldView:
    return replace(plain, cells=tuple(_cells(modality.token_texts(array), seen) for array in seen.arrays))


def _cells(words: tuple[str | None, ...], seen: _Seen) -> tuple[Cell, ...]:
    """Every column with its value; `words` are those of the values that are present, as `column = value`."""
    left = iter(words)
    cells = []
    for column, raw in zip(seen.columns, seen.value, strict=True):
        if raw is None or raw != raw:  # NaN and NaT differ from themselves
            cells.append(Cell(column=column, value=None))
            continue
        word = next(left)
        value = str(raw) if word is None else word.removeprefix(f"{column} = ")
        cells.append(Cell(column=column, value=value, known=word is not None))
    assert next(left, None) is None
    return tuple(cells)


def _view_audio(plain: FieldView, modality: Modality, seen: _Seen) -> FieldView:
    assert isinstance(modality, AudioModality)
    header = read_header(seen.value)
    sound = _sound(modality, seen.value, header)
    note = _header_text(header)
    if header.seconds > modality.max_seconds:
        note += f"; the middle {modality.max_seconds:g} s are used"
    spectra = []
    for array in seen.arrays:
        bands = modality.encode(array).values.reshape(-1, array.shape[1] - 1)[: len(array)]
        spectra.append(Spectrum(bands=bands, times=array[:, 0], bands_hz=modality.bands_hz))
    return replace(plain, note=note if sound else f"{note}; too long to embed", spectra=tuple(spectra), sound=sound)


def _header_text(header: Header) -> str:
    """`0.64 s at 8,000 Hz, mono, FLAC (PCM_16)`."""
    channels = {1: "mono", 2: "stereo"}.get(header.channels, plural(header.channels, "channel"))
    return f"{header.seconds:.2f} s at {header.rate_hz:,} Hz, {channels}, {header.format} ({header.encoding})"


def _sound(modality: AudioModality, value: tuple[Any, ...], header: Header) -> Sound | None:
    """The file itself if it is short and browsers play it, else the part that is used, else nothing."""
    plays = header.format in PLAYED and (PLAYED[header.format] != "audio/wav" or header.encoding in PLAYED_WAVES)
    if plays and len(value[0]) <= SOUND_BYTES:
        return Sound(data=value[0], kind=PLAYED[header.format], note="as in the file")
    try:
        clip = modality.clip(value)
    except RecordError:  # a rate that FLAC does not know
        return None
    note = f"as the model hears it: mono, {modality.rate_hz:,} Hz"
    return Sound(data=clip, kind="audio/flac", note=note) if len(clip) <= SOUND_BYTES else None


def _view_regular(plain: FieldView, modality: Modality, seen: _Seen) -> FieldView:
    assert isinstance(modality, RegularSeries)
    found = [(array, *modality.readings(array)) for array in seen.arrays]
    chosen, left_out = _fullest((~np.isnan(found[0][2])).sum(axis=0))
    plots = tuple(
        Plot(
            lines=tuple(Line(name=modality.channels[c], times=times, values=values[:, c]) for c in chosen),
            left_out=left_out,
            windows=array[:, 0],
            window_s=modality.window_s,
            joined=True,
        )
        for array, times, values in found
    )
    return replace(plain, plots=plots)


def _view_irregular(plain: FieldView, modality: Modality, seen: _Seen) -> FieldView:
    assert isinstance(modality, IrregularSeries)
    names = modality.channels
    held = seen.arrays[0][~np.isnan(seen.arrays[0][:, 3])]
    chosen, left_out = _fullest(np.bincount(held[:, 2].astype(np.intp), minlength=len(names)))
    plots = []
    for array in seen.arrays:
        rows = [array[(array[:, 2] == c) & ~np.isnan(array[:, 3])] for c in chosen]
        lines = (Line(name=names[c], times=r[:, 1], values=r[:, 3]) for c, r in zip(chosen, rows, strict=True))
        windows = np.unique(array[:, 0])
        plots.append(
            Plot(lines=tuple(lines), left_out=left_out, windows=windows, window_s=modality.window_s, joined=False)
        )
    return replace(plain, plots=tuple(plots))


def _fullest(counts: NDArray[np.intp]) -> tuple[list[int], int]:
    """The channels with the most readings, in their own order, and how many others have any."""
    ranked = [c for c in np.argsort(-counts, kind="stable").tolist() if counts[c]]
    return sorted(ranked[:LINES]), len(ranked[LINES:])


def _label_text(record: Record, columns: tuple[str, ...]) -> str | None:
    """The value of a target as it stands in the record; of several columns each that is there, with its name."""
    found = {c: v for c in columns if (v := record.get(c)) is not None}
    texts = {c: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for c, v in found.items()}
    if len(columns) > 1:
        return ", ".join(f"{c} = {text}" for c, text in texts.items()) or None
    return next(iter(texts.values()), None)


VIEWS: dict[type[Modality], Callable[[FieldView, Modality, _Seen], FieldView]] = {
    ImageModality: _view_picture,
    AudioModality: _view_audio,
    RegularSeries: _view_regular,
    IrregularSeries: _view_irregular,
    NumbersModality: _view_table,
    CategoriesModality: _view_table,
}
"""How to view what a modality gives; all others by their words."""
