"""Augmentation of sounds: each kind does what its setting says, drawn from the seed alone."""

import io
import math

import numpy as np
import pytest
import soundfile

from interlace.modalities.audio import NOISE_SPAN_DB, AudioModality
from interlace.modalities.mel import (
    LOG_FLOOR,
    MelSettings,
    add_noise,
    change_pitch,
    change_speed,
    change_tempo,
    log_mel,
    make_filters,
    move_frames,
)
from interlace.recipe.fields import AudioField

RATE = 16_000
MEL = MelSettings(rate_hz=RATE, window=400, hop=160, num_mels=64)
ALL = {"gain_db": 6, "shift_s": 0.2, "noise_db": 10, "speed": 0.2, "time_mask": 0.3, "band_mask": 0.3}
ALL |= {"pitch": 0.2, "tempo": 0.2, "masks": 3}
FLOOR = np.float32(LOG_FLOOR)


def modality(**settings) -> AudioModality:
    return AudioModality("sound", AudioField(modality="audio", column="audio", **settings), {})


def save(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def tones(hz: float, seconds: float = 2.0) -> np.ndarray:
    """A tone of changing loudness over a little noise."""
    at = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(3).standard_normal(len(at))
    return (0.3 * (1.2 + np.sin(2 * np.pi * 3 * at)) * np.sin(2 * np.pi * hz * at) + 0.01 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def decoded() -> np.ndarray:
    return modality().decode((save(tones(1000)),))


def variants(m: AudioModality, decoded: np.ndarray, count: int = 40) -> list[np.ndarray]:
    """Bands of many draws; times must stay."""
    out = [m.augment(decoded, np.random.default_rng(seed)) for seed in range(count)]
    assert all(np.array_equal(v[:, 0], decoded[:, 0]) for v in out)
    assert all(v.shape == decoded.shape and v.dtype == np.float32 for v in out)
    assert all(v[:, 1:].min() >= FLOOR for v in out)
    return [v[:, 1:] for v in out]


def test_without_settings_the_same_array_comes_back(decoded):
    assert modality().augment(decoded, np.random.default_rng(0)) is decoded


def test_variants_depend_on_the_seed_only(decoded):
    before = decoded.copy()
    m = modality(**ALL)
    assert len({v.tobytes() for v in variants(m, decoded, 20)}) == 20
    assert all(np.array_equal(a, b) for a, b in zip(variants(m, decoded), variants(m, decoded), strict=True))
    assert np.array_equal(decoded, before)


@pytest.mark.parametrize("settings", [{}, {"gain_db": 3}, {"noise_db": 5}, {"time_mask": 0.5}, {"tempo": 0.2}, ALL])
def test_as_many_draws_whatever_is_switched_on(decoded, settings):
    """So that fields augmented afterwards do not change with this one's settings or length."""
    drawn = []
    for sound in (decoded, decoded[:3]):
        rng = np.random.default_rng(5)
        modality(**settings).augment(sound, rng)
        drawn.append(rng.random())
    rng = np.random.default_rng(5)
    rng.random(8)
    rng.integers(2**63)
    assert drawn == [rng.random()] * 2


def test_switching_one_kind_off_leaves_the_draws_of_the_others(decoded):
    masks = {"time_mask": 0.3, "band_mask": 0.3}
    for plain, louder in zip(
        variants(modality(**masks), decoded), variants(modality(**masks, gain_db=6), decoded), strict=True
    ):
        assert np.ptp(louder - plain) < 1e-4  # the same blocks are blanked, else something would stick out
    silent = modality(shift_s=0.1)
    loud = modality(shift_s=0.1, gain_db=6)
    for a, b in zip(variants(silent, decoded, 10), variants(loud, decoded, 10), strict=True):
        assert np.array_equal(a == FLOOR, b == FLOOR)  # moved by as much


def test_gain_adds_a_constant(decoded):
    changes = [v - decoded[:, 1:] for v in variants(modality(gain_db=12), decoded)]
    assert all(c.max() - c.min() < 1e-5 for c in changes)
    in_db = np.array([c.mean() for c in changes]) * 10 / math.log(10)
    assert np.abs(in_db).max() <= 12
    assert in_db.max() > 8
    assert in_db.min() < -8


def test_gain_is_that_of_the_samples(decoded):
    change = variants(modality(gain_db=12), decoded, 1)[0] - decoded[:, 1:]
    louder = modality().decode((save(tones(1000) * math.exp(change.mean() / 2)),))
    assert np.abs(louder[:, 1:] - decoded[:, 1:] - change).max() < 1e-3


def test_gain_leaves_silence_silent(decoded):
    silence = np.full_like(decoded, LOG_FLOOR)
    silence[:, 0] = decoded[:, 0]
    assert all((v == FLOOR).all() for v in variants(modality(gain_db=20), silence))


def test_shift_moves_by_frames_and_fills_with_silence(decoded):
    bands = decoded[:, 1:]
    moves = []
    for v in variants(modality(shift_s=0.3), decoded):
        silent = (v == FLOOR).all(axis=1)
        count = int(silent.sum())
        later = count and silent[0]
        assert np.array_equal(v, move_frames(bands, count if later else -count))
        assert np.array_equal(
            v[count:] if later else v[: len(v) - count], bands[: len(v) - count] if later else bands[count:]
        )
        moves.append(count if later else -count)
    assert max(map(abs, moves)) <= 30
    assert max(moves) > 20
    assert min(moves) < -20


def test_a_short_sound_is_not_moved_out_of_sight(decoded):
    kept = [(v > FLOOR).any(axis=1).mean() for v in variants(modality(shift_s=100), decoded[:20])]
    assert min(kept) >= 0.5
    assert min(kept) < 0.7
    only = decoded[:1]
    assert all(np.array_equal(v, only[:, 1:]) for v in variants(modality(shift_s=100), only))


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.2, 1.5])
def test_speed_is_that_of_samples_played_faster(factor):
    """Where the tone stands out, frames lie within 1 (4 dB) of the same sound made `factor` times as fast."""
    at = np.arange(2 * RATE) / RATE

    def sound(speed: float) -> np.ndarray:
        swell = 1.2 + np.sin(2 * np.pi * 2 * at * speed)
        return (0.3 * swell * np.sin(2 * np.pi * 900 * speed * at)).astype(np.float32) * (at * speed <= 2)

    got = change_speed(log_mel(sound(1), MEL), factor, make_filters(MEL))
    want = log_mel(sound(factor), MEL)
    end = int(min(1, 1 / factor) * len(got)) - 4
    assert abs(int(got[:end].mean(axis=0).argmax()) - int(want[:end].mean(axis=0).argmax())) <= 1
    assert np.corrcoef(got[:end].max(axis=1), want[:end].max(axis=1))[0, 1] > 0.95
    assert np.abs(got[:end].max(axis=1) - want[:end].max(axis=1)).max() < 1
    assert (got[int(len(got) / factor) + 2 :] == FLOOR).all()


