"""Values shared by records and the sources of a mix: counts against the rows written; every format is shown alike."""

from pathlib import Path

import numpy as np
import pytest

from interlace.data.index.build import build_index
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.results.inspection.facts import Facts, gather
from interlace.results.inspection.page import render
from interlace.results.inspection.values import hash_values, shared_values
from tests.bedside import SHARED, Bedside, make_rows, tree, write_rows
from tests.data import make_rows as make_pictures
from tests.data import write_table
from tests.page import Page
from tests.shards import FORMATS, of_folder, sections, write_format


def facts_of(recipe: Recipe) -> Facts:
    return gather(recipe, build_index(recipe))


def test_shared_values_are_counted_but_not_repeated_records(bedside: Bedside, tmp_path: Path) -> None:
    facts = facts_of(bedside[0])
    found = {
        (s.field, s.of, s.within): [(own, like) for (_, own), (_, like) in s.examples] for s in facts.shared if s.count
    }
    assert found == SHARED
    assert {k: len(v) for k, v in SHARED.items()} == {
        (s.field, s.of, s.within): s.count for s in facts.shared if s.count
    }
    assert {s.field for s in facts.shared} == {"sound", "motion", "vitals"}
    assert facts.splits["validation"].shared_with(facts.splits["train"]) == 1
    text = Page(render(facts)).text
    assert f"{tmp_path.name}/validation.parquet row 1 = {tmp_path.name}/train.parquet row 1" in text
    assert "sound112" in text  # the row of the table: once within train, once within validation, twice in between
    assert "2 other records of validation with a `sound` that is also in train" in facts.warnings()
    assert "1 other record of validation with a `motion` that is also in train" in facts.warnings()


def test_no_more_records_are_compared_than_allowed(bedside: Bedside) -> None:
    index = build_index(bedside[0])
    fields = {"sound": ("sound",)}
    hashed = {n: hash_values(m, fields, most=11) for n, m in index.manifests.items()}
    assert len(hashed["train"].rows) == 11
    counts = {(s.of, s.within): s.count for s in shared_values(hashed)}
    assert counts == {("train", "train"): 0, ("validation", "validation"): 1, ("validation", "train"): 2}
    assert hashed["train"].values["sound"].dtype == np.uint64
    assert int(hashed["train"].present["sound"].sum()) == 9


def test_examples_are_few(tmp_path: Path) -> None:
    rows = make_rows(30, seed=3)
    for row in rows:
        row["sound"] = rows[0]["sound"]
    write_rows(tmp_path / "train.parquet", rows)
    write_rows(tmp_path / "validation.parquet", make_rows(3, seed=4))
    facts = facts_of(parse_recipe(tree(tmp_path)))
    within = next(s for s in facts.shared if (s.field, s.of, s.within) == ("sound", "train", "train"))
    assert within.count == 29
    assert [place for place, _ in within.examples] == [("train", 1), ("train", 2), ("train", 3)]


def test_a_mix_lists_its_sources(tmp_path: Path) -> None:
    rows = make_rows(24, seed=5)
    rows[20] |= {"sound": b"no sound"}
    write_rows(tmp_path / "a.parquet", rows[:6])
    write_rows(tmp_path / "b.parquet", rows[6:])
    made = tree(tmp_path)
    mix = {"clinic": {"paths": ["a.parquet"], "weight": 3}, "home": {"paths": ["b.parquet"], "weight": 1}}
    made["data"] = {"root": str(tmp_path), "mix": mix, "max_bad_share": 0.5}
    facts = facts_of(parse_recipe(made))
    shown = {n: (s.format, s.num_rows, s.num_bad, s.share) for n, s in facts.sources.items()}
    assert shown == {"clinic": ("parquet", 6, 0, 0.75), "home": ("parquet", 18, 1, 0.25)}
    text = Page(render(facts)).text
    assert "clinicparquet6026.1%75.0%2.88" in text
    assert "homeparquet18173.9%25.0%0.34" in text
    assert len(facts.sheet) == 23


def test_without_a_mix_no_sources_are_listed(bedside: Bedside) -> None:
    text = Page(render(facts_of(bedside[0]))).text
    assert "Sources of train" not in text
    assert "Repeated values" in text


def test_fields_that_occur_together_are_counted(bedside: Bedside) -> None:
    recipe, rows, _ = bedside
    train = facts_of(recipe).splits["train"]
    assert train.together("sound", "motion") == sum(r["sound"] is not None for r in rows) == 16
    assert train.together("motion", "vitals") == train.together("body", "body") == 20


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_shown_like_parquet(name: str, tmp_path: Path) -> None:
    rows, other = make_pictures(20, seed=1), make_pictures(6, seed=2)
    other[3] |= {"image": next(r["image"] for r in rows if r["image"])}
    for kind in (name, "parquet"):
        (tmp_path / kind).mkdir()
    write_format(name, tmp_path / name, "train-0", rows)
    write_format(name, tmp_path / name, "validation", other)
    write_table(tmp_path / "parquet" / "train-0.parquet", rows, 4)
    write_table(tmp_path / "parquet" / "validation.parquet", other, 2)
    made = of_folder(tmp_path / name).recipe(tmp_path / "out", data=sections(name, 5, str(tmp_path / name)))
    plain = of_folder(tmp_path / "parquet").recipe(tmp_path / "out")
    facts, expected = facts_of(made), facts_of(plain)
    assert [(s.field, s.of, s.within, s.count) for s in facts.shared] == [
        (s.field, s.of, s.within, s.count) for s in expected.shared
    ]
    assert any(s.count and s.field == "image" for s in facts.shared)
    pictures = [[p.tobytes() for f in s.fields for p in f.pictures] for s in facts.sheet]
    assert pictures == [[p.tobytes() for f in s.fields for p in f.pictures] for s in expected.sheet]
    assert [[(f.text, f.cells) for f in s.fields] for s in facts.sheet] == [
        [(f.text, f.cells) for f in s.fields] for s in expected.sheet
    ]
    assert len(facts.sheet) == 20
