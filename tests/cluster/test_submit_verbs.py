"""Verbs handed in as jobs leave what the same commands leave on this host, in their folders and in MLflow."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.origin import MODEL
from tests.cluster.conftest import Run
from tests.data import EmojiLike
from tests.e2e.conftest import Command
from tests.e2e.test_killed_tune import recipe_in, results
from tests.joined import four_formats, tree, write_four_formats
from tests.served import make_model, sounding_rows, write

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("default"),
]


def finish(started: subprocess.Popen[str], log: Path) -> None:
    assert started.wait() == 0, log.read_text()


def logged(storage: Path) -> dict[str, Any]:
    """What MLflow holds of each run, by name: its end, and values by metric and step; clocks left out."""
    from mlflow import MlflowClient  # here: importing it warns, which at collection would be an error

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    found = {}
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        values = {
            key: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
            if key.startswith(("train/", "val/"))
        }
        assert run.info.run_name not in found
        found[run.info.run_name] = (run.info.status, values)
    return found


def test_train(client: Run, interlace: Command, shapes: EmojiLike, tmp_path: Path) -> None:
    recipe = tmp_path / "shapes.yaml"
    train = {"steps": 8, "eval_every": 4, "precision": "fp32", "threads": 1}
    recipe.write_text(yaml.safe_dump(shapes.tree(tmp_path / "out", train=train)))
    words = ["train", str(recipe), "--run-name", "r"]
    done = client("submit", *words)
    assert done.returncode == 0, done.stdout
    finish(interlace(*words, "--storage", str(tmp_path / "here")), tmp_path / "command.log")
    there, here = logged(tmp_path / "out"), logged(tmp_path / "here")
    assert there == here
    ((status, values),) = here.values()
    assert (status, len(values["train/loss"])) == ("FINISHED", 8)
    assert any(key.startswith("val/") for key in values)


def test_tune(client: Run, interlace: Command, shapes: EmojiLike, tmp_path: Path) -> None:
    words = ["tune", str(recipe_in(shapes, tmp_path)), "--run-name", "s", "--trials", "2", "--set", "train.steps=12"]
    done = client("submit", *words)
    assert done.returncode == 0, done.stdout
    assert "is best: its checkpoint" in done.stdout
    finish(interlace(*words, "--storage", str(tmp_path / "here")), tmp_path / "command.log")
    there, here = (results(folder / "sweeps" / "s") for folder in (tmp_path / "out", tmp_path / "here"))
    assert there == here
    assert len(here) == 2
    assert logged(tmp_path / "out") == logged(tmp_path / "here")
    assert len(logged(tmp_path / "here")) == 3


def test_trials_of_two_workers_and_the_best_trained_again(client: Run, shapes: EmojiLike, tmp_path: Path) -> None:
    """Packs are dealt to two workers or one: the same suggestions, steps and (in whole samples) the same accuracies."""
    recipe = recipe_in(shapes, tmp_path)
    both = ["--set", "batch.global_batch=2", "--set", "train.steps=12", "--trials", "2", "--run-name", "s"]
    two = client("submit", "tune", str(recipe), *both, "--set", "train.workers=2", "--retrain")
    assert two.returncode == 0, two.stdout
    assert "the best recipe, trained at full length" in two.stdout
    one = client("submit", "tune", str(recipe), *both, "--storage", str(tmp_path / "one"))
    assert one.returncode == 0, one.stdout
    assert "`train.workers` 2 x" in two.stdout
    found = results(tmp_path / "out" / "sweeps" / "s")
    assert found == results(tmp_path / "one" / "sweeps" / "s")
    assert {status for _, status, _ in found.values()} == {"finished"}
    assert (tmp_path / "out" / "runs" / "s-best" / "model" / MODEL).exists()
    assert len(logged(tmp_path / "out")["s-best"][1]["train/loss"]) == 12


def test_prepare(client: Run, interlace: Command, tmp_path: Path) -> None:
    write_four_formats(tmp_path / "sources", 200, group_rows=10, num_shards=1)
    recipe = tmp_path / "records.yaml"
    recipe.write_text(yaml.safe_dump(tree(tmp_path / "sources", tmp_path / "out", sources=four_formats(10))))
    done = client("submit", "prepare", str(recipe))
    assert done.returncode == 0, done.stdout
    finish(interlace("prepare", str(recipe), "--out", str(tmp_path / "here")), tmp_path / "command.log")
    there, here = (json.loads((tmp_path / f / "prepared.json").read_text())["digest"] for f in ("out", "here"))
    assert there == here


def test_predict(client: Run, interlace: Command, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    write(tmp_path / "new-0.parquet", sounding_rows(120, seed=5), group_rows=20)
    words = ["predict", str(model.folder), "--data", f"{tmp_path}/new-*.parquet", "--keep", "key", "--output"]
    done = client("submit", *words, str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout
    assert "120 rows in" in done.stdout
    finish(interlace(*words, str(tmp_path / "here")), tmp_path / "command.log")
    there, here = (
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / f).glob("part-*.parquet")}
        for f in ("out", "here")
    )
    assert there == here
    assert here
    gone = client("submit", *words, str(tmp_path / "gone"), "--data", str(tmp_path / "none-*.parquet"))
    assert gone.returncode == 2, gone.stdout
    assert "none-*.parquet" in gone.stdout
