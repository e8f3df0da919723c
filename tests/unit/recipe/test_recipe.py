"""Laws of the recipe: every error at once, nearest names, one address for a setting, stable digests."""

from pathlib import Path

import pytest
import yaml

from interlace.contract.errors import RecipeError
from interlace.recipe.given import changes_of
from interlace.recipe.identity import digest, flatten, to_yaml
from interlace.recipe.load import load_recipe, parse_recipe
from interlace.store.places import child_of, runs_of
from tests.data import EmojiLike


@pytest.fixture
def recipe_file(shapes: EmojiLike, tmp_path: Path) -> Path:
    path = tmp_path / "shapes.yaml"
    path.write_text(yaml.safe_dump(shapes.tree(tmp_path / "out")))
    return path


def errors(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_all_errors_are_reported_together_with_the_nearest_names(recipe_file: Path) -> None:
    text = errors(
        recipe_file,
        "modle.dim=3",
        "fields.image.pach=4",
        "optim.lr=fast",
        "tasks.color.colunm=x",
        "batch.token_budget=2",
        "train.epochs",
    )
    for part in (
        "6 errors",
        "modle: unknown key; did you mean `model`?",
        "fields.image.pach: unknown key; did you mean `patch`?",
        "optim.lr: Input should be a valid number",
        "tasks.color.colunm: unknown key; did you mean `column`?",
        "batch.token_budget: Input should be greater than or equal to 8, but is 2",
        "--set train.epochs: expected dotted.path=value",
    ):
        assert part in text, text


def test_settings_that_contradict_each_other_say_which(recipe_file: Path) -> None:
    assert "expected either `epochs` or `steps`" in errors(recipe_file, "train.epochs=2")
    assert "4 % 3 is not 0" in errors(recipe_file, "train.workers=3")
    assert "32 % 24 is not 0" in errors(recipe_file, "model.head_dim=24")
    assert "expected one of `numbers`, `categories` and `dates`" in errors(recipe_file, "fields.size.categories=[a]")


def test_a_setting_that_counts_evaluations_needs_some(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path, train={"patience": 3})
    assert parse_recipe(tree).train.patience == 3
    del tree["data"]["validation"]
    with pytest.raises(RecipeError, match=r"`train.patience` counts evaluations, but `data.validation` is not given"):
        parse_recipe(tree)


def test_settings_that_a_fusion_does_not_read_are_refused(recipe_file: Path) -> None:
    assert "`bottleneck_tokens` has no effect with `fusion: mid`" in errors(recipe_file, "model.bottleneck_tokens=8")
    assert "`query` has no effect with `fusion: early`" in errors(
        recipe_file, "model.fusion=early", "model.query=image"
    )
    text = errors(recipe_file, "model.fusion=cross_attention", "model.query=imag")
    assert "`model.query` must be one of the fields (caption, image, size), but is 'imag'" in text
    recipe = load_recipe(recipe_file, ["model.fusion=cross_attention", "model.query=image"])
    assert recipe.model.query == "image"


def test_decision_fusion_needs_tasks_that_decide_by_field(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = "model.fusion=decision"
    assert load_recipe(recipe_file, [decision]).model.fusion == "decision"
    assert "tasks.color.mixup` needs a head on the fused state: `decision` has none" in errors(
        recipe_file, decision, "tasks.color.mixup=0.2"
    )
    assert "tasks.color.field_vote` needs" in errors(recipe_file, decision, "tasks.color.field_vote=1")
    monkeypatch.setattr("interlace.recipe.tasks.ClassificationTask.decides", False)
    assert "`tasks.color` (classification) makes none; `weighted_sum` gives" in errors(recipe_file, decision)


def test_overrides_address_what_flatten_names(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["optim.lr=3e-4", "fields.image.max_size=24", "data.test={paths: [x]}"])
    flat = flatten(recipe)
    assert flat["optim.lr"] == 3e-4
    assert flat["fields.image.max_size"] == 24
    assert flat["data.test.paths"] == ["x"]


def test_yaml_round_trip_keeps_recipe_and_digest(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    again = parse_recipe(yaml.safe_load(to_yaml(recipe)))
    assert again == recipe
    assert digest(again) == digest(recipe)


@pytest.mark.parametrize(
    "text", ["a #b", "2024", "yes", "1e3", "~x", "2024-01-01", "a: b", "- a", "null", "{a}", "'q'"]
)
def test_a_flag_is_taken_literally(text: str, recipe_file: Path) -> None:
    """Whatever YAML would make of it; of a path as of a name."""
    assert load_recipe(recipe_file, changes_of([], {"storage": text})).storage == text
    assert load_recipe(recipe_file, changes_of([], {"storage": Path(text)})).storage == text


@pytest.mark.parametrize("text", ["a #b", "2024", "yes", "1e3", "2024-01-01", "~x", "0x10", "a b"])
def test_a_changed_setting_that_is_a_text_stays_one(text: str, recipe_file: Path) -> None:
    changes = [f"storage={text}", f"fields.image.column={text}", f"data.root={text}", "optim.lr=1e-3"]
    recipe = load_recipe(recipe_file, changes)
    assert recipe.storage == recipe.fields["image"].columns[0] == recipe.data.root == text
    assert recipe.optim.lr == 1e-3
    assert load_recipe(recipe_file, ["storage='a #b' # quoted"]).storage == "a #b"
    assert "train.steps" in errors(recipe_file, "storage=2024", "train.steps=many")
    assert "storage" in errors(recipe_file, "storage=[1]")
    assert "storage" in errors(recipe_file, "storage=null")


@pytest.mark.parametrize("given", ["s3://bucket/x", "gs://b", "file:///x", Path("s3://bucket/x"), "a%20b"])
def test_storage_that_is_no_folder_is_refused(given: str | Path, recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="storage: expected a folder"):
        load_recipe(recipe_file, changes_of([], {"storage": given}))
    with pytest.raises(RecipeError, match="storage: expected a folder"):
        runs_of(given)
    assert runs_of("a:b/50%/c").name == "runs"


@pytest.mark.parametrize("name", ["../../outside", "/abs", "a/b", "", ".", "..", ".hidden", "a b", "a\n"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="run name: expected letters"):
        child_of(tmp_path, name)
    assert child_of(tmp_path, "run-1.2_b") == tmp_path / "run-1.2_b"


def test_digest_is_of_what_decides_the_result_not_of_its_place(recipe_file: Path) -> None:
    base = digest(load_recipe(recipe_file))
    assert digest(load_recipe(recipe_file, ["storage=elsewhere", "train.workers=2", "tracking.uri=http://x"])) == base
    assert digest(load_recipe(recipe_file, ["train.compile=true"])) == base
    sharded = ["train.workers=2", "batch.global_batch=2", "train.parallel=fsdp"]
    two = digest(load_recipe(recipe_file, sharded))
    assert digest(load_recipe(recipe_file, [*sharded, "train.shard_over=1"])) == two
    for change in ("optim.lr=2e-3", "seed=1", "fields.image.flip=true", "data.window_packs=2"):
        assert digest(load_recipe(recipe_file, [change])) != base, change


def test_shards_divide_the_workers_and_need_something_sharded(recipe_file: Path) -> None:
    sharded = ["train.parallel=fsdp", "train.shard_over=2", "batch.global_batch=12"]
    assert load_recipe(recipe_file, [*sharded, "train.workers=4"]).num_shards == 2
    elastic = load_recipe(recipe_file, [*sharded, "train.workers={min: 1, max: 6}"])
    assert elastic.world_sizes == (2, 4, 6)
    assert load_recipe(recipe_file, ["train.parallel=fsdp", *sharded[2:], "train.workers=4"]).num_shards == 4
    assert load_recipe(recipe_file, [*sharded[2:], "train.workers=4"]).num_shards == 1
    assert "`train.shard_over` must divide `train.workers`, but 2 divides none of the numbers 3 to 3" in errors(
        recipe_file, *sharded, "train.workers=3"
    )
    assert "`shard_over` needs `parallel: fsdp`, but it is ddp" in errors(recipe_file, "train.shard_over=2")


def test_files_that_are_no_recipe_say_so(tmp_path: Path) -> None:
    assert "No such file" in errors(tmp_path / "none.yaml")
    for text, part in (("a: [", "expected YAML"), ("- 1", "expected a mapping"), ("name: a\nname: b", "given twice")):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        assert part in errors(path)