def test_speed_one_changes_nothing(decoded):
    assert np.abs(change_speed(decoded[:, 1:], 1.0, make_filters(MEL)) - decoded[:, 1:]).max() < 1e-4


def test_a_slower_sound_has_no_frequencies_that_were_not_there(decoded):
    slow = change_speed(decoded[:, 1:], 0.5, make_filters(MEL))
    above = make_filters(MEL).edges_hz[1:-1] > RATE / 4
    assert above.any()
    assert (slow[:, above] == FLOOR).all()
    assert (slow[:, ~above] > FLOOR).all()


def test_speed_is_drawn_around_one(decoded):
    peaks = [int(v[:30].mean(axis=0).argmax()) for v in variants(modality(speed=0.3), decoded)]
    still = int(decoded[:, 1:].mean(axis=0).argmax())
    assert min(peaks) < still - 3
    assert max(peaks) > still + 3


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_pitch_is_that_of_higher_tones_at_the_same_moments(factor):
    """Where the tone stands out, frames lie within 1 (4 dB) of the same sound with a tone `factor` times as high."""
    got = change_pitch(log_mel(tones(900), MEL), factor, make_filters(MEL))
    want = log_mel(tones(900 * factor), MEL)
    assert abs(int(got.mean(axis=0).argmax()) - int(want.mean(axis=0).argmax())) <= 1
    assert np.abs(got.max(axis=1) - want.max(axis=1)).max() < 1
    assert np.corrcoef(got.max(axis=1), want.max(axis=1))[0, 1] > 0.95


