"""Sounds that can't be used: refused with a reason, cheaply, and by the header where that is enough."""

import io
import struct
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.errors import RecordError
from interlace.modalities.audio import AudioModality
from interlace.recipe.fields import AudioField

SOUND = AudioModality("sound", AudioField(modality="audio", column="audio"), {})


def save(samples: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def noise(count: int = 8000) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(count)


def wav(*, rate: int = 16_000, channels: int = 1, size: int | None = None, payload: bytes = b"\1\2" * 800) -> bytes:
    """A PCM WAV whose header claims anything; `size` bytes of samples."""
    size = len(payload) if size is None else size
    block = 2 * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + payload
    return b"RIFF" + struct.pack("<I", len(body)) + body


def flac_claiming(count: int) -> bytes:
    """A FLAC of 8,000 samples whose header claims `count`."""
    data = bytearray(save(noise(), format="FLAC"))
    assert data[:8] == b"fLaC\0\0\0\x22"
    data[21] = data[21] & 0xF0 | count >> 32  # 36 bits of the stream's description, from the middle of byte 13
    data[22:26] = struct.pack(">I", count & 0xFFFFFFFF)
    return bytes(data)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "is 0 bytes"),
        ("text", "as bytes, but is str"),
        (None, "as bytes, but is NoneType"),
        (b"GARBAGE, no sound", r"can open, but is 17 bytes beginning b'GARBAGE,': LibsndfileError: Format not recog"),
        (b"RIFF\0\0\0\0WAVE", "can open, but is 12 bytes"),
        (b"OggS" + bytes(100), "can open, but is 104 bytes"),
        (b"fLaC" + bytes(100), "can open, but is 104 bytes"),
        (wav(payload=b""), "1 to 2,147,483,647 samples, but the header claims 0"),
        (save(np.zeros(0), format="OGG", subtype="VORBIS"), "samples, but the header claims 0"),
        (wav(rate=0), "samples a second, but the header claims 0|can open"),
        (wav(rate=1_000_001), "1 to 1,000,000 samples a second, but the header claims 1,000,001"),
        (wav(channels=65), "1 to 64 channels, but the header claims 65"),
        (wav(channels=0), "channels|can open"),
        (wav(size=1602), "1,602 bytes of samples as the header says, but 1,600 follow"),
        (wav(size=1_000_000_000), "1,000,000,000 bytes of samples as the header says, but 1,600 follow"),
        (flac_claiming(2**36 - 1), "1 to 2,147,483,647 samples, but the header claims 68,719,476,735"),
        (flac_claiming(0), "samples, but the header claims"),
    ],
)
def test_what_is_no_sound_is_refused_by_its_header(value, reason):
    for use in (SOUND.measure, SOUND.decode):
        with pytest.raises(RecordError, match=reason) as error:
            use((value,))
        assert len(str(error.value)) < 200
        assert str(error.value).startswith("expected ")


def test_a_wav_whose_header_claims_less_is_as_long_as_it_claims():
    short, whole = wav(size=800), wav()
    assert SOUND.measure((whole,)) == (800, 16_000)
    assert SOUND.measure((short,)) == (400, 16_000)
    assert len(SOUND.decode((short,))) == 1 < len(SOUND.decode((whole,)))


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000])
def test_a_wav_from_a_pipe_is_read_to_its_end(size):
    assert SOUND.measure((wav(size=size),)) == (800, 16_000)
    assert np.array_equal(SOUND.decode((wav(size=size),)), SOUND.decode((wav(),)))


def test_the_size_of_a_wav_is_found_behind_other_parts():
    whole = wav()
    at = whole.index(b"data")
    extra = whole[:at] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + whole[at:]
    assert SOUND.measure((extra,)) == (800, 16_000)
    with pytest.raises(RecordError, match="1,600 bytes of samples as the header says, but 1,500 follow"):
        SOUND.measure((extra[:-100],))


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
)
def test_a_truncated_sound_is_refused(format, subtype):
    data = save(noise(), 16_000, format, subtype)
    for share in (0.05, 0.5, 0.9, 0.999):
        with pytest.raises(RecordError, match="expected ") as error:
            SOUND.decode((data[: int(len(data) * share)],))
        assert "\n" not in str(error.value)
        assert "0x" not in str(error.value)  # no addresses: the same bytes give the same reason
    assert len(SOUND.decode((data,))) == 49


