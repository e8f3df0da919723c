"""Laws of sounds: counts, times, cuts. Augmentation, refusals and the comparison with librosa have their own files."""

import io
import math

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.modalities.audio import AudioModality
from interlace.modalities.laws import check_value
from interlace.modalities.mel import LOG_FLOOR, MelSettings, hz_to_mel, make_filters, mel_to_hz
from interlace.recipe.fields import AudioField

FORMATS = (("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"))


def modality(**settings) -> AudioModality:
    return AudioModality("sound", AudioField(modality="audio", column="audio", **settings), {})


def save(samples: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def noise(count: int, *channels: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((count, *channels))).clip(-1, 1).astype(np.float32)


def check_laws(m: AudioModality, value: tuple[bytes]) -> int:
    check_value(m, value)
    extent = m.measure(value)
    decoded = m.decode(value)
    tokens = m.encode(decoded)
    count = m.num_tokens(extent)
    assert tokens.grid == m.grid(extent) == (count, 1)
    assert tokens.values.shape == (count, m.spec.patch_dim)
    assert tokens.values.dtype == np.float16 == np.dtype(m.spec.patch_dtype)
    assert np.isfinite(tokens.values).all()
    assert tokens.times.shape == (count,)
    assert tokens.times.dtype == decoded.dtype == np.float32
    assert (np.diff(tokens.times) > 0).all()
    assert 1 <= count <= m.spec.max_grid[0]
    assert m.spec.max_grid[1] == 1
    assert m.spec.clocked
    assert m.token_texts(decoded) == ()
    assert m.decode(value).tobytes() == decoded.tobytes()
    augmented = m.augment(decoded, np.random.default_rng(1))
    assert augmented.shape == decoded.shape
    assert augmented.dtype == np.float32
    assert np.isfinite(augmented).all()
    assert m.augment(decoded, np.random.default_rng(1)).tobytes() == augmented.tobytes()
    assert len(m.encode(augmented).values) == count
    return count


@st.composite
def files(draw) -> tuple[bytes]:
    format, subtype = draw(st.sampled_from(FORMATS))
    rates = st.sampled_from((8000, 11_025, 16_000, 22_050, 44_100, 48_000))
    if format != "OGG":
        rates |= st.integers(1, 192_000) if format == "WAV" else st.integers(1000, 65_535)
    channels = draw(st.integers(1, 2 if format == "OGG" else 8))
    samples = noise(draw(st.integers(1, 3000) | st.integers(3000, 20_000)), channels, seed=draw(st.integers(0, 9)))
    return (save(samples, draw(rates), format, subtype),)


@st.composite
def chosen(draw) -> dict[str, object]:
    return {
        "rate_hz": draw(st.sampled_from((1000, 8000, 16_000, 22_050)) | st.integers(1000, 50_000)),
        "max_seconds": draw(st.sampled_from((0.001, 0.1, 1.0, 10.0))),
        "num_mels": draw(st.integers(8, 80)),
        "window_ms": draw(st.sampled_from((0.01, 5.0, 25.0, 64.3))),
        "hop_ms": draw(st.sampled_from((1.7, 10.0, 33.3, 100.0))),
        "patch_frames": draw(st.integers(1, 12)),
        "normalise": draw(st.sampled_from(("none", "bands"))),
        "range_db": draw(st.sampled_from((None, 1.0, 60.0))),
    }


BUSY = {"gain_db": 6, "shift_s": 0.2, "noise_db": 10, "speed": 0.3, "time_mask": 0.3, "band_mask": 0.3}
BUSY |= {"pitch": 0.2, "tempo": 0.3, "masks": 3}


def test_tokens_are_as_many_as_measured():
    counts, cut = set(), 0

    @settings(max_examples=200, deadline=None)
    @given(files(), chosen(), st.booleans())
    def check(value, fields, busy) -> None:
        nonlocal cut
        m = modality(**fields, **(BUSY if busy else {}))
        counts.add(check_laws(m, value))
        num_samples, rate = m.measure(value)
        cut += num_samples / rate > fields["max_seconds"]

    check()
    assert len(counts) > 4
    assert cut > 5


def test_tokens_are_as_many_as_measured_on_real_sounds(sounds):
    m = modality(**BUSY)
    keep = modality(rate_hz=8000, max_seconds=1.5, num_mels=40, patch_frames=3, normalise="none")
    counts = [check_laws(each, (data,)) for rows in sounds.values() for data, *_ in rows[::60] for each in (m, keep)]
    assert len(counts) > 120
    assert len(set(counts)) > 20


def test_measuring_finds_the_counts_that_the_sets_state(sounds):
    m = modality()
    for rows in sounds.values():
        assert [m.measure((data,)) for data, *_ in rows] == [(count, rate) for _, count, rate in rows]
    assert sum(map(len, sounds.values())) > 3000


def test_counts_by_hand():
    """400 samples a frame, 160 from one to the next, 4 frames a token."""
    m = modality()
    hands = {1: 1, 400: 1, 401: 1, 880: 1, 881: 2, 16_000: 25, 160_000: 250, 10**9: 250}
    assert {n: m.num_tokens((n, 16_000)) for n in hands} == hands
    assert m.spec.max_grid == (250, 1)
    assert m.num_tokens((44_100, 44_100)) == m.num_tokens((8000, 8000)) == 25
    assert m.num_tokens((1, 1_000_000)) == 1
    assert modality(max_seconds=0.0001, rate_hz=1000).num_tokens((5, 1)) == 1


def test_measuring_reads_the_header_only():
    for format, subtype in FORMATS[:4]:
        good = save(noise(50_000), 16_000, format, subtype)
        payload = len(good) // 2
        garbage = good[:payload] + bytes(reversed(good[payload:]))
        assert modality().measure((garbage,)) == (50_000, 16_000)


def test_channels_are_averaged():
    left, right = noise(5000, seed=1), noise(5000, seed=2)
    both = modality().decode((save(np.stack([left, right], axis=1)),))
    assert np.array_equal(both, modality().decode((save((left + right) / 2),)))


def test_bands_lie_where_their_tones_are():
    m = modality(num_mels=40)
    seconds = np.arange(16_000) / 16_000
    mels = hz_to_mel(np.array([0, 8000.0]))
    for hz in (200, 1000, 3000, 7000):
        loudest = m.decode((save(0.5 * np.sin(2 * np.pi * hz * seconds)),))[:, 1:].mean(axis=0).argmax()
        assert loudest == pytest.approx(hz_to_mel(np.array(hz)) / mels[1] * 41 - 1, abs=0.6)


@given(st.floats(0, 1e5))
def test_the_mel_scale_is_invertible(hz):
    assert mel_to_hz(hz_to_mel(np.array(hz))) == pytest.approx(hz, rel=1e-9, abs=1e-9)


def test_no_band_is_empty_however_short_the_window():
    for window, mels in ((2, 8), (5, 256), (80, 128), (400, 256)):
        filters = make_filters(MelSettings(rate_hz=16_000, window=window, hop=160, num_mels=mels))
        assert (filters.bank.sum(axis=0) > 0).all()


def test_normalising_removes_the_mean_of_each_band_before_filling_up():
    value = (save(noise(5000)),)
    raw, level = modality(normalise="none", patch_frames=8), modality(normalise="bands", patch_frames=8)
    decoded = raw.decode(value)
    assert np.array_equal(decoded, level.decode(value))
    bands = decoded[:, 1:]
    assert len(bands) % 8 != 0
    for m, want in ((raw, bands), (level, bands - bands.mean(axis=0))):
        cells = m.encode(decoded).values.reshape(-1, 64)
        assert np.abs(cells[: len(bands)] - want).max() < 0.008
        assert (cells[len(bands) :] == 0).all()


@pytest.mark.parametrize("gain", [1.0, 1e-4])
def test_half_precision_is_enough(gain):
    """Its rounding is a fiftieth of the spread of the steadiest band of noise, at any loudness."""
    m = modality(normalise="none", patch_frames=1)
    decoded = m.decode((save(gain * noise(50_000)),))
    error = m.encode(decoded).values - decoded[:, 1:]
    assert np.abs(error).max() < 0.008
    assert np.abs(error).mean() < decoded[:, 1:].std(axis=0).min() / 50


def test_silence_lies_at_the_floor():
    assert (modality().decode((save(np.zeros(5000)),))[:, 1:] == np.float32(LOG_FLOOR)).all()


def test_tokens_carry_the_middle_of_their_frames():
    """Frames of 25 ms every 10 ms: middles at 12.5, 22.5, ... ms; the last token has one frame."""
    m = modality(patch_frames=4)
    tokens = m.encode(m.decode((save(noise(400 + 8 * 160)),)))
    assert tokens.times == pytest.approx([0.0275, 0.0675, 0.0925], abs=1e-6)
    assert m.encode(m.decode((save(noise(44_100), 44_100),))).times[:2] == pytest.approx([0.0275, 0.0675], abs=1e-6)


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_the_middle_of_a_long_sound_is_kept_with_its_times(rate, format, subtype):
    m = modality(max_seconds=0.7)
    data = save(noise(5 * rate + 1, 2), rate, format, subtype)
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    kept = 7 * rate // 10
    first = (len(whole) - kept) // 2
    got = m.decode((data,))
    want = m.decode((save(whole[first : first + kept], rate),))
    assert np.array_equal(got[:, 1:], want[:, 1:])
    assert got[:, 0] - first / rate == pytest.approx(want[:, 0], abs=1e-6)
    if rate == 16_000:  # without resampling, a hop's multiple later, the frames of the whole are the same ones
        all_frames = modality().decode((save(whole[first % 160 :], rate),))
        assert np.abs(all_frames[first // 160 :, 1:][: len(got) - 1] - got[:-1, 1:]).max() < 1e-4


def test_settings_in_time_have_their_effect():
    decoded = modality(window_ms=50, hop_ms=20, num_mels=32).decode((save(noise(16_000)),))
    assert decoded.shape == (1 + math.ceil((16_000 - 800) / 320), 33)
    assert decoded[:2, 0] == pytest.approx([0.025, 0.045])
    m = modality(patch_frames=10, max_seconds=2)
    assert m.spec.patch_dim == 640
    assert m.num_tokens((10**6, 16_000)) == m.spec.max_grid[0] == 20


def test_range_raises_only_what_is_further_below_the_loudest():
    value = (save(np.concatenate([noise(4000), 0.001 * noise(4000)])),)
    plain, bounded = (modality(normalise="none", range_db=r, patch_frames=1) for r in (None, 30.0))
    before = plain.encode(plain.decode(value)).values.astype(float)
    after = bounded.encode(bounded.decode(value)).values.astype(float)
    floor = before.max() - 30 * math.log(10) / 10
    assert np.allclose(after, np.maximum(before, floor), atol=0.01)
    assert 0.3 < (before < floor).mean() < 0.7