def test_pitch_is_drawn_around_one_and_moves_nothing_in_time(decoded):
    got = variants(modality(pitch=0.3), decoded)
    peaks = [int(v.mean(axis=0).argmax()) for v in got]
    still = int(decoded[:, 1:].mean(axis=0).argmax())
    assert min(peaks) < still - 3
    assert max(peaks) > still + 3
    loudness = decoded[:, 1:].max(axis=1)
    assert min(np.corrcoef(v.max(axis=1), loudness)[0, 1] for v in got) > 0.95


def clock(num_frames: int) -> np.ndarray:
    """Bands that tell the number of their frame."""
    return np.repeat(np.arange(num_frames, dtype=np.float32)[:, None], 3, axis=1)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 200, 3000])
def test_tempo_loses_nothing_at_either_end_and_never_turns_back(num_frames):
    knots = max(2, num_frames // 100)
    for seed in range(20):
        when = change_tempo(clock(num_frames), 0.4, knots, np.random.default_rng(seed))[:, 0]
        assert when[0] == 0
        assert when[-1] == pytest.approx(num_frames - 1, abs=1e-3)
        speeds = np.diff(when)
        assert speeds.min(initial=1) > 0.6 / 1.4 - 1e-3
        assert speeds.max(initial=1) < 1.4 / 0.6 + 1e-3


def test_tempo_differs_from_second_to_second():
    moves = []
    for seed in range(50):
        when = change_tempo(clock(1001), 0.2, 10, np.random.default_rng(seed))[:, 0]
        speeds = np.diff(when).reshape(10, 100)
        assert np.ptp(speeds[:, 2:-2], axis=1).max() < 1e-2  # one speed within a part
        moves.append(np.abs(when - np.arange(1001)).max())
        assert speeds.mean(axis=1).std() > 0.03
    assert max(moves) > 40
    assert max(moves) < 500 * 0.2 * 1.25


def test_tempo_keeps_the_bands_of_a_steady_sound(decoded):
    steady = np.repeat(decoded[:1], 100, axis=0)
    got = modality(tempo=0.3).augment(steady, np.random.default_rng(1))
    assert np.abs(got[:, 1:] - steady[:, 1:]).max() < 1e-5
    assert min(np.abs(v - decoded[:, 1:]).max() for v in variants(modality(tempo=0.3), decoded)) > 0.5


@pytest.mark.parametrize("below_db", [0, 10, 25])
def test_noise_is_that_of_white_noise_in_the_samples(below_db):
    """Mean and spread of each band, against noise added to the samples, within 5% of power and 10% of spread."""
    sound = tones(1000, 8.0)
    power = np.square(sound).mean() * 10 ** (-below_db / 10)
    hiss = np.random.default_rng(1).standard_normal(len(sound)) * math.sqrt(power)
    want = log_mel(hiss.astype(np.float32), MEL)
    bands = log_mel(sound, MEL)
    noisy = add_noise(bands, below_db, make_filters(MEL), np.random.default_rng(2))
    added = np.exp(noisy.astype(np.float64)) - np.exp(bands)
    quiet = np.exp(bands).mean(axis=0) < np.exp(want).mean(axis=0)  # elsewhere the difference is rounding
    ratio = added.mean(axis=0)[quiet] / np.exp(want).mean(axis=0)[quiet]
    spread = added.std(axis=0)[quiet] / np.exp(want).std(axis=0)[quiet]
    assert quiet.sum() > 20
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert spread.mean() == pytest.approx(1, abs=0.1)


def test_noise_is_drawn_from_its_level_downwards(decoded):
    filters = make_filters(MEL)
    widths = (filters.edges_hz[2:] - filters.edges_hz[:-2]) / 2
    sound = np.exp(decoded[:, 1:].astype(np.float64))
    levels = []
    for v in variants(modality(noise_db=-5), decoded):
        added = np.exp(v.astype(np.float64)) - sound
        levels.append(-10 * math.log10((added @ widths).mean() / (sound @ widths).mean()))
    assert min(levels) > -5.5
    assert max(levels) < -5 + NOISE_SPAN_DB + 0.5
    assert min(levels) < -2
    assert max(levels) > 12


def test_noise_in_silence_is_silence(decoded):
    silence = np.full_like(decoded, LOG_FLOOR)
    silence[:, 0] = decoded[:, 0]
    assert max(v.max() for v in variants(modality(noise_db=20), silence)) < LOG_FLOOR + 1


@pytest.mark.parametrize(("name", "axis"), [("time_mask", 0), ("band_mask", 1)])
def test_masks_blank_one_block_up_to_their_share(decoded, name, axis):
    bands = decoded[:, 1:]
    widths, starts = [], []
    for v in variants(modality(**{name: 0.3}), decoded, 100):
        hit = (v != bands).any(axis=1 - axis)
        places = np.flatnonzero(hit)
        widths.append(len(places))
        if len(places):
            starts.append(places[0])
            assert np.array_equal(places, np.arange(places[0], places[-1] + 1))
            fill = bands.mean(axis=0) if axis == 0 else np.full(len(bands), bands.mean())[:, None]
            assert np.abs(np.compress(hit, v - fill, axis=axis)).max() < 1e-5
    length = bands.shape[axis]
    assert max(widths) <= 0.3 * length
    assert max(widths) > 0.25 * length
    assert np.mean(widths) == pytest.approx(0.15 * length, rel=0.2)
    assert min(starts) < 0.1 * length
    assert max(starts) > 0.7 * length


@pytest.mark.parametrize(("name", "axis"), [("time_mask", 0), ("band_mask", 1)])
def test_masks_are_as_many_blocks_as_the_setting_says(decoded, name, axis):
    bands, found = decoded[:, 1:], []
    for v in variants(modality(**{name: 0.05}, masks=4), decoded, 100):
        hit = np.concatenate([[False], (v != bands).any(axis=1 - axis)])
        found.append(int((hit[1:] & ~hit[:-1]).sum()))  # begins of blocks; some touch, some are empty
        assert hit.sum() <= 4 * 0.05 * bands.shape[axis]
    assert max(found) == 4
    assert np.mean(found) > 2
    first = variants(modality(**{name: 0.05}), decoded)
    for one, more in zip(first, variants(modality(**{name: 0.05}, masks=4), decoded), strict=True):
        assert not ((one != bands) & (more == bands)).any()  # the first block is the one that is alone without `masks`


def test_more_masks_without_a_size_are_refused():
    with pytest.raises(ValueError, match="masks"):
        modality(masks=2)


def test_blanked_frames_and_bands_are_zeros_after_normalising(decoded):
    """Frames get the mean of their band; only the little that masking bands first would change is left."""
    for settings in ({"time_mask": 0.5}, {"band_mask": 0.5}):
        m = modality(**settings)
        for seed in range(10):
            variant = m.augment(decoded, np.random.default_rng(seed))
            hit = variant[:, 1:] != decoded[:, 1:]
            cells = m.encode(variant).values.reshape(-1, 64)[: len(decoded)]
            assert np.abs(cells[hit]).max(initial=0) < (1e-3 if "band_mask" in settings else 1.5)


def test_silence_that_comes_into_view_is_no_further_from_the_sound_than_its_range(decoded):
    plain, bounded = modality(speed=0.5), modality(speed=0.5, range_db=40)
    drawn = [plain.augment(decoded, np.random.default_rng(seed)) for seed in range(20)]
    spread = [np.ptp(m.encode(v).values.astype(float), axis=0).max() for m in (plain, bounded) for v in drawn]
    assert max(spread[20:]) < 40 * math.log(10) / 10 + 0.1
    assert max(spread[:20]) > 15
