"""Settings from Python are those of the command line: files, trees and settings alike, values as they are meant."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace.contract.errors import RecipeError
from interlace.recipe.given import changes_of, settings_of, tree_of
from interlace.recipe.identity import to_yaml
from interlace.recipe.load import load_recipe, parse_recipe, read_yaml
from interlace.recipe.recipe import Recipe
from tests.data import EmojiLike

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(value=VALUES)
@settings(max_examples=200, deadline=None)
def test_a_value_comes_through_a_change_as_it_is(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    (change,) = changes_of({"data.root": value})
    path = tmp_path_factory.mktemp("change") / "value.yaml"
    path.write_text(change.partition("=")[2], encoding="utf-8")
    read = read_yaml(path)
    assert read == value
    assert type(read) is type(value)


def test_paths_and_numbers_of_numpy_are_plain_values() -> None:
    found = changes_of({"a": Path("x y"), "b": np.float64(0.5), "c": np.arange(2), "d": (1, 2), "e": 1e-05})
    assert found == ['a="x y"', "b=0.5", "c=[0, 1]", "d=[1, 2]", "e=1e-05"]
    with pytest.raises(RecipeError, match=r"a: expected a value of text.*object"):
        changes_of({"a": object()})


def test_places_win_and_absent_ones_change_nothing() -> None:
    assert changes_of({"storage": "a", "seed": 1}, {"storage": Path("b"), "tracking.uri": None}) == [
        'storage="b"',
        "seed=1",
    ]
    assert changes_of(["seed=1", "storage=a"], {"storage": "b"}) == ["seed=1", "storage=a", 'storage="b"']
    assert changes_of("seed=1") == ["seed=1"]
    assert changes_of(None) == []


def test_a_file_its_tree_and_its_recipe_are_one_recipe(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path)
    recipe = parse_recipe(shapes.tree(tmp_path))
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe), encoding="utf-8")
    before = repr(tree)
    changes = changes_of({"train.steps": None, "train.epochs": 3, "optim.lr": 1e-5})
    found = [settings_of(kind, changes, Recipe) for kind in (file, str(file), tree, recipe)]
    assert found == [load_recipe(file, changes)] * 4
    assert (found[0].train.epochs, found[0].optim.lr) == (3, 1e-5)
    assert repr(tree) == before
    assert tree_of(tree)[0] is not tree


def test_all_faults_of_a_tree_are_named(shapes: EmojiLike, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        settings_of(shapes.tree(tmp_path, seeed=1), changes_of({"train.step": 3}), Recipe)
    assert len(caught.value.errors) == 2
