"""CPU-seconds for 1,000 values of every modality, beside the bare library calls that each step wraps.

Run `python -m tests.benchmarks.modalities` from the repository root after installing it; INTERLACE_TEST_DATA names the
folder of real data (default ../shared/data), and words after the name choose the rows whose values they begin
(`clips`). The bare calls do the least that gives the same pixels, ids or bands for these values: they look at no
metadata, check nothing, catch nothing and fill up no pictures.
"""

import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from interlace.data.index.records import RecordCodec
from interlace.data.read.reader import Slot, join
from interlace.modalities import make
from interlace.modalities.base import Modality
from interlace.modalities.mel import MelSettings, make_filters
from interlace.recipe.fields import AudioField, ImageField, SeriesField, TextField
from tests.fitting import fit

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("INTERLACE_TEST_DATA", ROOT.parent / "shared" / "data"))
ROUNDS = 9
BLOCK = 25
PACK = 64
"""Samples in a mixed pack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Values of one modality, and the bare calls that its steps wrap.

    Args:
        name: of the values.
        modality: as it evaluates.
        busy: as it augments; None where that is nothing.
        values: what the field's columns hold.
        measure, decode: bare calls on a value.
        encode: the bare call on what `decode` gave; None where there is nothing to do.
    """

    name: str
    modality: Modality
    busy: Modality | None
    values: Sequence[tuple[Any, ...]]
    measure: Callable[..., Any]
    decode: Callable[..., Any]
    encode: Callable[..., Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One measured step: ours, and the bare calls on the same values (None where there are none)."""

    case: str
    name: str
    ours: Callable[[Any], Any]
    bare: Callable[[Any], Any] | None
    values: Sequence[Any]


def read(file: str, column: str, most: int) -> list[Any]:
    """The first values of a column of the real data."""
    values: list[Any] = pq.read_table(DATA / file, columns=[column])[column].to_pylist()[:most]
    return values


def as_jpeg(data: bytes, times: int) -> bytes:
    """A stamp on white, enlarged, as JPEG."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image)
    file = io.BytesIO()
    canvas.resize((image.width * times, image.height * times)).save(file, "JPEG", quality=90)
    return file.getvalue()


def image_case(name: str, values: Sequence[bytes], max_size: int, patch: int) -> Case:
    """Pictures."""
    plain = make("f", ImageField(modality="image", column="c", max_size=max_size, patch=patch), {})
    jitter = {"rotate_degrees": 15.0, "rescale": 0.15, "flip": True, "color": 0.2}
    busy = make("f", ImageField(modality="image", column="c", max_size=max_size, patch=patch, **jitter), {})

    def bare_decode(data: bytes) -> NDArray[Any]:
        image: Image.Image = Image.open(io.BytesIO(data))
        share = min(1, max_size / max(image.size))
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        if share < 1:
            image.draft(None, (size[0] * 2, size[1] * 2))
        if image.has_transparency_data:
            cut_out, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
            image.paste(cut_out, mask=cut_out)
        else:
            image = image.convert("RGB")
        return np.asarray(image.resize(size, reducing_gap=2.0) if image.size != size else image)

    def bare_encode(pixels: NDArray[Any]) -> NDArray[Any]:
        rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
        cells = pixels.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(cells).reshape(rows * columns, -1)

    return Case(
        name=name,
        modality=plain,
        busy=busy,
        values=[(v,) for v in values],
        measure=lambda v: Image.open(io.BytesIO(v)).size,
        decode=bare_decode,
        encode=bare_encode,
    )


def text_case(name: str, values: Sequence[str], field: TextField) -> Case:
    """Texts."""
    state = fit(field, ((v,) for v in values))
    modality = make("f", field, state)
    if field.tokenizer == "bpe":
        tokenizer = Tokenizer.from_str(state["tokenizer"])
        count: Callable[[str], Any] = lambda v: len(tokenizer.encode(v))  # noqa: E731
        ids: Callable[[str], Any] = lambda v: np.array(tokenizer.encode(v).ids, np.int32)  # noqa: E731
    else:
        count = lambda v: len(v.encode())  # noqa: E731
        ids = lambda v: np.frombuffer(v.encode(), np.uint8).astype(np.int32)  # noqa: E731
    return Case(
        name=name,
        modality=modality,
        busy=None,
        values=[(v,) for v in values],
        measure=count,
        decode=ids,
        encode=None,
    )


def audio_case(name: str, values: Sequence[bytes], rate_hz: int) -> Case:
    """Sounds that `max_seconds` does not cut."""
    plain = make("f", AudioField(modality="audio", column="c", rate_hz=rate_hz), {})
    jitter = {"gain_db": 6.0, "shift_s": 0.1, "noise_db": 10.0, "speed": 0.1, "time_mask": 0.2, "band_mask": 0.2}
    busy = make("f", AudioField(modality="audio", column="c", rate_hz=rate_hz, **jitter), {})
    mel = MelSettings(rate_hz=rate_hz, window=rate_hz // 40, hop=rate_hz // 100, num_mels=64)
    filters = make_filters(mel)

    def bare_decode(data: bytes) -> NDArray[Any]:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
        if rate != rate_hz:
            samples = soxr.resample(samples, rate, rate_hz)
        samples = np.pad(samples, (0, mel.window))
        windows = np.lib.stride_tricks.sliding_window_view(samples, mel.window)[: -mel.window : mel.hop]
        spectrum = np.fft.rfft(windows * filters.taper, filters.num_fft)
        power = spectrum.real**2 + spectrum.imag**2
        bands: NDArray[Any] = np.log(np.maximum(power @ filters.bank, 1e-10))
        return bands

    def bare_encode(bands: NDArray[Any]) -> NDArray[Any]:
        whole = np.pad(bands - bands.mean(axis=0), ((0, -len(bands) % 4), (0, 0)))
        return whole.astype(np.float16).reshape(-1, 4 * 64)

    return Case(
        name=name,
        modality=plain,
        busy=busy,
        values=[(v,) for v in values],
        measure=lambda v: soundfile.info(io.BytesIO(v)).frames,
        decode=bare_decode,
        encode=bare_encode,
    )


def series_case(
    name: str,
    values: Sequence[tuple[Any, ...]],
    field: SeriesField,
    bare_decode: Callable[..., Any],
    bare_encode: Callable[..., Any],
) -> Case:
    """Series; counting what is present needs the readings, so the bare measure is the bare decode."""
    state = fit(field, values)
    busy = field.model_copy(update={"jitter": 0.1, "scale": 0.1, "shift": 0.5, "time_mask": 0.2})
    return Case(
        name=name,
        modality=make("f", field, state),
        busy=make("f", busy, state),
        values=values,
        measure=bare_decode,
        decode=bare_decode,
        encode=bare_encode,
    )


def watch_case() -> Case:
    """Six channels at 50 Hz, 947 to 2,618 readings each, in windows of half a second."""
    names = ("ax", "ay", "az", "wx", "wy", "wz")
    values = list(zip(*(read("watch_exercises/sensors.parquet", c, 140) for c in names), strict=True))
    field = SeriesField(modality="series", channels=names, rate_hz=50, window_s=0.5)
    state = fit(field, values)
    means, stds = np.array(state["means"]), np.array(state["stds"])

    def encode(readings: NDArray[Any]) -> NDArray[Any]:
        padded = np.full((-(-len(readings) // 25) * 25, 6), np.nan)
        padded[: len(readings)] = (readings - means) / stds
        windows = padded.reshape(-1, 150)
        return np.concatenate([np.nan_to_num(windows), ~np.isnan(windows)], axis=1).astype(np.float32)

    def decode(*value: Any) -> NDArray[Any]:
        return np.stack([np.array(v, np.float64) for v in value], axis=1)

    return series_case("watch, 6 channels", values, field, decode, encode)


def stay_case() -> Case:
    """Stays of 48 hours, 414 readings of 37 parameters on average, in windows of an hour."""
    columns = ("minute", "parameter", "value")
    values = list(zip(*(read("icu2012/set_a.parquet", c, 500) for c in columns), strict=True))
    field = SeriesField(
        modality="series", time="t", channel="c", value="v", time_unit_s=60, window_s=3600, max_seconds=48 * 3600
    )
    state = fit(field, values)
    ids = {name: i for i, name in enumerate(state["channels"])}
    means, stds = np.array(state["means"]), np.array(state["stds"])

    def decode(minutes: Any, names: Any, readings: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        return np.array(minutes, np.float64), np.array([ids[n] for n in names]), np.array(readings, np.float64)

    def encode(columns: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]) -> NDArray[Any]:
        minutes, channels, readings = columns
        hours, at = np.unique(np.minimum(minutes // 60, 47), return_inverse=True)
        cells, size = at * len(ids) + channels, len(hours) * len(ids)
        counts = np.bincount(cells, minlength=size).reshape(len(hours), -1)
        sums = np.bincount(cells, (readings - means[channels]) / stds[channels], minlength=size).reshape(counts.shape)
        return np.concatenate([sums / np.maximum(counts, 1), np.log1p(counts)], axis=1).astype(np.float32)

    return series_case("stays, 37 parameters", values, field, decode, encode)


def pen_case() -> Case:
    """Eight points of a pen, two channels."""
    names = ("x", "y")
    values = list(zip(*(read("pendigits/train.parquet", c, 500) for c in names), strict=True))
    field = SeriesField(modality="series", channels=names, window_s=2)
    state = fit(field, values)
    means, stds = np.array(state["means"]), np.array(state["stds"])

    def encode(readings: NDArray[Any]) -> NDArray[Any]:
        windows = ((readings - means) / stds).reshape(-1, 4)
        return np.concatenate([np.nan_to_num(windows), ~np.isnan(windows)], axis=1).astype(np.float32)

    def decode(*value: Any) -> NDArray[Any]:
        return np.stack([np.array(v, np.float64) for v in value], axis=1)

    return series_case("pen, 2 channels", values, field, decode, encode)


def steps_of(case: Case) -> list[Step]:
    """Measure, decode, encode and augment one value."""
    modality, encode = case.modality, case.encode
    decoded = [modality.decode(v) for v in case.values]
    plain = [case.decode(*v) for v in case.values]
    rng = np.random.default_rng(0)
    steps = [
        Step(
            case=case.name,
            name="measure",
            ours=modality.measure,
            bare=lambda v: case.measure(*v),
            values=case.values,
        ),
        Step(case=case.name, name="decode", ours=modality.decode, bare=lambda v: case.decode(*v), values=case.values),
        Step(
            case=case.name,
            name="encode",
            ours=lambda i: modality.encode(decoded[i]),
            bare=None if encode is None else lambda i: encode(plain[i]),
            values=range(len(decoded)),
        ),
    ]
    if (busy := case.busy) is not None:
        steps.append(
            Step(case=case.name, name="augment", ours=lambda d: busy.augment(d, rng), bare=None, values=decoded)
        )
    return steps


def pack_step(name: str, cases: Sequence[Case]) -> Step:
    """Whole packs of samples that have a value of each case: every step, and laying the tokens end to end."""
    codec = RecordCodec(fields={c.name: (c.modality, ()) for c in cases}, targets={})
    samples = list(zip(*(c.values for c in cases), strict=False))

    def ours(pack: Sequence[Sequence[tuple[Any, ...]]]) -> Any:
        slots = []
        for sample in pack:
            tokens = {}
            for case, value in zip(cases, sample, strict=True):
                case.modality.measure(value)
                tokens[case.name] = case.modality.encode(case.modality.decode(value))
            slots.append(Slot(tokens=tokens, targets={}))
        return join(0, 0, np.arange(len(pack)), slots, codec)

    def bare(pack: Sequence[Sequence[tuple[Any, ...]]]) -> Any:
        found: dict[str, list[Any]] = {c.name: [] for c in cases}
        for sample in pack:
            for case, value in zip(cases, sample, strict=True):
                case.measure(*value)
                decoded = case.decode(*value)
                found[case.name].append(decoded if case.encode is None else case.encode(decoded))
        return [np.concatenate(own) for own in found.values()]

    packs = [samples[i : i + PACK] for i in range(0, len(samples) - PACK + 1, PACK)]
    return Step(case=name, name=f"all, packs of {PACK} samples", ours=ours, bare=bare, values=packs)


def cpu_s(calls: Sequence[Callable[[Any], Any]], values: Sequence[Any]) -> list[float]:
    """CPU-seconds of each call for 1,000 values: the best round of each block of values, the calls taking turns."""
    blocks = [values[i : i + BLOCK] for i in range(0, len(values), BLOCK)]
    totals = [0.0] * len(calls)
    for block in blocks:
        best = [float("inf")] * len(calls)
        for _ in range(ROUNDS):
            for i, call in enumerate(calls):
                start = time.process_time()
                for value in block:
                    call(value)
                best[i] = min(best[i], time.process_time() - start)
        totals = [t + b for t, b in zip(totals, best, strict=True)]
    return [t / len(values) * 1000 for t in totals]


def main() -> None:
    """Measure all steps and print them, with the ratio of the sums over the steps that wrap bare calls."""
    stamps = read("tuxpaint_stamps/stamps.parquet", "image", 150)
    texts = read("multi30k_text/train.parquet", "en", 2000)
    digits = image_case("digits PNG 28 px, kept", read("mnist10k/train.parquet", "image", 500), 28, 7)
    emoji = image_case("emoji PNG 64 px -> 32", read("emoji/images_google.parquet", "image", 400), 32, 8)
    words = text_case("captions, byte pairs", texts, TextField(modality="text", column="c", tokenizer="bpe"))
    voices = audio_case("digits FLAC 8 kHz, kept", read("fsdd/speech.parquet", "audio", 200), 8000)
    pens, stays, watch = pen_case(), stay_case(), watch_case()
    cases = [
        digits,
        image_case("emoji PNG 64 px, kept", read("emoji/images_google.parquet", "image", 400), 64, 8),
        emoji,
        image_case("stamps PNG 128 px -> 64", stamps, 64, 8),
        image_case("stamps JPEG 640 px -> 64", [as_jpeg(s, 5) for s in stamps], 64, 8),
        words,
        text_case("captions, bytes", texts, TextField(modality="text", column="c")),
        voices,
        audio_case("prompts FLAC 8 -> 16 kHz", read("asterisk_prompts/speech_en.parquet", "audio", 100), 16_000),
        audio_case("clips Ogg 16 kHz, kept", read("esc10/folds_1_4.parquet", "audio", 50), 16_000),
        audio_case("clips Ogg 16 -> 8 kHz", read("esc10/folds_1_4.parquet", "audio", 50), 8000),
        watch,
        stays,
        pens,
    ]
    mixed = [
        pack_step("pack: digit, voice, pen", [digits, voices, pens]),
        pack_step("pack: emoji, caption, voice, stay", [emoji, words, voices, stays]),
    ]
    chosen = tuple(sys.argv[1:])
    steps = [step for case in cases if not chosen or case.name.startswith(chosen) for step in steps_of(case)]
    packs = [step for step in mixed if not chosen or step.case.startswith(chosen)]
    table = Table("values", "step", "ours, CPU-s/1,000", "bare, CPU-s/1,000", "ratio")
    sums: dict[str, list[float]] = {}
    for step in steps:
        if step.bare is None:
            table.add_row(step.case, step.name, f"{cpu_s([step.ours], step.values)[0]:.4f}", "", "")
            continue
        ours, bare = cpu_s([step.ours, step.bare], step.values)
        total = sums.setdefault(step.case, [0.0, 0.0])
        total[0], total[1] = total[0] + ours, total[1] + bare
        table.add_row(step.case, step.name, f"{ours:.4f}", f"{bare:.4f}", f"{ours / bare:.2f}")
    table.add_section()
    for case, (ours, bare) in sums.items():
        table.add_row(case, "sum", f"{ours:.4f}", f"{bare:.4f}", f"{ours / bare:.2f}")
    if sums:
        ours, bare = (sum(s[i] for s in sums.values()) for i in (0, 1))
        table.add_row("all", "sum", f"{ours:.4f}", f"{bare:.4f}", f"{ours / bare:.2f}", style="bold")
    table.add_section()
    for step in packs:
        assert step.bare is not None
        ours, bare = (s / PACK for s in cpu_s([step.ours, step.bare], step.values))
        table.add_row(step.case, step.name, f"{ours:.4f}", f"{bare:.4f}", f"{ours / bare:.2f}", style="bold")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
