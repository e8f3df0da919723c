"""Samples -> log-mel frames, and random variants of them.

In: mono float32 samples. Out: `bands`, float32 `[frames, num_mels]`, the natural logarithm of the power in each band of
the mel scale (at least `LOG_FLOOR`), which `librosa.feature.melspectrogram(center=False)` gives for the same window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

POWER_FLOOR = 1e-10
"""Power below which a band counts as silent: a little under what rounding to 16 bits leaves in a band."""

LOG_FLOOR = float(np.log(np.float32(POWER_FLOOR)))

LINEAR_HZ = 200 / 3
"""Width of a mel below 1 kHz on Slaney's scale; above, 27 mels are a factor of 6.4 in frequency."""

BLOCK_SAMPLES = 2**15
"""Samples transformed at a time: the spectra stay in the cache of a core, and an hour takes no more memory."""


def hz_to_mel(hz: NDArray[Any]) -> NDArray[np.float64]:
    """Frequency on Slaney's mel scale (Auditory Toolbox, 1998): linear to 1 kHz, then logarithmic."""
    tones = np.log(np.maximum(hz, 1000.0) / 1000.0) * (27 / math.log(6.4))
    return np.asarray(np.minimum(hz, 1000.0) / LINEAR_HZ + tones, np.float64)


