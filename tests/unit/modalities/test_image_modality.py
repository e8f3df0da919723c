"""Laws of pictures: sizes, pixels, augmentation. Refusals are in test_image_refusals.py."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from interlace.modalities.image import ImageModality, layout
from interlace.modalities.laws import check_value
from interlace.recipe.fields import ImageField

FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "LAB"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
}


def modality(**settings) -> ImageModality:
    return ImageModality("picture", ImageField(modality="image", column="image", **settings), {})


def save(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def scene(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth coloured picture that is different in each corner."""
    rng = np.random.default_rng(seed)
    corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    image = corners.resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("RGBA", "LA"):
        ramp = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
        image.putalpha(Image.fromarray(ramp))
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    return image.convert(mode)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def check_laws(m: ImageModality, value: tuple[bytes]) -> None:
    check_value(m, value)
    extent = m.measure(value)
    decoded = m.decode(value)
    tokens = m.encode(decoded)
    rows, columns = m.grid(extent)
    assert tokens.grid == (rows, columns)
    assert tokens.values.shape == (m.num_tokens(extent), m.spec.patch_dim) == (rows * columns, m.spec.patch_dim)
    assert tokens.values.dtype == decoded.dtype == np.uint8 == np.dtype(m.spec.patch_dtype)
    assert 1 <= rows <= m.spec.max_grid[0]
    assert 1 <= columns <= m.spec.max_grid[1]
    assert m.spec.patch_dim == decoded.size // (rows * columns)
    assert m.decode(value).tobytes() == decoded.tobytes()
    augmented = m.augment(decoded, np.random.default_rng(1))
    assert augmented.shape == decoded.shape
    assert augmented.dtype == np.uint8
    assert m.augment(decoded, np.random.default_rng(1)).tobytes() == augmented.tobytes()


@st.composite
def pictures(draw) -> tuple[bytes]:
    format = draw(st.sampled_from(sorted(FORMATS)))
    mode = draw(st.sampled_from(FORMATS[format]))
    width, height = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    orientation = draw(st.sampled_from((None, *range(1, 9))))
    turned = orientation is not None and format in ("PNG", "JPEG", "WEBP", "TIFF")
    options = {"exif": exif(orientation)} if turned else {}
    return (save(scene(width, height, mode, draw(st.integers(0, 9))), format, **options),)


@settings(max_examples=150, deadline=None)
@given(pictures(), st.integers(1, 80), st.integers(1, 20), st.booleans())
def test_tokens_are_as_many_as_measured(value, max_size, patch, busy):
    jitter = (
        {"rotate_degrees": 20, "rescale": 0.2, "shift": 0.2, "flip": True, "color": 0.3, "erase": 0.4} if busy else {}
    )
    check_laws(modality(max_size=max_size, patch=patch, **jitter), value)


def test_tokens_are_as_many_as_measured_on_real_pictures(emoji_images, digit_images, stamp_images):
    shrink = modality(max_size=40, patch=8, rotate_degrees=15, rescale=0.15, flip=True, color=0.2)
    keep = modality(max_size=128, patch=16)
    values = [*emoji_images[::20], *digit_images[::100], *stamp_images[::10]]
    for data in values:
        check_laws(shrink, (data,))
        check_laws(keep, (data,))
    grids = {shrink.grid(shrink.measure((data,))) for data in values}
    assert len(values) > 200
    assert len(grids) > 5  # several aspect ratios were among them


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 4096), st.integers(1, 64))
def test_aspect_ratio_is_kept_and_nothing_is_enlarged(width, height, max_size, patch):
    at = layout((width, height), max_size, patch)
    share = min(1, max_size / max(width, height))
    assert max(at.width, at.height) == min(max_size, max(width, height))
    assert abs(at.width - max(1, width * share)) <= 0.5 + 1e-9
    assert abs(at.height - max(1, height * share)) <= 0.5 + 1e-9
    assert (at.rows, at.columns) == (math.ceil(at.height / patch), math.ceil(at.width / patch))


