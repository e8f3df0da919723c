"""Pictures that can't be used: refused with a reason, cheaply, and by the header where that is enough."""

import io
import struct
import subprocess
import sys
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from interlace.contract.errors import RecordError
from interlace.modalities.image import ImageModality
from interlace.recipe.fields import ImageField

PICTURE = ImageModality("picture", ImageField(modality="image", column="image"), {})


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def claim(width: int, height: int) -> bytes:
    """A PNG of 65 bytes whose header claims any size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def noise(format: str, size: tuple[int, int] = (90, 70), **options) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_picture_is_refused_by_decode(format):
    data = noise(format)
    for share in (0.5, 0.9):
        with pytest.raises(RecordError, match="expected a") as error:
            PICTURE.decode((data[: int(len(data) * share)],))
        assert "\n" not in str(error.value)
    assert PICTURE.decode((data,)).shape == (56, 64, 3)


@pytest.mark.parametrize(("format", "marker", "kept"), [("PNG", b"IDAT", 4), ("JPEG", b"\xff\xda", 14)])
def test_measure_needs_only_the_header(format, marker, kept):
    data = noise(format)
    head = data[: data.index(marker) + kept]
    assert len(head) < len(data) / 5
    assert PICTURE.measure((head,)) == (90, 70)
    with pytest.raises(RecordError):
        PICTURE.decode((head,))


def test_metadata_behind_the_pixels_does_not_make_measure_decode():
    """Pillow's own `getexif` of a PNG decodes all pixels to look for it."""
    data = claim(9000, 9000)
    late = data.replace(chunk(b"IEND", b""), chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0") + chunk(b"IEND", b""))
    assert PICTURE.measure((late,)) == (9000, 9000)  # decoding would fail: there are no pixels


def test_a_claim_of_billions_of_pixels_costs_no_memory():
    bomb = claim(60_000, 60_000)
    assert len(bomb) <= 66
    script = f"""
import resource
from interlace.contract.errors import RecordError
from interlace.modalities.image import ImageModality
from interlace.recipe.fields import ImageField
picture = ImageModality("picture", ImageField(modality="image", column="image"), {{}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for use in (picture.measure, picture.decode):
    try:
        use(({bomb!r},))
    except RecordError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *reasons, megabytes = done.stdout.splitlines()
    assert len(reasons) == 2
    assert all("pixels" in reason for reason in reasons)
    assert int(megabytes) < 50


@pytest.mark.parametrize(
    ("width", "height", "good"), [(10_000, 10_000, True), (10_001, 10_000, False), (13_000, 13_000, False)]
)
def test_the_pixel_limit_is_ours_not_pillows(width, height, good):
    if good:
        assert PICTURE.measure((claim(width, height),)) == (width, height)
    else:
        with pytest.raises(RecordError, match=rf"at most 100,000,000 pixels, .* {width} x {height}"):
            PICTURE.measure((claim(width, height),))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "is 0 bytes"),
        ("text", "as bytes, but is str"),
        (None, "as bytes, but is NoneType"),
        (b"GARBAGE, no picture", r"can open, but is 19 bytes beginning b'GARBAGE,'"),
        (b"\x89PNG\r\n\x1a\n", "can open, but is 8 bytes"),
        (claim(0, 5), "pixels|can open"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(value, reason):
    for use in (PICTURE.measure, PICTURE.decode):
        with pytest.raises(RecordError, match=reason) as error:
            use((value,))
        assert len(str(error.value)) < 200


@pytest.mark.parametrize("pixels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000, np.int32)])
def test_more_than_16_bits_are_refused(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    assert PICTURE.measure((file.getvalue(),)) == (4, 4)
    with pytest.raises(RecordError, match="8 or 16 bits"):
        PICTURE.decode((file.getvalue(),))


def test_broken_metadata_does_not_cost_the_picture():
    """Pillow warns of such EXIF; here warnings are errors."""
    good = noise("JPEG")
    for body in (b"", b"garbage", b"MM\0*\0\0\0\x08\0\x05\x01\x12", b"II*\0\xff\xff\xff\xff"):
        data = noise("JPEG", exif=b"Exif\0\0" + body)
        assert np.array_equal(PICTURE.decode((data,)), PICTURE.decode((good,)))


def test_damaged_bytes_give_the_measured_tokens_or_a_reason():
    seen: Counter[str] = Counter()

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        damaged = bytearray(noise(data.draw(st.sampled_from(("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"))), (40, 30)))
        for _ in range(data.draw(st.integers(1, 4))):
            spot = data.draw(st.integers(0, min(len(damaged), 400) - 1) | st.integers(0, len(damaged) - 1))
            damaged[spot] = data.draw(st.integers(0, 255))
        value = (bytes(damaged[: data.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))]),)
        try:
            extent = PICTURE.measure(value)
            tokens = PICTURE.encode(PICTURE.decode(value))
        except RecordError as error:
            seen["refused"] += 1
            reason = str(error)
        else:
            seen["decoded"] += 1
            assert len(tokens.values) == PICTURE.num_tokens(extent)
            reason = "expected and got"
        assert reason.startswith("expected ")
        assert "\n" not in reason

    check()
    assert seen["refused"] > 30
    assert seen["decoded"] > 30
