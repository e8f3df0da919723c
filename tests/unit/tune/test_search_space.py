"""Search spaces: values are a pure function of seed, number and path; every error is told before anything starts."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from interlace.contract.errors import RecipeError
from interlace.recipe.identity import digest, flatten
from interlace.recipe.load import load_recipe, parse_tree
from interlace.recipe.recipe import Recipe
from interlace.tune.check import check, load_search, schema
from interlace.tune.search import Search
from interlace.tune.suggest import overridden, sample, short_names, values_of
from tests.data import EmojiLike

SPACE: dict[str, Any] = {
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
    "model.dropout": {"uniform": [0.0, 0.5]},
    "model.joint_layers": {"integer": [1, 3], "when": {"model.fusion": ["mid", "early"]}},
    "model.fusion": {"choice": ["mid", "early", "weighted_sum"]},
    "batch.token_budget": {"log_integer": [128, 512]},
    "model.modality_dropout": {"uniform": [0.1, 0.3], "when": {"model.joint_layers": [2, 3]}},
    "fields": {"choice": [["image", "caption"], ["caption"], ["image", "caption", "size"]]},
}


def search_of(**settings: Any) -> Search:
    return parse_tree({"space": SPACE, **settings}, (), "search", Search)


@pytest.fixture
def recipe(shapes: EmojiLike, tmp_path: Path) -> Recipe:
    return shapes.recipe(tmp_path)


def test_a_trial_is_a_pure_function_of_seed_number_and_path() -> None:
    search = search_of(trials=200)
    drawn = [sample(search, n) for n in range(200)]
    assert drawn == [sample(search_of(trials=3), n) for n in range(200)]
    assert drawn != [sample(search_of(seed=1), n) for n in range(200)]
    wider = parse_tree({"space": {"optim.clip": {"uniform": [0.5, 2]}, **SPACE}}, (), "search", Search)
    assert [{k: v for k, v in sample(wider, n).items() if k != "optim.clip"} for n in range(200)] == drawn
    assert drawn[0] == {}
    assert len({str(d) for d in drawn}) == 200


def test_values_are_in_their_ranges_and_reach_all_of_them() -> None:
    drawn = [sample(search_of(), n) for n in range(1, 1500)]
    rates = [d["optim.lr"] for d in drawn]
    assert all(1e-4 <= r <= 1e-2 for r in rates)
    assert 0.45 < sum(r < 1e-3 for r in rates) / len(rates) < 0.55  # uniform in the logarithm
    assert {d["model.joint_layers"] for d in drawn if "model.joint_layers" in d} == {1, 2, 3}
    budgets = [d["batch.token_budget"] for d in drawn]
    assert all(isinstance(b, int) and 128 <= b <= 512 for b in budgets)
    assert 0.45 < sum(b < 256 for b in budgets) / len(budgets) < 0.55
    assert {d["model.fusion"] for d in drawn} == {"mid", "early", "weighted_sum"}


def test_a_setting_counts_only_where_its_conditions_hold(recipe: Recipe) -> None:
    drawn = [sample(search_of(), n) for n in range(1, 300)]
    for one in drawn:
        assert ("model.joint_layers" in one) == (one["model.fusion"] != "weighted_sum")
        assert ("model.modality_dropout" in one) == (one.get("model.joint_layers", 0) > 1)
    assert any("model.modality_dropout" in one for one in drawn)
    whole = values_of(search_of(), recipe, {})
    assert whole["model.joint_layers"] == 1
    assert whole["model.modality_dropout"] is None


def test_overrides_make_the_recipe_that_set_would_make(recipe: Recipe) -> None:
    for number in range(1, 30):
        overrides = sample(search_of(), number)
        made = overridden(recipe, overrides)
        flat = flatten(made)
        assert {p: flat[p] for p in overrides if p != "fields"} == {p: v for p, v in overrides.items() if p != "fields"}
        assert list(made.fields) == [n for n in recipe.fields if n in overrides["fields"]]
    assert overridden(recipe, {}) == recipe


def test_every_error_is_told_at_once(recipe: Recipe, tmp_path: Path) -> None:
    space = {
        "optim.lrr": {"log_uniform": [1e-4, 1e-2]},
        "model.dropout": {"uniform": [0.5, 1.5]},
        "model.fusion": {"choice": ["mid", "middle"]},
        "model.dim": {"uniform": [32, 64]},
        "train.workers": {"choice": [1, 2]},
        "optim.warmup": {"uniform": [0.0, 0.2], "when": {"optim.schedul": "cosine"}},
        "optim.clip": {"uniform": [0.5, 1], "when": {"model.fusion": "late"}},
        "fields": {"choice": [["image", "captoin"]]},
    }
    search = parse_tree({"space": space, "metric": "colour/accuracy"}, (), "search", Search)
    told = "\n".join(check(search, recipe))
    for part in (
        "search.metric: expected a task of the recipe (color), but is `colour`",
        "search.space.optim.lrr: unknown path; did you mean `optim.lr`?",
        "search.space.model.dropout: value 1.5 is invalid: model.dropout: Input should be less than 1",
        "search.space.model.fusion: value 'middle' is invalid",
        "search.space.model.dim: value 43.84 is invalid: model.dim: Input should be a valid integer",
        "search.space.train.workers: can't be searched",
        "search.space.optim.warmup: when: `optim.schedul` is not searched",
        "search.space.optim.clip: when: `model.fusion` is never 'late'",
        "search.space.fields: unknown field `captoin`; did you mean `caption`?",
    ):
        assert part in told, (part, told)
    assert len(told.splitlines()) == 9


def test_errors_of_form_and_of_the_recipe_come_together(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path, model={"dimm": 3})
    tree["search"] = {
        "space": {
            "optim.lr": {"log_uniform": [1e-2, 1e-4]},
            "optim.clip": {"log_uniform": [0, 1]},
            "model.dim": {"integer": [1, 2], "choice": [1]},
            "model.pool": {"choices": ["max"]},
            "model.dropout": {"choice": []},
            "model.mlp_ratio": {"uniform": ["a", 2]},
        },
        "trails": 3,
        "scheduler": "none",
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(RecipeError) as caught:
        load_search(path, [])
    told = str(caught.value)
    for part in (
        "model.dimm: unknown key; did you mean `dim`?",
        "search.space.optim.lr: log_uniform: expected low below high, but the range [0.01, 0.0001] is empty",
        "search.space.optim.clip: log_uniform: expected low above 0",
        "search.space.model.dim: expected exactly one of uniform",
        "search.space.model.pool.choices: unknown key; did you mean `choice`?",
        "search.space.model.dropout.choice",
        "search.space.model.mlp_ratio.uniform.0",
        "search.trails: unknown key; did you mean `trials`?",
    ):
        assert part in told, (part, told)


def test_values_that_only_together_make_no_recipe_are_found(recipe: Recipe) -> None:
    space = {"model.dim": {"choice": [32, 48]}, "model.head_dim": {"choice": [16, 32]}}
    errors = check(parse_tree({"space": space}, (), "search", Search), recipe)
    assert len(errors) == 1
    assert "would be invalid: model: `head_dim` must divide `dim`, but 48 % 32 is not 0" in errors[0]


def test_conditions_may_not_go_round(recipe: Recipe) -> None:
    space = copy.deepcopy(SPACE)
    space["model.fusion"]["when"] = {"model.modality_dropout": 0.1}
    errors = check(parse_tree({"space": space}, (), "search", Search), recipe)
    assert sum("depend on each other" in f for f in errors) == 3


def test_population_based_training_takes_only_what_may_change_in_flight(recipe: Recipe) -> None:
    space = {
        "optim.lr": {"log_uniform": [1e-4, 1e-2]},
        "fields.image.color": {"uniform": [0.0, 0.5]},
        "tasks.color.label_smoothing": {"uniform": [0.0, 0.2]},
        "model.joint_layers": {"integer": [1, 2]},
        "fields.image.patch": {"choice": [4, 8]},
    }
    search = parse_tree({"space": space, "scheduler": "pbt"}, (), "search", Search)
    wrong = ["search.space.model.joint_layers", "search.space.fields.image.patch"]
    assert [f.partition(": ")[0] for f in check(search, recipe)] == ["search.scheduler", *wrong]
    last = recipe.model_copy(update={"train": recipe.train.model_copy(update={"model_from": "last"})})
    assert [f.partition(": ")[0] for f in check(search, last)] == wrong


def test_the_section_decides_nothing_of_a_run(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path)
    plain, searched = tmp_path / "plain.yaml", tmp_path / "searched.yaml"
    plain.write_text(yaml.safe_dump(tree))
    searched.write_text(yaml.safe_dump({**tree, "search": {"space": SPACE}}))
    assert load_recipe(plain) == load_recipe(searched)
    recipe, search = load_search(searched, ["search.trials=5", "optim.lr=0.5", "search.scheduler=median"])
    assert (search.trials, search.scheduler, recipe.optim.lr) == (5, "median", 0.5)
    assert digest(load_recipe(plain, ["optim.lr=0.5"])) == digest(recipe)
    with pytest.raises(RecipeError, match="search: required"):
        load_search(plain, [])
    whole = schema()
    assert set(Search.model_fields) == set(whole["properties"]["search"]["properties"])
    assert "Space" in whole["$defs"]
    assert whole["additionalProperties"] is False


def test_short_names_tell_paths_apart() -> None:
    paths = ["optim.lr", "model.dropout", "fields.a.word_dropout", "fields.b.word_dropout", "dropout"]
    assert list(short_names(paths).values()) == ["lr", "model.dropout", "a.word_dropout", "b.word_dropout", "dropout"]
