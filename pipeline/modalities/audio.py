"""Encoded sounds -> patches of log-mel frames.

In: `(bytes,)`, a WAV, FLAC, Ogg or any other file that libsndfile reads, of any rate and number of channels. Out:
patches `[n, patch_frames * num_mels]` in time order, each laid out `[frame, band]`, and the time of each.

A sound longer than `max_seconds` is cut to its middle, and only that is decoded. Channels are averaged, the mean
resampled to `rate_hz`. Frames are not centred: the first begins with the first sample, and only the last one is filled
up with silence. Patches are float16, half the bytes of float32: natural logarithms of power reach from -23 to about 15,
where rounding is off by 0.008 (0.03 dB) at most; even a wide band of steady noise varies by fifty times that.
"""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from interlace.contract.errors import RecordError
from interlace.contract.sample import FieldSpec, Tokens
from interlace.modalities.base import Extent, Fitted, Modality
from interlace.modalities.columns import Columns, Measured, measure_each
from interlace.modalities.mel import (
    LOG_FLOOR,
    Floats,
    MelSettings,
    add_noise,
    blank,
    change_pitch,
    change_speed,
    change_tempo,
    log_mel,
    make_filters,
    move_frames,
)
from interlace.recipe.fields import AudioField

MAX_SAMPLES = 2**31 - 1
"""Sounds whose header claims more (13.5 hours at 44.1 kHz) are refused: the index counts in 32 bits."""

MAX_RATE_HZ = 1_000_000
MAX_CHANNELS = 64

MAX_ENERGY = 1e30
"""Sum of squares of the samples from which powers would overflow float32; full scale is 1 a sample."""

READ_SAMPLES = 2**20
"""Samples of all channels decoded at a time (4 MB), so that many channels cost no more memory than one."""

STREAM_BYTES = 0x7FFF_0000
"""Sizes from here on stand in a WAV that was written to a pipe, when nobody knew how long it would be."""

NOISE_SPAN_DB = 20.0
"""The noise of `noise_db` is drawn from that far below the sound to this much further below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of its sound: seconds, samples a second, channels; libsndfile's names of format and encoding."""

    seconds: float
    rate_hz: int
    channels: int
    format: str
    encoding: str


def read_header(value: tuple[Any, ...]) -> Header:
    """The header of an encoded sound; nothing is decoded. Raises RecordError."""
    with _libsndfile(), _open(value) as file:
        num_samples, rate = _extent(file)
        return Header(
            seconds=num_samples / rate,
            rate_hz=rate,
            channels=file.channels,
            format=file.format,
            encoding=file.subtype,
        )