def mel_to_hz(mel: NDArray[Any]) -> NDArray[np.float64]:
    """The inverse of `hz_to_mel`."""
    knee = 1000.0 / LINEAR_HZ
    return np.asarray(np.minimum(mel, knee) * LINEAR_HZ * 6.4 ** (np.maximum(mel - knee, 0) / 27), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class MelSettings:
    """How samples become frames, all integers so that every caller counts alike.

    Args:
        rate_hz: samples a second.
        window: samples of a frame, at least 2.
        hop: samples from one frame to the next, at least 1.
        num_mels: bands.
    """

    rate_hz: int
    window: int
    hop: int
    num_mels: int

    def num_frames(self, num_samples: int) -> int:
        """Frames that cover the samples, the last one filled up with silence.

        Worked example: `window=400, hop=160` gives 1 frame for 1 to 400 samples, 2 for 401 to 560.
        """
        return 1 + max(0, -(-(num_samples - self.window) // self.hop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What turns windows of samples into bands.

    Args:
        taper: float32 `[window]`, periodic Hann window.
        num_fft: length of the transform: a power of two, the window filled up with zeros. It is doubled until no band
            falls between two of its frequencies, so that many bands of a short window are smooth instead of empty.
        bank: float32 `[num_fft // 2 + 1, num_mels]`, triangles on the mel scale, each of area 1 in hertz (Slaney).
        edges_hz: float64 `[num_mels + 2]`, where triangles begin, peak and end: i, i + 1, i + 2 for band i.
        freedom: float64 `[num_mels]`, as how many independent powers a band of white noise varies.
    """

    taper: Floats
    num_fft: int
    bank: Floats
    edges_hz: NDArray[np.float64]
    freedom: NDArray[np.float64]


@lru_cache(maxsize=16)
def make_filters(mel: MelSettings) -> Filters:
    """The filters of these settings, made once a process."""
    top = hz_to_mel(np.array(mel.rate_hz / 2))
    edges = mel_to_hz(np.linspace(0, top, mel.num_mels + 2))
    num_fft = 1 << (mel.window - 1).bit_length()
    while not (bank := _triangles(edges, mel.rate_hz, num_fft)).any(axis=0).all():
        num_fft *= 2
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.window) / mel.window)
    return Filters(
        taper=taper.astype(np.float32),
        num_fft=num_fft,
        bank=bank,
        edges_hz=edges,
        freedom=_freedom(bank, taper, num_fft),
    )


def _triangles(edges: NDArray[np.float64], rate_hz: int, num_fft: int) -> Floats:
    """The bank of filters at the frequencies of a transform."""
    hz = np.arange(num_fft // 2 + 1)[:, None] * (rate_hz / num_fft)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (hz - low) / (peak - low), (high - hz) / (high - peak)
    return np.asarray(np.maximum(np.minimum(rise, fall), 0) * (2 / (high - low)), np.float32)


def _freedom(bank: Floats, taper: NDArray[np.float64], num_fft: int) -> NDArray[np.float64]:
    """`Filters.freedom`: mean squared over variance of a weighted sum of powers that leak into each other.

    Powers of white noise at two frequencies correlate by the squared spectrum of the squared window at their distance.
    """
    leak = np.square(np.abs(np.fft.rfft(np.square(taper), num_fft)))
    leak /= leak[0]
    out = np.empty(bank.shape[1])
    for band, weights in enumerate(bank.T.astype(np.float64)):
        weights = np.trim_zeros(weights)
        pairs = np.correlate(weights, weights, "full")[len(weights) - 1 :]
        out[band] = weights.sum() ** 2 / (2 * pairs @ leak[: len(pairs)] - pairs[0])
    return out


def log_mel(samples: Floats, mel: MelSettings) -> Floats:
    """Log-mel frames of mono samples, float32 `[num_frames(len(samples)), num_mels]`."""
    filters = make_filters(mel)
    num_frames = mel.num_frames(len(samples))
    whole = np.zeros((num_frames - 1) * mel.hop + mel.window, np.float32)
    whole[: len(samples)] = samples[: len(whole)]
    step = whole.itemsize
    windows = np.lib.stride_tricks.as_strided(
        whole, (num_frames, mel.window), (mel.hop * step, step), writeable=False
    )  # each begins inside `whole` and ends there: (num_frames - 1) * hop + window is its length
    bands = np.empty((num_frames, mel.num_mels), np.float32)
    rows = min(num_frames, max(1, BLOCK_SAMPLES // filters.num_fft))
    padded = np.zeros((rows, filters.num_fft), np.float32)
    for first in range(0, num_frames, rows):
        block = windows[first : first + rows]
        np.multiply(block, filters.taper, out=padded[: len(block), : mel.window])
        spectrum = np.fft.rfft(padded[: len(block)])
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        np.matmul(power, filters.bank, out=bands[first : first + rows])
    np.maximum(bands, POWER_FLOOR, out=bands)
    return np.log(bands, out=bands)


def move_frames(bands: Floats, frames: int) -> Floats:
    """The sound later by this many frames (earlier if negative), silence where nothing is left."""
    moved = np.full_like(bands, LOG_FLOOR)
    if frames >= 0:
        moved[frames:] = bands[: len(bands) - frames]
    else:
        moved[:frames] = bands[-frames:]
    return moved


def change_speed(bands: Floats, factor: float, filters: Filters) -> Floats:
    """The sound as if played `factor` times as fast from its beginning: time shrinks, pitch rises.

    As many frames as before: a faster sound ends in silence, a slower one is cut. Between frames the logarithm is
    interpolated linearly.
    """
    num_frames = len(bands)
    when = np.arange(num_frames) * factor
    played = _between(change_pitch(bands, factor, filters), np.minimum(when, num_frames - 1))
    played[when > num_frames - 1] = LOG_FLOOR
    return played


def change_pitch(bands: Floats, factor: float, filters: Filters) -> Floats:
    """All frequencies times `factor`, at the same moments, as of a shorter or longer vocal tract.

    Jaitly & Hinton 2013 (VTLP), whose map bends near the top so that no frequency is lost; here those that come to lie
    above half the rate are, and those that the sound does not have are silent. Between bands the logarithm is
    interpolated linearly.
    """
    num_mels = bands.shape[1]
    centres_mel = hz_to_mel(filters.edges_hz[1:-1])
    source_hz = filters.edges_hz[1:-1] / factor
    place = np.interp(hz_to_mel(source_hz), centres_mel, np.arange(num_mels))
    warped = _between(bands.T, place).T
    warped[:, source_hz > filters.edges_hz[-1]] = LOG_FLOOR
    return warped


def change_tempo(bands: Floats, spread: float, knots: int, rng: np.random.Generator) -> Floats:
    """Parts of equal length played faster or slower than each other; begin and end stay where they are.

    Time warping of SpecAugment (Park et al. 2019), which moves one moment of the whole; a long sound needs more.

    Args:
        bands: `[frames, num_mels]`.
        spread: speeds of the parts are drawn from 1 +- this, then scaled so that they fill the same time together.
        knots: number of parts.
        rng: drawn from once for each part.
    """
    last = len(bands) - 1
    speeds = rng.uniform(1 - spread, 1 + spread, knots)
    when = np.interp(np.arange(last + 1), np.linspace(0, last, knots + 1), np.append(0, speeds.cumsum()))
    return _between(bands, when * (last / speeds.sum()))


def _between(rows: Floats, place: NDArray[np.float64]) -> Floats:
    """Rows at fractional places `[n]` in 0..len(rows) - 1, by linear interpolation."""
    low = place.astype(np.int64)
    high = np.minimum(low + 1, len(rows) - 1)
    share = (place - low).astype(np.float32)[:, None]
    return np.asarray(rows[low] + (rows[high] - rows[low]) * share)  # exact where both are alike: silence stays silent


def add_noise(bands: Floats, below_db: float, filters: Filters, rng: np.random.Generator) -> Floats:
    """White noise whose mean power is `below_db` under the sound's own.

    The power of noise in a band is drawn from the gamma distribution of the right mean and variance (Satterthwaite
    1946), frame by frame, and adds to the sound's: phases are unknown, and on average right.
    """
    widths = (filters.edges_hz[2:] - filters.edges_hz[:-2]) / 2  # a band times its width is the power of its triangle
    weights = filters.bank.sum(axis=0, dtype=np.float64)
    power = np.exp(bands)
    level = float((power @ widths).mean()) / float(weights @ widths) * 10 ** (-below_db / 10)
    draws = rng.standard_gamma(np.broadcast_to(filters.freedom, bands.shape))
    noise = draws * (level * weights / filters.freedom)
    return np.asarray(np.log(power + noise), np.float32)


def blank(bands: Floats, shares: tuple[float, float], drawn: Sequence[Sequence[float]]) -> None:
    """Blank blocks of frames with each band's mean, and blocks of bands with the mean of all, in place.

    SpecAugment (Park et al. 2019), whose masks are zeros of features without a mean.

    Args:
        bands: `[frames, num_mels]`.
        shares: largest share of the frames, of the bands, in one block.
        drawn: for each pair of blocks, width and place of that of frames, then of that of bands, each 0..1.
    """
    fills = bands.mean(axis=0), bands.mean()
    for block in drawn:
        for axis, (share, fill) in enumerate(zip(shares, fills, strict=True)):
            length = bands.shape[axis]
            width = int(block[2 * axis] * (int(share * length) + 1))
            start = int(block[2 * axis + 1] * (length - width + 1))
            np.moveaxis(bands, axis, 0)[start : start + width] = fill
