"""Verbs handed in as jobs leave what the same commands leave on this host, in their folders and in MLflow.

Each is handed in to a head with its Jobs server and a token, and to a cluster of several nodes with labels.
"""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from interlace.recipe.start import MODEL
from tests.cluster.conftest import DATA, TRAIN, Run, pools_of_actors, pools_of_data_tasks
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


SEVERAL = ("--set", f"train.labels={TRAIN}", "--set", f"data.labels={DATA}")
"""Settings of a recipe for the cluster of several nodes."""


@pytest.fixture(params=["head", "nodes"])
def place(request: pytest.FixtureRequest) -> str:
    """Where jobs are handed in."""
    return str(request.param)


@pytest.fixture
def submit(place: str, request: pytest.FixtureRequest) -> Run:
    """Run `interlace submit ARGS` there."""
    run: Run = request.getfixturevalue("client" if place == "head" else "client_of_nodes")
    return partial(run, "submit")


@pytest.fixture
def labels(place: str) -> Sequence[str]:
    """Words of a command that send training and reading to their nodes, where nodes have labels."""
    return SEVERAL if place == "nodes" else ()


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


def test_train(
    submit: Run, labels: Sequence[str], place: str, interlace: Command, shapes: EmojiLike, tmp_path: Path
) -> None:
    recipe = tmp_path / "shapes.yaml"
    train = {"steps": 8, "eval_every": 4, "precision": "fp32", "threads": 1}
    recipe.write_text(yaml.safe_dump(shapes.tree(tmp_path / "out", train=train)))
    words = ["train", str(recipe), "--run-name", "r"]
    done = submit(*words, *labels)
    assert done.returncode == 0, done.stdout
    if place == "nodes":
        assert (pools_of_actors("RayTrainWorker"), pools_of_data_tasks()) == (["train"], {"data"})
    finish(interlace(*words, "--storage", str(tmp_path / "here")), tmp_path / "command.log")
    there, here = logged(tmp_path / "out"), logged(tmp_path / "here")
    assert there == here
    ((status, values),) = here.values()
    assert (status, len(values["train/loss"])) == ("FINISHED", 8)
    assert any(key.startswith("val/") for key in values)


def test_tune(
    submit: Run, labels: Sequence[str], place: str, interlace: Command, shapes: EmojiLike, tmp_path: Path
) -> None:
    words = ["tune", str(recipe_in(shapes, tmp_path)), "--run-name", "s", "--trials", "2", "--set", "train.steps=12"]
    done = submit(*words, *labels)
    assert done.returncode == 0, done.stdout
    assert "is best: its checkpoint" in done.stdout
    if place == "nodes":
        assert set(pools_of_actors("ImplicitFunc")) == {"train"}  # Tune's name of what holds a trial
    finish(interlace(*words, "--storage", str(tmp_path / "here")), tmp_path / "command.log")
    there, here = (results(folder / "sweeps" / "s") for folder in (tmp_path / "out", tmp_path / "here"))
    assert there == here
    assert len(here) == 2
    assert logged(tmp_path / "out") == logged(tmp_path / "here")
    assert len(logged(tmp_path / "here")) == 3


def test_trials_of_two_workers_and_the_best_trained_again(
    submit: Run, labels: Sequence[str], place: str, shapes: EmojiLike, tmp_path: Path
) -> None:
    """Packs are dealt to two workers or one: the same suggestions, steps and (in whole samples) the same accuracies."""
    recipe = recipe_in(shapes, tmp_path)
    both = ["--set", "batch.global_batch=2", "--set", "train.steps=12", "--trials", "2", "--run-name", "s", *labels]
    two = submit("tune", str(recipe), *both, "--set", "train.workers=2", "--retrain")
    assert two.returncode == 0, two.stdout
    assert "the best recipe, trained at full length" in two.stdout
    if place == "nodes":
        assert pools_of_actors("RayTrainWorker") == ["train"] * 2 * 3  # two trials, and the best again
        assert pools_of_data_tasks() == {"data"}
    one = submit("tune", str(recipe), *both, "--storage", str(tmp_path / "one"))
    assert one.returncode == 0, one.stdout
    assert "`train.workers` 2 x" in two.stdout
    found = results(tmp_path / "out" / "sweeps" / "s")
    assert found == results(tmp_path / "one" / "sweeps" / "s")
    assert {status for _, status, _ in found.values()} == {"finished"}
    assert (tmp_path / "out" / "runs" / "s-best" / "model" / MODEL).exists()
    assert len(logged(tmp_path / "out")["s-best"][1]["train/loss"]) == 12


def test_prepare(submit: Run, place: str, interlace: Command, tmp_path: Path) -> None:
    write_four_formats(tmp_path / "sources", 200, group_rows=10, num_shards=1)
    recipe = tmp_path / "records.yaml"
    recipe.write_text(yaml.safe_dump(tree(tmp_path / "sources", tmp_path / "out", sources=four_formats(10))))
    done = submit("prepare", str(recipe), *(("--set", f"labels={DATA}") if place == "nodes" else ()))
    assert done.returncode == 0, done.stdout
    if place == "nodes":
        assert pools_of_data_tasks() == {"data"}
    finish(interlace("prepare", str(recipe), "--out", str(tmp_path / "here")), tmp_path / "command.log")
    there, here = (json.loads((tmp_path / f / "prepared.json").read_text())["digest"] for f in ("out", "here"))
    assert there == here


def test_predict(submit: Run, place: str, interlace: Command, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    write(tmp_path / "new-0.parquet", sounding_rows(120, seed=5), group_rows=20)
    words = ["predict", str(model.folder), "--data", f"{tmp_path}/new-*.parquet", "--keep", "key", "--output"]
    done = submit(*words, str(tmp_path / "out"), *(("--label", "pool=data") if place == "nodes" else ()))
    assert done.returncode == 0, done.stdout
    if place == "nodes":
        assert pools_of_data_tasks() == {"data"}
    assert "120 rows in" in done.stdout
    finish(interlace(*words, str(tmp_path / "here")), tmp_path / "command.log")
    there, here = (
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / f).glob("part-*.parquet")}
        for f in ("out", "here")
    )
    assert there == here
    assert here
    gone = submit(*words, str(tmp_path / "gone"), "--data", str(tmp_path / "none-*.parquet"))
    assert gone.returncode == 2, gone.stdout
    assert "none-*.parquet" in gone.stdout