@final
class AudioModality(Modality):
    """One column of encoded sounds. Extent: (samples of each channel, samples a second) as encoded.

    Decoded: float32 `[frames, 1 + num_mels]`. Column 0 is the time of the frame's middle in seconds from the beginning
    of the whole sound, so that the middle of a long one keeps its true time; the others are its bands, not normalised.
    """

    def __init__(self, name: str, field: AudioField, fitted: Fitted) -> None:
        self._field = field
        rate = field.rate_hz
        self._mel = MelSettings(
            rate_hz=rate,
            window=max(2, round(field.window_ms * rate / 1000)),
            hop=max(1, round(field.hop_ms * rate / 1000)),
            num_mels=field.num_mels,
        )
        self._longest_us = max(1, round(field.max_seconds * 1_000_000))
        self._most_samples = max(1, _rescale(self._longest_us, rate, 1_000_000))
        self._spec = FieldSpec(
            name=name,
            kind="patches",
            patch_dim=field.patch_frames * field.num_mels,
            patch_dtype="float16",
            max_grid=(self._patches(self._mel.num_frames(self._most_samples)), 1),
            clocked=True,
        )

    @property
    def spec(self) -> FieldSpec:
        """Clocked patches of float16."""
        return self._spec

    @property
    def bands_hz(self) -> NDArray[np.float64]:
        """Frequency at which each band peaks, float64 `[num_mels]`."""
        return make_filters(self._mel).edges_hz[1:-1]

    @property
    def rate_hz(self) -> int:
        """Samples a second after resampling."""
        return self._mel.rate_hz

    @property
    def max_seconds(self) -> float:
        """Longest part of a sound that is used."""
        return self._field.max_seconds

    def clip(self, value: tuple[Any, ...]) -> bytes:
        """The part that is used, mono at `rate_hz`, as a FLAC file of 16 bits. Raises RecordError."""
        out = io.BytesIO()
        with _libsndfile():
            soundfile.write(out, self._samples(value)[0], self._mel.rate_hz, format="FLAC", subtype="PCM_16")
        return out.getvalue()

    def measure(self, value: tuple[Any, ...]) -> Extent:
        """Samples and rate from the header; nothing is decoded. Raises RecordError."""
        with _libsndfile(), _open(value) as file:
            return _extent(file)

    def measure_column(self, columns: Columns) -> Measured:
        """Value by value: headers must be parsed."""
        return measure_each(self.measure, columns)

    def measured_by(self, fitted: Fitted) -> Fitted:
        """All of it."""
        return fitted

    def grid(self, extent: Extent) -> tuple[int, int]:
        """As many rows as patches, one column; integers only, so that every caller rounds alike."""
        return self._patches(self._mel.num_frames(self._resampled(extent))), 1

    def decode(self, value: tuple[Any, ...]) -> Floats:
        """Time and log-mel bands of each frame, float32 `[frames, 1 + num_mels]`. Raises RecordError."""
        samples, start_s = self._samples(value)
        bands = log_mel(samples, self._mel)
        frames = np.empty((len(bands), 1 + self._mel.num_mels), np.float32)
        middles = np.arange(len(bands)) * self._mel.hop + self._mel.window / 2
        frames[:, 0] = start_s + middles / self._mel.rate_hz
        frames[:, 1:] = bands
        return frames

    def augment(self, decoded: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Change speed, pitch and tempo, move in time, change loudness, add noise, then blank frames and bands.

        Times stay: the sound moves past them. Silence fills what comes into view. A sound is never moved by more than
        half its length. Loudness has little effect where `normalise` is `bands`: only on what it lifts from silence or
        lets sink into it. The blocks are those of SpecAugment (Park et al. 2019), `masks` of each kind, their widths
        drawn evenly from 0 to the share; frames are blanked with each band's mean over the sound, bands with the mean
        of all.
        """
        field = self._field
        speed, move, gain, *evenly = rng.uniform(-1.0, 1.0, 8)
        noise, *block = ((1 + u) / 2 for u in evenly)
        texture = int(rng.integers(2**63))
        more = np.random.default_rng((texture, 1))  # as many draws from `rng`, whatever is switched on
        pitch, blocks = more.uniform(-1.0, 1.0), [block, *more.uniform(size=(field.masks - 1, 4)).tolist()]
        shares = (field.time_mask, field.band_mask)
        warps = any((field.speed, field.pitch, field.tempo, field.shift_s))
        if field.noise_db is None and not any((warps, field.gain_db, *shares)):
            return decoded
        bands: Floats = decoded[:, 1:]
        if field.speed:
            bands = change_speed(bands, 1 + speed * field.speed, make_filters(self._mel))
        if field.pitch:
            bands = change_pitch(bands, 1 + pitch * field.pitch, make_filters(self._mel))
        if field.tempo:
            bands = change_tempo(bands, field.tempo, self._whole_seconds(len(bands)), more)
        if field.shift_s:
            most = min(field.shift_s * self._mel.rate_hz / self._mel.hop, len(bands) / 2)
            bands = move_frames(bands, int(move * most))
        if field.gain_db:
            change = np.float32(gain * field.gain_db * math.log(10) / 10)
            bands = np.maximum(np.where(bands > LOG_FLOOR, bands + change, bands), np.float32(LOG_FLOOR))
        if field.noise_db is not None:
            below_db = field.noise_db + noise * NOISE_SPAN_DB
            bands = add_noise(bands, below_db, make_filters(self._mel), np.random.default_rng(texture))
        out = np.concatenate([decoded[:, :1], bands], axis=1)
        blank(out[:, 1:], shares, blocks)
        return out

    def encode(self, decoded: NDArray[Any]) -> Tokens:
        """Patches of the bands, float16 `[n, patch_frames * num_mels]`, the last one filled up with zeros.

        Under `bands` the mean of each band over the value is removed first (cepstral mean normalisation: a microphone's
        colour and loudness go, and so does a sound of a single frame). Before that, `range_db` raises whatever is
        further below the loudest band of the sound: else silence, and silence that training moved into view, is so far
        from all speech that it decides the means. A token's time is the middle of its frames.
        """
        times, bands = decoded[:, 0], decoded[:, 1:]
        if self._field.range_db is not None:
            bands = np.maximum(bands, bands.max() - np.float32(self._field.range_db * math.log(10) / 10))
        if self._field.normalise == "bands":
            bands = bands - bands.mean(axis=0)
        size, count = self._field.patch_frames, self._patches(len(bands))
        patches = np.zeros((count * size, self._mel.num_mels), np.float16)
        patches[: len(bands)] = bands
        starts = np.arange(count) * size
        ends = np.minimum(starts + size, len(bands)) - 1
        return Tokens(
            values=patches.reshape(count, self._spec.patch_dim),
            grid=(count, 1),
            times=(times[starts] + times[ends]) / np.float32(2),
        )

    def token_texts(self, decoded: NDArray[Any]) -> tuple[str | None, ...]:
        """None at all: patches of a spectrum are no words."""
        return ()

    def _samples(self, value: tuple[Any, ...]) -> tuple[Floats, float]:
        """The part that is used, mono at `rate_hz`, and where in the sound it begins in seconds. Raises RecordError."""
        with _libsndfile(), np.errstate(all="ignore"):
            with _open(value) as file:
                extent = num_samples, rate = _extent(file)
                kept = self._kept(extent)
                first = (num_samples - kept) // 2
                samples = _read_mono(file, first, kept)
            energy = float(samples @ samples)
            if not energy < MAX_ENERGY:
                raise RecordError(f"expected finite samples about -1..1, but the sum of their squares is {energy:.3g}")
            if rate != self._mel.rate_hz:
                samples = soxr.resample(samples, rate, self._mel.rate_hz, quality="HQ")
            return _exactly(samples, self._resampled(extent)), first / rate

    def _whole_seconds(self, num_frames: int) -> int:
        """Parts of about a second that the frames make, at least two."""
        return max(2, round(num_frames * self._mel.hop / self._mel.rate_hz))

    def _patches(self, num_frames: int) -> int:
        return -(-num_frames // self._field.patch_frames)

    def _kept(self, extent: Extent) -> int:
        """Samples of the source that are used, its middle."""
        num_samples, rate = extent
        return min(num_samples, max(1, self._longest_us * rate // 1_000_000))

    def _resampled(self, extent: Extent) -> int:
        """Samples of the part that is used, at `rate_hz`; 1 at least."""
        resampled = _rescale(self._kept(extent), self._mel.rate_hz, extent[1])
        return min(self._most_samples, max(1, resampled))


def _rescale(count: int, to: int, of: int) -> int:
    """`count * to / of`, rounded half up, in integers."""
    return (2 * count * to + of) // (2 * of)


class _Bytes(io.BytesIO):
    """Bytes in which a jump to nowhere (damaged files) does nothing: nobody could catch what a callback of C raises."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """The new place, or the old one if there is no such place."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


@contextmanager
def _libsndfile() -> Iterator[None]:
    """Turn whatever soundfile and soxr raise into RecordError."""
    try:
        yield
    except RecordError:
        raise
    except Exception as error:  # the sample boundary: damaged bytes make decoders raise anything
        raise RecordError(f"expected a whole sound, but {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What a library says, in one line, without the address of the buffer that soundfile puts in front."""
    said = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return f"{type(error).__name__}: {said.splitlines()[0] if said else 'no reason given'}"


def _open(value: tuple[Any, ...]) -> soundfile.SoundFile:
    """The file behind the bytes, its header read."""
    data = value[0]
    if not isinstance(data, bytes):
        raise RecordError(f"expected an encoded sound as bytes, but is {type(data).__name__}")
    if not data:
        raise RecordError("expected an encoded sound, but is 0 bytes")
    _check_wav_size(data)
    try:
        return soundfile.SoundFile(_Bytes(data))
    except soundfile.LibsndfileError as error:
        what = f"{len(data)} bytes beginning {data[:8]!r}"
        raise RecordError(f"expected a sound that libsndfile can open, but is {what}: {_reason(error)}") from error


def _check_wav_size(data: bytes) -> None:
    """Refuse a WAV whose header promises more than there is; libsndfile would take what is left for the whole."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if kind == b"data":
            if len(data) < at + size < STREAM_BYTES:
                raise RecordError(
                    f"expected {size:,} bytes of samples as the header says, but {len(data) - at:,} follow"
                )
            return
        at += size + size % 2


def _extent(file: soundfile.SoundFile) -> Extent:
    """Samples and rate that the header claims, if they are possible."""
    num_samples, rate, channels = file.frames, file.samplerate, file.channels
    if not 1 <= rate <= MAX_RATE_HZ:
        raise RecordError(f"expected 1 to {MAX_RATE_HZ:,} samples a second, but the header claims {rate:,}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise RecordError(f"expected 1 to {MAX_CHANNELS} channels, but the header claims {channels:,}")
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise RecordError(f"expected 1 to {MAX_SAMPLES:,} samples, but the header claims {num_samples:,}")
    return num_samples, rate


def _read_mono(file: soundfile.SoundFile, first: int, count: int) -> Floats:
    """Mean of the channels of `count` samples from `first` on, float32 `[count]`."""
    if first:
        file.seek(first)
    mono = np.empty(count, np.float32)
    block = max(1, READ_SAMPLES // file.channels)
    done = 0
    while done < count:
        some = file.read(min(block, count - done), dtype="float32")
        if not len(some):
            raise RecordError(f"expected {count:,} samples as the header says, but only {done:,} can be decoded")
        mono[done : done + len(some)] = some if some.ndim == 1 else some.mean(axis=1)
        done += len(some)
    return mono


def _exactly(samples: Floats, count: int) -> Floats:
    """The samples cut or filled up with silence; the resampler rounds in its own way."""
    if len(samples) >= count:
        return samples[:count]
    return np.concatenate([samples, np.zeros(count - len(samples), np.float32)])
