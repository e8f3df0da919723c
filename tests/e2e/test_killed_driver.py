"""The whole command killed in the middle, its newest checkpoint damaged, and the same command again."""

import os
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import yaml

from interlace.recipe.load import load_recipe
from interlace.store.lock import held, worker_lock
from interlace.train.checkpoint import MODEL, checkpoint_folder, newest_checkpoint
from tests.data import EmojiLike, make_rows
from tests.e2e.conftest import Command
from tests.ray.reference import read_traces, run_here

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]

STEPS = 50


def wait_for_packs(run: Path, count: int) -> None:
    """Wait until so many packs were trained on."""
    deadline = time.monotonic() + 120
    trace = run / "trace-0.jsonl"
    while not (trace.exists() and len(trace.read_text().splitlines()) >= count):
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.05)


def flip_one_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_killed_driver_goes_on_by_the_same_command(shapes: EmojiLike, tmp_path: Path, interlace: Command) -> None:
    settings = {"steps": STEPS, "precision": "fp32", "trace": True, "threads": 1, "checkpoint_every": 7}
    tree = shapes.tree(tmp_path / "out", train=settings)
    recipe_file = tmp_path / "shapes.yaml"
    recipe_file.write_text(yaml.safe_dump(tree))
    command = ["train", str(recipe_file), "--run-name", "killed"]
    run = tmp_path / "out" / "runs" / "killed"

    first = interlace(*command)
    wait_for_packs(run, 4 * 20)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    with held(run / worker_lock(0), wait_s=60):  # the worker notices a moment later
        pass
    before = newest_checkpoint(run)
    assert before.folder is not None
    assert before.state is not None
    assert 0 < before.state.step < STEPS
    flip_one_bit(before.folder / MODEL)
    after_damage = newest_checkpoint(run)
    assert after_damage.state is not None
    assert after_damage.state.step < before.state.step
    # Another may be refused beside it: the kill may fall into the writing of a newer one.
    (reason,) = (reason for reason in after_damage.refused if str(before.folder) in reason)
    assert "damaged" in reason

    second = interlace(*command)
    assert second.wait() == 0, (tmp_path / "command.log").read_text()
    log = (tmp_path / "command.log").read_text()
    assert "checkpoint refused" in log
    assert f"resumed from step-{after_damage.state.step:08d}" in log

    reference = run_here(load_recipe(recipe_file, [f"storage={tmp_path / 'reference'}"]))
    traces, again = read_traces(run)
    assert again > 0
    assert traces == reference.packs
    weights = safetensors.torch.load_file(checkpoint_folder(run, STEPS) / MODEL)
    assert all(weights[k].equal(reference.weights[k]) for k in reference.weights)
    check_mlflow(tmp_path / "out")


def check_mlflow(storage: Path) -> None:
    """One finished run, each step once, and a model that predicts from raw rows with fields missing."""
    import mlflow.pyfunc  # here: importing it warns, which at collection would be an error
    import pandas as pd
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [r.info.status for r in runs] == ["FINISHED"]
    history = client.get_metric_history(runs[0].info.run_id, "train/loss")
    assert sorted(m.step for m in history) == list(range(1, STEPS + 1))
    assert runs[0].inputs.dataset_inputs
    assert {"recipe.yaml", "evaluation"} <= {a.path for a in client.list_artifacts(runs[0].info.run_id)}
    models = client.search_logged_models([runs[0].info.experiment_id])
    assert len(models) == 1
    mlflow.set_tracking_uri(f"sqlite:///{storage}/mlflow.db")
    model = mlflow.pyfunc.load_model(f"models:/{models[0].model_id}")
    mlflow.set_tracking_uri(None)  # it stands in the environment, where the commands of other tests would find it

    raw = [{k: v for k, v in row.items() if k not in ("color", "key")} for row in make_rows(6, 99)]
    table = pd.DataFrame(raw)
    whole = model.predict(table)
    assert set(whole["color"]) <= {"red", "green", "blue", "grey"}
    assert len(whole) == 6
    without = model.predict(table.drop(columns=["caption"]))
    assert len(without) == 6
