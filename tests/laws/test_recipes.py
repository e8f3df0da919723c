"""Every shipped recipe is valid, says everything when written out, and travels with the package."""

from importlib import resources
from pathlib import Path

import pytest

from interlace.recipe.identity import digest, flatten, to_yaml
from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe
from interlace.tune.check import load_search
from tests.laws.code import ROOT
from tests.realdata import SETS

RECIPES = sorted(f for f in (ROOT / "jobs" / "recipes").iterdir() if f.name != "README.md")
TEST_RECIPES = sorted((ROOT / "tests" / "recipes").glob("*.yaml"))
FULL_RECIPES = sorted((ROOT / "tests" / "recipes" / "full").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES + TEST_RECIPES + FULL_RECIPES, ids=lambda p: f"{p.parts[-3]}-{p.name}")
def test_a_shipped_recipe_is_the_fixed_point_of_writing_and_reading(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    text = to_yaml(recipe)
    (tmp_path / "whole.yaml").write_text(text, encoding="utf-8")
    again = load_recipe(tmp_path / "whole.yaml")
    assert again == recipe
    assert to_yaml(again) == text
    assert digest(again) == digest(recipe)
    assert set(Recipe.model_fields) <= set(recipe.model_dump())
    assert len(flatten(recipe)) > 50


def test_recipes_are_named_as_their_files_and_ship() -> None:
    for paths in (RECIPES, FULL_RECIPES):
        assert [load_recipe(p).name for p in paths] == [p.stem for p in paths]
    assert len(FULL_RECIPES) > 2
    shipped = {f.name for f in resources.files("interlace.jobs").joinpath("recipes").iterdir()}
    assert {p.name for p in RECIPES} <= shipped
    assert "emoji.yaml" in shipped


def test_shipped_searches_have_no_error() -> None:
    searched = [p for p in RECIPES if "search:" in p.read_text(encoding="utf-8")]
    assert [load_search(p, [])[0] for p in searched] == [load_recipe(p) for p in searched]
    assert searched


def test_each_real_data_set_has_its_recipe() -> None:
    assert [load_recipe(p).name for p in TEST_RECIPES] == [p.stem for p in TEST_RECIPES] == sorted(SETS)