@pytest.mark.parametrize("count", [8001, 20_000, 2**31 - 1])
def test_a_flac_that_holds_less_than_it_claims_is_refused(count):
    """Not by its header, but without room for what is not there."""
    assert SOUND.measure((flac_claiming(8000),)) == (8000, 16_000)
    assert SOUND.measure((flac_claiming(count),)) == (count, 16_000)
    with pytest.raises(RecordError, match=r"as the header says, but only 8,000 can be decoded|a whole sound, but"):
        SOUND.decode((flac_claiming(count),))


@pytest.mark.parametrize(
    ("sample", "reason"), [(np.nan, "is nan"), (np.inf, "is inf"), (-np.inf, "is inf"), (1e20, "is inf")]
)
@pytest.mark.parametrize("rate", [16_000, 8000])
def test_samples_that_are_no_finite_numbers_are_refused(sample, reason, rate):
    samples = noise().astype(np.float32)
    samples[5000] = sample
    value = (save(samples, rate, subtype="FLOAT"),)
    assert SOUND.measure(value) == (8000, rate)
    with pytest.raises(RecordError, match=f"finite samples about -1..1, but the sum of their squares {reason}"):
        SOUND.decode(value)


def test_loud_samples_that_can_be_counted_with_are_kept():
    decoded = SOUND.decode((save(np.full(8000, 1e12, np.float32), subtype="FLOAT"),))
    assert np.isfinite(decoded).all()
    assert np.isfinite(SOUND.encode(decoded).values).all()


def test_small_files_of_long_sounds_cost_little_memory():
    """10 minutes of silence in 28 KB; 64 channels; an hour cut to 10 s."""
    script = """
import io, resource
import numpy as np, soundfile
from interlace.recipe.fields import AudioField
from interlace.modalities.audio import AudioModality
sound = AudioModality("sound", AudioField(modality="audio", column="audio"), {})
def save(rate, *shape):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, shape[1], "PCM_16", format=shape[2]) as out:
        for _ in range(shape[0]):
            out.write(np.zeros((rate, shape[1]), np.float32))
    return file.getvalue()
values = [save(16_000, 600, 1, "FLAC"), save(1000, 3600, 1, "WAV"), save(8000, 20, 64, "WAV")]
sound.decode((save(8000, 1, 1, "FLAC"),))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for value in values:
    decoded = sound.decode((value,))
    print(len(value), len(decoded), sound.measure((value,))[0])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *seen, megabytes = done.stdout.splitlines()
    sizes, frames, counts = zip(*(map(int, line.split()) for line in seen), strict=True)
    assert sizes[0] < 30_000
    assert set(frames) == {999}
    assert counts == (9_600_000, 3_600_000, 160_000)
    assert int(megabytes) < 20


def test_damaged_bytes_give_the_measured_tokens_or_a_reason(capfd):
    seen: Counter[str] = Counter()
    kinds = (("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"))
    good = [save(noise(3000), 16_000, *kind) for kind in (*kinds, ("AIFF", "PCM_16"), ("CAF", "PCM_16"))]

    @settings(max_examples=600, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        damaged = bytearray(data.draw(st.sampled_from(good)))
        for _ in range(data.draw(st.integers(1, 4))):
            spot = data.draw(st.integers(0, min(len(damaged), 200) - 1) | st.integers(0, len(damaged) - 1))
            damaged[spot] = data.draw(st.integers(0, 255))
        value = (bytes(damaged[: data.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))]),)
        try:
            extent = SOUND.measure(value)
            tokens = SOUND.encode(SOUND.decode(value))
        except RecordError as error:
            seen["refused"] += 1
            reason = str(error)
        else:
            seen["decoded"] += 1
            assert len(tokens.values) == SOUND.num_tokens(extent)
            assert np.isfinite(tokens.values).all()
            reason = "expected and got"
        assert reason.startswith("expected ")
        assert "\n" not in reason

    check()
    assert seen["refused"] > 30
    assert seen["decoded"] > 30
    assert capfd.readouterr().err == ""
