"""Commands in a folder with a `pipeline.py`, a `jobs/` and a `cluster.py` of the user's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import EmojiLike, make_rows
from tests.e2e.conftest import Command
from tests.ownfolder import NAMES, own_folder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]

SEARCH = {"space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}, "trials": 2, "scheduler": "none"}

PREDICT = """
import json, sys
import mlflow, pandas
from mlflow import MlflowClient
mlflow.set_tracking_uri("sqlite:///out/mlflow.db")
client = MlflowClient()
(model,) = client.search_logged_models([e.experiment_id for e in client.search_experiments()])
found = mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict(pandas.DataFrame(json.load(sys.stdin)))
sys.stdout.write(json.dumps(list(found["color"])))
"""


@pytest.mark.slow
def test_a_run_and_its_logged_model_and_a_search_need_no_names_of_the_users(
    shapes: EmojiLike, tmp_path: Path, interlace: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, log = own_folder(tmp_path / "mine", shapes, search=SEARCH), tmp_path / "command.log"
    monkeypatch.chdir(folder)
    assert interlace("train", "shapes.yaml", "--run-name", "r").wait() == 0, log.read_text()
    assert "step 8/8" in log.read_text()
    assert (folder / "out" / "runs" / "r" / "model").is_dir()

    rows = [{"caption": row["caption"], "width": row["width"], "height": row["height"]} for row in make_rows(5, 3)]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT], input=json.dumps(rows), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 5
    assert set(json.loads(done.stdout)) <= {"red", "green", "blue", "grey"}

    assert interlace("tune", "shapes.yaml", "--run-name", "s").wait() == 0, log.read_text()
    results = sorted((folder / "out" / "sweeps" / "s" / "trials").glob("*/result.json"))
    assert [json.loads(path.read_text())["status"] for path in results] == ["finished"] * 2


@pytest.mark.parametrize("name", NAMES)
def test_importing_a_module_of_the_users_would_have_been_seen(shapes: EmojiLike, tmp_path: Path, name: str) -> None:
    folder = own_folder(tmp_path / "mine", shapes)
    program = f"import {name.removesuffix('.py').removesuffix('/__init__')}"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert "the library imported a module of the user" in done.stderr
