"""Laws of the stamp set, over a small generated folder in the layout of the package."""

import io
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from interlace.contract.errors import DataError
from interlace.jobs.datasets.stamps import INSTALLED, SIDE, build

SPLITS = ("train", "validation", "test")


def draw(path, seed, size=(200, 100), mode="RGBA"):
    """A noisy box in the middle of a transparent picture."""
    width, height = size
    pixels = np.zeros((height + 20, width + 20, 4), np.uint8)
    pixels[10:-10, 10:-10] = np.random.default_rng(seed).integers(0, 255, 4)
    pixels[10:-10, 10:-10, 3] = 255
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An unpacked package: 2 categories of 20 stamps, one of 2, and stamps that can't be used."""
    folder = tmp_path_factory.mktemp("unpacked")
    root = folder / INSTALLED
    for number, (category, count) in enumerate((("animals", 20), ("food", 20), ("rare", 2))):
        place = root / category / "inner"
        place.mkdir(parents=True)
        for i in range(count):
            caption = f"A {category} {i // 2}."  # each twice
            (place / f"s{i}.txt").write_text(f"{caption}\nde.utf8=Ein Ding\n", encoding="utf-8")
            draw(place / f"s{i}.png", seed=100 * number + i, mode="P" if i % 5 == 4 else "RGBA")
            if i % 4:
                (place / f"s{i}_desc_fr.ogg").write_bytes(f"voice {category} {i}".encode())
            (place / f"s{i}_desc_es.ogg").write_bytes(b"other voice")
            (place / f"s{i}.ogg").write_bytes(b"sound")
    food = root / "food"
    draw(food / "mirror_of_s1.png", seed=0)
    for name in ("vector", "nothing", "damaged", "empty"):
        (food / f"{name}.txt").write_text("A thing.\n", encoding="utf-8")
    (food / "vector.svg").write_text("<svg/>")
    (food / "damaged.png").write_bytes(b"PNG no more")
    Image.new("RGBA", (9, 9)).save(food / "empty.png")
    (food / "twin.txt").write_text("Another name of animal 0.", encoding="utf-8")
    draw(food / "twin.png", seed=0)
    (food / "silent.txt").write_text("\n", encoding="utf-8")
    draw(food / "silent.png", seed=999, size=(40, 30))
    (root / "README.txt").write_text("no stamp")
    return folder


@pytest.fixture(scope="module")
def report(source, tmp_path_factory):
    return build(tmp_path_factory.mktemp("stamps"), source=source)


@pytest.fixture(scope="module")
def splits(report):
    return {
        split: [row for f in report.files if f.name.startswith(f"{split}-") for row in pq.read_table(f).to_pylist()]
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def by_name(splits):
    return {row["stamp"]: row for rows in splits.values() for row in rows}


def test_every_stamp_with_a_picture_is_there_once(report, splits, by_name):
    assert sum(report.rows.values()) == len(by_name) == 44
    assert report.left_out == {
        "drawn as SVG only": 1, "no picture": 1, "damaged picture": 1, "empty picture": 1
    }  # fmt: skip
    assert report.groups == {"animals": 20, "food": 22, "rare": 2}
    assert {split: len(rows) for split, rows in splits.items()} == dict(report.rows)


def test_values_are_those_of_the_files(source, by_name):
    row = by_name["animals/inner/s1"]
    assert (row["category"], row["caption"], row["speech"]) == ("animals", "A animals 0.", b"voice animals 1")
    assert by_name["food/inner/s4"]["speech"] is None
    assert by_name["food/silent"]["caption"] is None
    pictures = {name: Image.open(io.BytesIO(r["image"])) for name, r in by_name.items()}
    assert {p.mode for p in pictures.values()} == {"RGBA"}
    assert pictures["animals/inner/s1"].size == (SIDE, SIDE // 2)
    assert pictures["food/silent"].size == (40, 30)  # cropped, never enlarged
    original = Image.open(source / INSTALLED / "food" / "silent.png").convert("RGBA").crop((10, 10, 50, 40))
    assert pictures["food/silent"].tobytes() == original.tobytes()


def test_equal_captions_and_equal_pictures_stand_in_one_split(splits):
    homes = defaultdict(set)
    for split, rows in splits.items():
        for row in rows:
            homes[row["caption"]].add(split)
            homes[row["image"]].add(split)
    assert all(len(found) == 1 for found in homes.values())
    assert min(len(rows) for rows in splits.values()) >= 2


def test_every_class_of_a_held_out_split_is_in_training(splits):
    trained = {row["category"] for row in splits["train"]}
    assert trained == {"animals", "food", "rare"}
    assert {row["category"] for row in splits["validation"]} == {"animals", "food"}


def test_the_same_folder_gives_the_same_bytes(source, report, tmp_path):
    again = build(tmp_path / "again", source=source / INSTALLED)
    assert [f.read_bytes() for f in again.files] == [f.read_bytes() for f in report.files]
    other = build(tmp_path / "other", seed=1, source=source)
    assert [f.read_bytes() for f in other.files] != [f.read_bytes() for f in report.files]


def test_a_missing_folder_and_one_without_stamps_are_named_with_the_remedy(tmp_path):
    for folder, words in ((tmp_path / "absent", "there is none at"), (tmp_path, "found none")):
        with pytest.raises(DataError, match=rf"{words}.*apt-get download tuxpaint-stamps-default"):
            build(tmp_path / "set", source=folder)
    assert not (tmp_path / "set").exists()
