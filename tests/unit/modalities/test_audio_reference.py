"""Bands and resampling beside librosa, which compiles for half a minute where its cache is cold."""

import functools
import io
import math
import warnings
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy import fft

from interlace.modalities.mel import MelSettings, log_mel, make_filters
from tests.unit.modalities.test_audio_modality import modality, noise, save

pytestmark = pytest.mark.slow


@functools.cache
def librosa() -> Any:
    """The library, imported where a test runs: importing compiles."""
    with warnings.catch_warnings(action="ignore"):  # of its own dependencies
        import librosa
        from librosa import filters, util  # noqa: F401 - loaded when first named
    return librosa


def reference(samples: np.ndarray, mel: MelSettings) -> np.ndarray:
    """Window, mel bands and their norm by librosa, the transform by scipy (librosa's own compiles half a minute).

    librosa puts the window in the middle of the transform, so its samples begin that much earlier.
    """
    num_fft = make_filters(mel).num_fft
    whole = np.zeros((mel.num_frames(len(samples)) - 1) * mel.hop + num_fft, np.float32)
    whole[(num_fft - mel.window) // 2 :][: len(samples)] = samples
    filters, util = librosa().filters, librosa().util
    window = util.pad_center(filters.get_window("hann", mel.window, fftbins=True), size=num_fft)
    frames = np.lib.stride_tricks.sliding_window_view(whole, num_fft)[:: mel.hop]
    power = np.abs(fft.rfft(frames * window)) ** 2
    bank = filters.mel(sr=mel.rate_hz, n_fft=num_fft, n_mels=mel.num_mels)
    return np.log(np.maximum(power @ bank.T, 1e-10))


@pytest.mark.parametrize(
    ("rate", "window", "hop", "mels"),
    [(16_000, 400, 160, 64), (8000, 200, 80, 40), (22_050, 551, 220, 128), (44_100, 1024, 1500, 256), (1000, 7, 3, 8)],
)
def test_bands_are_those_of_librosa(rate, window, hop, mels):
    """Within 0.0001 in the natural logarithm (0.0004 dB)."""
    mel = MelSettings(rate_hz=rate, window=window, hop=hop, num_mels=mels)
    for count in (window // 2 + 1, window, 5 * window + 1, rate):
        ours = log_mel(noise(count), mel)
        assert np.abs(ours - reference(noise(count), mel)).max() < 1e-4
        assert ours.std() > 0.1


def test_bands_of_real_sounds_are_those_of_librosa(sounds):
    """Of all of what each set holds: decoding, averaging, and frames, but no resampling."""
    seen = 0
    for rows in sounds.values():
        for data, _, rate in rows[::150]:
            samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
            m = modality(rate_hz=rate, max_seconds=60)
            mel = MelSettings(rate_hz=rate, window=rate // 40, hop=rate // 100, num_mels=64)
            got = m.decode((data,))[:, 1:]
            assert np.abs(got - reference(samples, mel)).max() < 2e-3  # quiet parts lie near float32's own noise
            assert np.abs(got - reference(samples, mel)).mean() < 1e-5
            seen += 1
    assert seen > 20


@pytest.mark.parametrize(("rate", "to"), [(8000, 16_000), (44_100, 16_000), (48_000, 8000), (22_050, 16_000)])
def test_resampling_agrees_with_a_polyphase_filter(rate, to):
    """Tones of a chirp below 0.4 of the lower rate: bands within 0.02 (0.09 dB) where there is sound."""
    lower = min(rate, to)
    seconds = np.arange(2 * rate) / rate
    chirp = 0.5 * np.sin(2 * np.pi * (50 * seconds + (0.4 * lower - 50) / 4 * seconds**2)).astype(np.float32)
    chirp *= np.hanning(len(chirp)).astype(np.float32)
    m = modality(rate_hz=to)
    got = m.decode((save(chirp, rate),))[:, 1:]
    polyphase = librosa().resample(chirp, orig_sr=rate, target_sr=to, res_type="polyphase")
    want = log_mel(polyphase, MelSettings(rate_hz=to, window=to // 40, hop=to // 100, num_mels=64))
    loud = want > want.max() - math.log(1e4)
    assert np.abs(got - want[: len(got)])[loud].max() < 0.02
    assert loud.sum() > 500
