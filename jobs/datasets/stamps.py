"""Tux Paint's stamps: a picture, an English caption and a spoken French caption, with the category as label.

Input: a folder as the Debian package `tuxpaint-stamps-default` installs it, or that package unpacked; no network.

    animals/birds/crow.png           the picture; a stamp drawn only as SVG is left out
    animals/birds/crow.txt           first line: English caption; then `de.utf8=Eine Krähe.`, which is not used
    animals/birds/crow_desc_fr.ogg   the French caption, spoken; some stamps have none

Output: Parquet shards `<split>-00000-of-0000N.parquet` with the columns

    stamp     string         place in the folder, like `animals/birds/crow`
    category  string         the outermost folder, like `animals`
    image     binary         PNG, RGBA, cropped to the drawing, its longest side at most 128 pixels
    caption   string, null   like `A crow.`
    speech    binary, null   Ogg Vorbis, as recorded

**Splits.** About 78/11/11 within each category, by the hash of the caption: stamps of one caption, or of pictures equal
to the pixel, stay together. A category of few captions is in training only.

Stamps: by volunteers of Tux Paint (https://tuxpaint.org), GPL-2.0-or-later as a whole.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from interlace.contract.errors import DataError
from interlace.jobs.datasets.shards import BuildReport, draw, joined_keys, write_set

INSTALLED = Path("usr/share/tuxpaint/stamps")
"""Where the package puts the stamps, below the root or below the folder it is unpacked in."""
VOICE = "fr"
SIDE = 128  # longest side of a picture in pixels
HELD_OUT = {"validation": 0.11, "test": 0.11}  # share of the captions of a category
SHAPE = {"train": (4, 4), "validation": (2, 2), "test": (2, 2)}  # shards, row groups
REMEDY = (
    "apt-get install tuxpaint-stamps-default; or `apt-get download tuxpaint-stamps-default`, unpack it by"
    " `dpkg-deb -x FILE FOLDER`, and give the folder by --from"
)
SCHEMA = pa.schema([
    pa.field("stamp", pa.string(), nullable=False), pa.field("category", pa.string(), nullable=False),
    pa.field("image", pa.binary(), nullable=False), pa.field("caption", pa.string()), pa.field("speech", pa.binary()),
])  # fmt: skip

README = """# Stamps: picture, English caption, spoken French caption, category

Built by `interlace dataset stamps` from the Debian package `tuxpaint-stamps-default`. Pictures, captions and recordings
by volunteers of Tux Paint, https://tuxpaint.org, GPL-2.0-or-later as a whole.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """One stamp; `key` decides its split."""

    stamp: str
    category: str
    image: bytes
    caption: str | None
    speech: bytes | None
    key: str


def build(folder: Path, seed: int = 0, source: Path | None = None) -> BuildReport:
    """Write the stamps to a folder (785 rows, 24 row groups, 26 MB, 40 s); shards that are there are replaced.

    Args:
        folder: made where it does not exist.
        seed: decides splits and order.
        source: folder of the stamps, or of the unpacked package; where the package is installed where not given.

    Raises:
        DataError: there are no stamps in the folder.
    """
    stamps, left_out = _stamps(_root(source))
    homes = _homes(stamps, seed)
    stamps.sort(key=lambda s: draw(seed, "order", s.stamp))
    tables = {
        split: pa.Table.from_pylist(
            [{name: getattr(s, name) for name in SCHEMA.names} for s in stamps if homes[s.key] == split], SCHEMA
        )
        for split in ("train", *HELD_OUT)
    }
    report = write_set("stamps", folder, tables, SHAPE, "category", left_out)
    (folder / "README.md").write_text(README, encoding="utf-8")
    return report


def _root(source: Path | None) -> Path:
    """The folder of the categories. Raises DataError."""
    root = source or Path("/") / INSTALLED
    if (root / INSTALLED).is_dir():
        root /= INSTALLED
    if not root.is_dir():
        raise DataError(f"expected a folder of Tux Paint's stamps, but there is none at {root}: {REMEDY}")
    return root


def _stamps(root: Path) -> tuple[list[Stamp], dict[str, int]]:
    """Every stamp that has a picture, sorted by name, and the number left out by reason. Raises DataError."""
    left_out: Counter[str] = Counter()
    stamps: list[Stamp] = []
    for text in sorted(root.rglob("*.txt")):
        place = text.relative_to(root).with_suffix("")
        if len(place.parts) < 2:
            continue  # no category
        image = _picture(text.with_suffix(".png"))
        if isinstance(image, str):
            left_out[image] += 1
            continue
        caption = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip() or None
        voice = text.with_name(f"{text.stem}_desc_{VOICE}.ogg")
        name = place.as_posix()
        stamps.append(
            Stamp(
                stamp=name,
                category=place.parts[0],
                image=image,
                caption=caption,
                speech=voice.read_bytes() if voice.is_file() else None,
                key=(caption or name).lower(),
            )
        )
    if not stamps:
        raise DataError(
            f"expected Tux Paint's stamps (NAME.txt beside NAME.png) below {root}, but found none: {REMEDY}"
        )
    keys = joined_keys([(s.image, s.key) for s in stamps])
    return [replace(s, key=key) for s, key in zip(stamps, keys, strict=True)], dict(left_out)


def _picture(path: Path) -> bytes | str:
    """The picture as PNG bytes, or why there is none."""
    if not path.is_file():
        return "drawn as SVG only" if path.with_suffix(".svg").is_file() else "no picture"
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError):
        return "damaged picture"
    box = picture.getchannel("A").getbbox()
    if box is None:
        return "empty picture"
    picture = picture.crop(box)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _homes(stamps: Sequence[Stamp], seed: int) -> Mapping[str, str]:
    """The split of each key: of the keys of a category, in the order of their hashes, the first are held out."""
    category: dict[str, str] = {}
    for stamp in stamps:
        category.setdefault(stamp.key, stamp.category)
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for key in sorted(category, key=lambda k: draw(seed, "split", k)):
        keys[category[key]].append(key)
    homes = dict.fromkeys(category, "train")
    for own in keys.values():
        first = 0
        for split, share in HELD_OUT.items():
            count = round(share * len(own))
            homes.update(dict.fromkeys(own[first : first + count], split))
            first += count
    return homes
