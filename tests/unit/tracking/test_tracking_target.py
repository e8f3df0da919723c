"""Where a run is recorded and under which names: URIs, keys, passwords, tags of circumstances."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from interlace.contract.errors import RecipeError
from interlace.recipe.identity import digest
from interlace.recipe.load import parse_recipe
from interlace.tracking import Target, context_tags, make_target, resolve_uri
from interlace.tracking.store import clean_key, one_line


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:////s/mlflow.db"),
        ("sqlite:///a/b.db", "sqlite:////s/a/b.db"),
        ("sqlite:////x/b.db", "sqlite:////x/b.db"),
        ("http://host:5000/", "http://host:5000"),
        ("https://host/mlflow", "https://host/mlflow"),
        ("postgresql://u:p@host/db", "postgresql://u:p@host/db"),
    ],
)
def test_a_tracking_uri_is_absolute(uri: str | None, expected: str) -> None:
    assert resolve_uri(uri, Path("/s")) == expected


@pytest.mark.parametrize(
    "uri", ["mlruns", "./mlruns", "file:///x", "", "sqlite://", "http://", "databases://x", "host:5000"]
)
def test_other_uris_are_refused_with_what_was_expected(uri: str) -> None:
    with pytest.raises(RecipeError, match=r"tracking.uri: expected http\(s\)://host:port, sqlite:///file"):
        resolve_uri(uri, Path("/s"))


def test_a_folder_is_a_uri_of_its_own_letters_wherever_they_mean_something_else() -> None:
    from sqlalchemy import make_url

    for name in ("plain", "a b", "50%", "%41", "a?b=c", "a#b", "äß", "a+b&c=d", "a@b:c"):
        assert make_url(resolve_uri(None, Path("/s") / name)).database == f"/s/{name}/mlflow.db"
        assert make_url(resolve_uri("sqlite:///x.db", Path("/s") / name)).database == f"/s/{name}/x.db"
    assert resolve_uri(None, Path("/s/a b")) == "sqlite:////s/a b/mlflow.db"


def test_what_is_not_given_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(uri: str | None = None, experiment: str | None = None, parent_key: str | None = None) -> Target:
        return make_target(
            uri=uri, storage=Path("/s"), experiment=experiment, run_name="r", run_key="k", parent_key=parent_key
        )

    plain = made()
    assert (plain.uri, plain.experiment) == ("sqlite:////s/mlflow.db", "interlace")
    assert plain.experiment_id is plain.run_id is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    there = made()
    assert (there.uri, there.experiment_id, there.run_id) == ("http://there:5000", "7", "f" * 32)
    assert made(parent_key="p").run_id is None
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert (made().experiment, made().experiment_id) == ("theirs", None)
    mine = made("http://here:5000", "mine")
    assert (mine.uri, mine.experiment, mine.experiment_id) == ("http://here:5000", "mine", None)
    for name in ("TRACKING_URI", "EXPERIMENT_ID", "EXPERIMENT_NAME", "RUN_ID"):
        monkeypatch.setenv(f"MLFLOW_{name}", "")
    assert dataclasses.replace(made(), created_ms=0) == dataclasses.replace(plain, created_ms=0)


def test_a_password_is_neither_taken_nor_repeated() -> None:
    with pytest.raises(RecipeError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        resolve_uri("http://me:secret@host:5000", Path("/s"))
    assert "secret" not in str(caught.value)
    assert "secret" not in one_line(OSError("no route to postgresql://me:secret@host/db"))


def test_the_storage_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path.resolve()}/runs/mlflow.db"


@pytest.mark.parametrize("key", ["a/b", "odd*key/../x", "../x", "", ".", "/a//b/", "中文 %", "x" * 400, "a\nb"])
def test_every_key_becomes_one_that_mlflow_takes(key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(clean_key(key))
    assert clean_key("train/loss") == "train/loss"


def test_importing_tracking_imports_no_mlflow() -> None:
    code = "import sys, interlace.tracking; assert not {'mlflow', 'pandas', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_context_tells_digests_versions_and_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {
        "name": "x",
        "data": {"train": {"paths": ["a"]}},
        "fields": {
            "image": {"modality": "image", "column": "png"},
            "name": {"modality": "text", "column": "name"},
        },
        "tasks": {"group": {"task": "classification", "column": "group"}},
        "train": {"steps": 1},
    }
    recipe = parse_recipe(tree)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    tags = context_tags(recipe, data_digest="abc", world_size=2)
    assert "mlflow.source.git.commit" not in tags
    assert tags["recipe_digest"] == digest(recipe)
    assert (tags["data_digest"], tags["world_size"], tags["fields"]) == ("abc", "2", "image,name")
    assert (tags["fusion"], tags["precision"]) == ("mid", "bf16")
    import mlflow

    assert tags["version.mlflow"] == mlflow.__version__
    assert all(isinstance(value, str) and value for value in tags.values())

    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    clean = context_tags(recipe, data_digest="abc", world_size=2)
    (tmp_path / "new").write_text("x")
    dirty = context_tags(recipe, data_digest="abc", world_size=2)
    assert clean["mlflow.source.git.commit"] == dirty["mlflow.source.git.commit"] == head
    assert (clean["git_dirty"], dirty["git_dirty"]) == ("false", "true")
