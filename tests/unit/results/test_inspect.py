"""What `interlace inspect` finds and shows: counts against the rows written, damage listed, nothing loaded."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from interlace.contract.errors import BadShareError
from interlace.data.index.build import build_index
from interlace.data.index.records import make_codec
from interlace.data.read.reader import read_slot
from interlace.jobs.inspect import run_inspect
from interlace.recipe.recipe import Recipe
from interlace.results.inspection.facts import Facts, gather
from interlace.results.inspection.page import render
from interlace.results.inspection.plots import histogram
from interlace.results.inspection.views import SHEET_SAMPLES, view_sample
from tests.data import EmojiLike, make_rows, write_table
from tests.manifests import usable
from tests.page import Page

HOSTILE = '</td><script>alert("1")</script>&<img src=http://x.y/z>'


def facts_of(recipe: Recipe) -> Facts:
    return gather(recipe, build_index(recipe))


@pytest.fixture
def dirty(tmp_path: Path) -> EmojiLike:
    """Training rows with a repeat, a picture that is none, one cut short, hostile captions and labels.

    Its validation rows hold a row of train and an unseen label.
    """
    rows = [r | {"caption": r["caption"] or "a disc"} for r in make_rows(40, seed=3)]
    rows[5] = rows[4]
    rows[7] |= {"image": b"<b>no picture"}
    whole = next(r["image"] for r in rows[10:] if r["image"])
    rows[9] |= {"image": whole[: len(whole) // 2]}  # header in order, pixels not: found only by decoding
    for row in rows[20:24]:
        row |= {"caption": HOSTILE, "color": HOSTILE}
    write_table(tmp_path / "train-0.parquet", rows, 2)
    other = make_rows(8, seed=4)
    other[0] = rows[4]
    other[1] |= {"color": "no such color"}
    write_table(tmp_path / "validation.parquet", other, 1)
    return EmojiLike(folder=tmp_path, rows=40)


def test_counts_are_those_of_the_rows(shapes: EmojiLike, tmp_path: Path) -> None:
    facts = facts_of(shapes.recipe(tmp_path))
    rows = [r for f in sorted(shapes.folder.glob("train-*.parquet")) for r in pq.read_table(f).to_pylist()]
    there = [
        (r["image"] is not None, r["caption"] is not None, r["width"] is not None or r["height"] is not None)
        for r in rows
    ]
    split = facts.splits["train"]
    assert split.combinations == dict(Counter(there))
    assert split.missing_share("image") == pytest.approx(sum(not t[0] for t in there) / len(rows))
    assert {k: n for k, n in split.labels["color"].items() if n} == dict(Counter(r["color"] for r in rows))
    lengths = Counter(len(r["caption"].encode()) for r in rows if r["caption"] is not None)
    found = split.lengths["caption"]
    assert dict(zip(found.values.tolist(), found.counts.tolist(), strict=True)) == lengths
    assert len(rows) == shapes.rows
    assert len(split.combinations) >= 6


def test_damage_is_listed_not_refused(dirty: EmojiLike, tmp_path: Path) -> None:
    recipe = dirty.recipe(tmp_path / "out", batch={"token_budget": 16, "global_batch": 4})
    with pytest.raises(BadShareError):
        build_index(recipe)
    run_inspect(recipe, tmp_path / "new" / "page.html")
    page = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert "train-0.parquet7field `image`: expected a picture" in page.text
    assert "expected a label seen in training" in page.text
    assert "train: 2.50% of the records are bad, but `data.max_bad_share` is 1.00%" in page.text
    assert "tokens, but `batch.token_budget` is 16: `train` refuses it" in page.text


def test_repeats_are_found_within_and_between_splits(dirty: EmojiLike, tmp_path: Path) -> None:
    facts = facts_of(dirty.recipe(tmp_path / "out", data={"max_bad_share": 1.0}, batch={"token_budget": 4096}))
    train, validation = facts.splits["train"], facts.splits["validation"]
    assert (train.num_repeats, validation.num_repeats) == (1, 0)
    assert (validation.shared_with(train), train.shared_with(validation)) == (1, 2)
    text = Page(render(facts)).text
    assert "1 record of validation also in train" in text
    folder = tmp_path.name
    places = (
        f"{folder}/train-0.parquet row 4",
        f"{folder}/train-0.parquet row 5",
        f"{folder}/validation.parquet row 0",
    )
    assert " = ".join(places) in text


def test_a_picture_cut_short_is_shown_with_its_error(dirty: EmojiLike, tmp_path: Path) -> None:
    recipe = dirty.recipe(tmp_path / "out", data={"max_bad_share": 1.0})
    index = build_index(recipe)
    assert usable(index.manifests["train"])[9]
    record = pq.read_table(dirty.folder / "train-0.parquet").to_pylist()[9]
    view = view_sample(record, make_codec(recipe.reads, index.fitted), np.random.default_rng(0), "here")
    image = next(f for f in view.fields if f.name == "image")
    assert image.error is not None
    assert "expected a whole picture" in image.error
    assert view.fields[1].words


def test_nothing_from_the_data_becomes_markup(dirty: EmojiLike, tmp_path: Path) -> None:
    facts = facts_of(dirty.recipe(tmp_path / "out", data={"max_bad_share": 1.0}, batch={"token_budget": 4096}))
    page = Page(render(facts))
    assert page.tags["script"] == 0
    assert HOSTILE in page.text
    assert page.text.count("<script>") >= 2  # as class, as caption
    addresses = [v for k, v in page.attributes if k in ("src", "href", "action", "data")]
    assert addresses
    assert all(a.startswith("data:image/png;base64,") for a in addresses)
    assert any("default-src 'none'" in v for k, v in page.attributes if k == "content")


def test_the_sheet_shows_what_training_reads(shapes: EmojiLike, tmp_path: Path) -> None:
    """A view takes random numbers as the reader does: after viewing, the generator stands where reading leaves it."""
    fields = shapes.tree(tmp_path)["fields"]
    fields["image"] |= {"rotate_degrees": 30, "color": 0.3, "flip": True}
    fields["caption"] |= {"word_dropout": 0.3}
    recipe = shapes.recipe(tmp_path, fields=fields)
    index = build_index(recipe)
    codec = make_codec(recipe.reads, index.fitted)
    modality = codec.fields["image"][0]
    rows = pq.read_table(shapes.folder / "train-0.parquet").to_pylist()[:20]
    compared = 0
    for number, row in enumerate(rows):
        seen, read = np.random.default_rng((0, 0, number)), np.random.default_rng((0, 0, number))
        view = view_sample(row, codec, seen, "here")
        slot = read_slot(row, codec, read)
        assert seen.random() == read.random()
        image, caption, _ = view.fields
        if row["image"] is not None:
            assert np.array_equal(modality.encode(image.pictures[-1]).values, slot.tokens["image"].values)
            compared += 1
        if row["caption"] is not None:
            assert "".join(w or "" for w in caption.words) == row["caption"] == caption.text
            unknown = int((slot.tokens["caption"].values == 0).sum())
            assert sum(w is None for w in caption.variant_words or ()) == unknown
    assert compared > 10


def test_the_page_is_whole_and_the_same_each_time(shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = shapes.recipe(tmp_path)
    facts = facts_of(recipe)
    html = render(facts)
    assert html == render(facts_of(recipe))
    assert len(facts.sheet) == SHEET_SAMPLES
    assert len({s.place for s in facts.sheet}) == SHEET_SAMPLES
    page = Page(html)
    pictures = sum(len(f.pictures) for s in facts.sheet for f in s.fields)
    assert page.tags["img"] == pictures > 0
    assert page.tags["svg"] == 2 * (len(recipe.fields) + 1)
    headings = (
        "Splits",
        "Bad records",
        "Missing fields",
        "Token lengths",
        "Classes of",
        "Repeated",
        "Samples of train",
    )
    assert all(h in page.text for h in headings)


def test_the_bars_of_a_histogram_hold_every_value() -> None:
    rng = np.random.default_rng(0)
    for low, high in ((1, 2), (1, 31), (1, 62), (16, 17), (0, 2000)):
        lengths = rng.integers(low, high, 500)
        svg = histogram(*np.unique(lengths, return_counts=True), low, high)
        counts = [int(n.replace(",", "")) for n in re.findall(r"tokens: ([\d,]+)</title>", svg)]
        assert sum(counts) == 500
        assert len(counts) <= 30


def test_a_split_of_bad_records_alone_is_shown(tmp_path: Path, shapes: EmojiLike) -> None:
    rows = [r | {"image": b"no picture"} for r in make_rows(6, seed=1)]
    write_table(tmp_path / "bad.parquet", rows, 1)
    data = shapes.tree(tmp_path)["data"] | {"validation": {"paths": [str(tmp_path / "bad.parquet")]}}
    run_inspect(shapes.recipe(tmp_path / "out", data=data), tmp_path / "page.html")
    assert "100.00% of the records are bad" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