def test_patches_are_the_pixels_of_the_grid_and_the_border_is_background():
    m = modality(max_size=64, patch=8, background="black")
    image = scene(37, 21)
    tokens = m.encode(m.decode((save(image),)))
    assert tokens.grid == (3, 5)
    canvas = np.zeros((24, 40, 3), np.uint8)
    canvas[:21, :37] = np.asarray(image)
    for number, patch in enumerate(tokens.values):
        row, column = divmod(number, 5)
        want = canvas[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        assert np.array_equal(patch.reshape(8, 8, 3), want)


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_the_background(mode, background):
    image = scene(32, 24, mode)
    got = modality(max_size=32, patch=8, background=background).decode((save(image),))
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    want = rgba[..., :3] * alpha + (255 if background == "white" else 0) * (1 - alpha)
    assert np.abs(got - want).max() <= 1
    assert alpha.min() == 0
    assert alpha.max() == 1


def test_transparent_palette_and_colour_key_show_the_background():
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.putpixel((0, 0), 1)
    grey = Image.new("L", (8, 8), 7)
    grey.putpixel((0, 0), 50)
    for data, shown in (
        (save(palette, transparency=0), (0, 200, 0)),
        (save(palette, transparency=bytes([0, 255])), (0, 200, 0)),
        (save(palette, "GIF", transparency=0), (0, 200, 0)),
        (save(grey, transparency=7), (50, 50, 50)),
    ):
        got = modality(max_size=8).decode((data,))
        assert tuple(got[0, 0]) == shown
        assert (got[1:] == 255).all()


def test_16_bits_are_cut_to_8_not_clipped():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for format in ("PNG", "TIFF", "PPM"):
        got = modality(max_size=8).decode((save(Image.fromarray(values), format),))
        assert np.array_equal(got, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_cmyk_and_grey_look_as_pillow_shows_them():
    for mode in ("CMYK", "L"):
        data = save(scene(16, 16, mode), "JPEG", quality=95)
        want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(modality(max_size=16).decode((data,)), want)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(format, orientation):
    m = modality(max_size=40, patch=8)
    data = save(scene(40, 24), format, exif=exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert m.measure((data,)) == upright.size == ((40, 24) if orientation < 5 else (24, 40))
    assert np.array_equal(m.decode((data,)), np.asarray(upright))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = save(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (modality(max_size=8).decode((data,)) == [255, 0, 0]).all()


@pytest.mark.parametrize("size", [(640, 480), (333, 517), (1000, 129)])
def test_draft_decoding_of_jpeg_equals_full_decoding(size):
    """Against decoding every pixel and one fair resampling, as a share of full scale."""
    data = save(scene(*size), "JPEG", quality=92)
    m = modality(max_size=64, patch=8)
    at = layout(m.measure((data,)), 64, 8)
    full = Image.open(io.BytesIO(data)).convert("RGB").resize((at.width, at.height), Image.Resampling.BICUBIC)
    got = m.decode((data,))[: at.height, : at.width].astype(float)
    assert np.abs(got - np.asarray(full)).mean() < 0.5
    assert not np.array_equal(got, np.asarray(full))  # it was decoded in another way


@pytest.mark.parametrize("side", [20, 33, 64, 65, 100, 127])
def test_a_jpeg_less_than_four_times_too_large_is_decoded_as_pillow_alone_does(side):
    content = save(scene(side, side), "JPEG")
    image = Image.open(io.BytesIO(content))
    small = image.resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=2.0) if side > 32 else image
    found = modality(max_size=32, patch=4).decode((content,))
    assert (found[: small.height, : small.width] == np.asarray(small)).all()
    assert (side > 32) == (image.size != small.size)


def test_draft_decoding_of_real_pictures_equals_full_decoding(stamp_images):
    errors = []
    for data in stamp_images[::40]:
        cut_out = Image.open(io.BytesIO(data)).convert("RGBA")
        canvas = Image.new("RGB", cut_out.size, "white")
        canvas.paste(cut_out, mask=cut_out)
        jpeg = save(canvas.resize((canvas.width * 5, canvas.height * 5)), "JPEG", quality=92)
        at = layout((canvas.width * 5, canvas.height * 5), 64, 8)
        full = Image.open(io.BytesIO(jpeg)).resize((at.width, at.height), Image.Resampling.BICUBIC)
        got = modality(max_size=64).decode((jpeg,))[: at.height, : at.width].astype(float)
        errors.append(np.abs(got - np.asarray(full)).mean())
    assert len(errors) > 15
    assert max(errors) < 2.0


def test_augment_without_settings_changes_nothing():
    decoded = modality().decode((save(scene(40, 24)),))
    assert modality().augment(decoded, np.random.default_rng(0)) is decoded


def test_augment_depends_on_the_seed_only():
    m = modality(rotate_degrees=15, rescale=0.2, flip=True, color=0.2)
    decoded = m.decode((save(scene(40, 24)),))
    before = decoded.copy()
    variants = {m.augment(decoded, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(variants) == 20
    assert np.array_equal(decoded, before)


def test_flip_mirrors_half_of_the_draws():
    m = modality(flip=True)
    decoded = m.decode((save(scene(40, 24)),))
    kept = mirrored = 0
    for seed in range(200):
        variant = m.augment(decoded, np.random.default_rng(seed))
        kept += np.array_equal(variant, decoded)
        mirrored += np.array_equal(variant, decoded[:, ::-1])
    assert kept + mirrored == 200
    assert 70 < mirrored < 130


def test_rotation_equals_pillows_own():
    m = modality(rotate_degrees=30, background="white")
    decoded = m.decode((save(scene(48, 48)),))
    seen = []
    for seed in range(10):
        turn = np.random.default_rng(seed).uniform(-1, 1, 5)[0] * 30
        want = Image.fromarray(decoded).rotate(turn, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255))
        got = m.augment(decoded, np.random.default_rng(seed))
        assert np.abs(got.astype(int) - np.asarray(want)).mean() < 0.3
        seen.append(turn)
    assert min(seen) < -10
    assert max(seen) > 10


def test_rescale_enlarges_about_the_centre():
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((16, 16, 47, 47), fill="black")
    m = modality(rescale=0.3)
    decoded = m.decode((save(image),))
    zooms = []
    for seed in range(20):
        zoom = 1 + np.random.default_rng(seed).uniform(-1, 1, 5)[1] * 0.3
        ink = 255 - m.augment(decoded, np.random.default_rng(seed))[..., 0].astype(float)
        assert ink.sum() == pytest.approx((255 - decoded[..., 0].astype(float)).sum() * zoom**2, rel=0.03)
        assert np.average(np.arange(64), weights=ink.sum(0)) == pytest.approx(31.5, abs=0.2)
        zooms.append(zoom)
    assert min(zooms) < 0.8
    assert max(zooms) > 1.2


def test_colour_changes_equal_pillows_own():
    m = modality(color=0.2)
    soft = scene(32, 32).point(lambda v: 80 + v // 4)  # far from clipping, which Pillow does after each of the three
    decoded = m.decode((save(soft),))
    for seed in range(10):
        brightness, saturation, contrast = 1 + np.random.default_rng(seed).uniform(-1, 1, 5)[2:] * 0.2
        want = ImageEnhance.Brightness(soft).enhance(brightness)
        want = ImageEnhance.Color(want).enhance(saturation)
        want = ImageEnhance.Contrast(want).enhance(contrast)
        got = m.augment(decoded, np.random.default_rng(seed)).astype(int)
        assert np.abs(got - np.asarray(want)).max() <= 3
        assert np.abs(got - decoded).max() > 3


def test_shift_moves_the_picture_within_its_share():
    dot = Image.new("RGB", (64, 32), "black")
    dot.paste((255, 255, 255), (30, 14, 34, 18))
    m = modality(shift=0.25, background="black")
    decoded = m.decode((save(dot),))
    moves = []
    for seed in range(30):
        light = m.augment(decoded, np.random.default_rng(seed))[..., 0].astype(float)
        assert light.sum() == pytest.approx(decoded[..., 0].sum(), rel=0.02)  # the dot stays whole
        moves.append([np.average(np.arange(n), weights=light.sum(a)) for n, a in ((64, 0), (32, 1))])
    away = (np.array(moves) - (31.5, 15.5)) / (64, 32)
    assert np.abs(away).max() <= 0.251
    assert (away.min(0) < -0.2).all()
    assert (away.max(0) > 0.2).all()


def test_shift_comes_after_the_other_moves():
    still, moved = (modality(rotate_degrees=30, rescale=0.2, flip=True, shift=s, max_size=48) for s in (0, 0.5))
    decoded = still.decode((save(scene(48, 48)),))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rng.uniform(-1, 1, 5), rng.random()
        across, down = np.round(rng.uniform(-0.5, 0.5, 2) * 48).astype(int)
        want = np.roll(still.augment(decoded, np.random.default_rng(seed)), (down, across), (0, 1)).astype(int)
        got = moved.augment(decoded, np.random.default_rng(seed))
        inside = np.s_[max(down, 0) + 1 : 47 + min(down, 0), max(across, 0) + 1 : 47 + min(across, 0)]
        assert np.median(np.abs(got - want)[inside]) < 5  # but for half a pixel


@pytest.mark.parametrize("more", [{}, {"rotate_degrees": 15, "rescale": 0.2, "shift": 0.1, "flip": True, "color": 0.2}])
def test_erase_blanks_one_box_and_leaves_the_other_draws(more):
    whole, erased = (modality(erase=e, background="black", **more) for e in (0, 0.5))
    decoded = whole.decode((save(scene(64, 48).point(lambda v: 128 + v // 2)),))
    shares, aspects = [], []
    for seed in range(200):
        want = whole.augment(decoded, np.random.default_rng(seed))
        got = erased.augment(decoded, np.random.default_rng(seed))
        rows, columns = np.nonzero((got != want).any(2))
        if not len(rows):
            continue
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert not got[box].any()
        kept = np.ones(got.shape[:2], bool)
        kept[box] = False
        assert np.array_equal(got[kept], want[kept])
        shares.append(1 - kept.mean())
        aspects.append((np.ptp(rows) + 1) / (np.ptp(columns) + 1))
    assert len(shares) > 180
    assert max(shares) <= 0.5
    assert np.mean(shares) == pytest.approx(0.25, abs=0.05)
    assert min(aspects) < 0.5
    assert max(aspects) > 2


def test_noise_is_normal_on_brightness_and_at_most_as_strong_as_set():
    m = modality(noise=0.2)
    decoded = np.full((64, 64, 3), 128, np.uint8)
    deviations = []
    for seed in range(40):
        change = m.augment(decoded, np.random.default_rng(seed)).astype(float) - 128
        assert (change == change[..., :1]).all()
        assert abs(change.mean()) < 4
        deviations.append(change[..., 0].std())
        assert (np.abs(change[..., 0]) < 2 * deviations[-1] + 1).mean() > 0.9
    assert max(deviations) < 0.21 * 255
    assert np.mean(deviations) == pytest.approx(0.1 * 255, rel=0.2)
