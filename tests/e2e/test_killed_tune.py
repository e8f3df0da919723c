"""The whole command `tune` killed in the middle, and the same command again: the same trials with the same results."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.lock import held
from tests.data import EmojiLike
from tests.e2e.conftest import Command

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),
]

TRIALS, STEPS = 5, 60


def results(sweep: Path) -> dict[str, Any]:
    """What was suggested to each trial, how it ended, and its evaluations."""
    found = {}
    for trial in sorted((sweep / "trials").iterdir()):
        lines = [json.loads(x) for x in (trial / "metrics.jsonl").read_text().splitlines()]
        values = [(x["step"], x["m"]["val/color/accuracy"]) for x in lines if "val/color/accuracy" in x["m"]]
        assert len(values) == len(dict(values)), "an evaluation was journaled twice"
        suggested = json.loads((trial / "trial.json").read_text())["overrides"]
        found[trial.name] = (suggested, json.loads((trial / "result.json").read_text())["status"], values)
    return found


def ended(sweep: Path) -> int:
    return len(list((sweep / "trials").glob("*/result.json")))


def test_a_killed_search_goes_on_by_the_same_command(shapes: EmojiLike, tmp_path: Path, interlace: Command) -> None:
    train = {"steps": STEPS, "eval_every": 6, "precision": "fp32", "threads": 1, "checkpoint_every": 6}
    tree = shapes.tree(tmp_path / "out", train=train)
    tree["search"] = {"space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}, "trials": TRIALS, "scheduler": "none"}
    recipe = tmp_path / "shapes.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    command = ["tune", str(recipe), "--run-name", "s"]
    sweep = tmp_path / "out" / "sweeps" / "s"

    first = interlace(*command)
    deadline = time.monotonic() + 200
    while not ended(sweep) >= 1:
        assert time.monotonic() < deadline, "no trial came to its end"
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    for trial in (sweep / "trials").glob("*/worker-0.lock"):
        with held(trial, wait_s=60):  # trials notice a moment later
            pass
    kept = {p: p.stat().st_mtime_ns for p in (sweep / "trials").glob("*/result.json")}
    assert 1 <= len(kept) < TRIALS
    suggested = {p: p.read_text() for p in (sweep / "trials").glob("*/trial.json")}

    assert interlace(*command).wait() == 0, (tmp_path / "command.log").read_text()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert {p: p.read_text() for p in suggested} == suggested
    assert "(goes on)" in (tmp_path / "command.log").read_text()

    assert interlace(*command, "--storage", str(tmp_path / "undisturbed")).wait() == 0
    assert results(sweep) == results(tmp_path / "undisturbed" / "sweeps" / "s")
    assert len(results(sweep)) == TRIALS
    check_mlflow(tmp_path / "out")


def check_mlflow(storage: Path) -> None:
    """One parent with a child a trial, all at their end, each point once."""
    from mlflow import MlflowClient  # here: importing it warns, which at collection would be an error

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(runs) == TRIALS + 1
    assert sorted(int(r.data.params["trial"]) for r in children) == list(range(TRIALS))
    assert {r.info.status for r in runs} == {"FINISHED"}
    for child in children:
        steps = [p.step for p in client.get_metric_history(child.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(1, STEPS + 1))
