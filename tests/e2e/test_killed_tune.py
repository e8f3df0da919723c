"""The command `tune` ended in the middle, and the same command again: the same trials with the same results."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from interlace.store.lock import held
from tests.data import EmojiLike
from tests.e2e.conftest import Command

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
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


def wait_for(sweep: Path, number: int, wait_s: float = 400) -> None:
    deadline = time.monotonic() + wait_s
    while ended(sweep) < number:
        assert time.monotonic() < deadline, f"{ended(sweep)} trials came to their end"
        time.sleep(0.05)


def recipe_in(shapes: EmojiLike, folder: Path, **search: Any) -> Path:
    """A recipe with a search of five trials that takes half a minute."""
    train = {"steps": STEPS, "eval_every": 6, "precision": "fp32", "threads": 1, "checkpoint_every": 6}
    tree = shapes.tree(folder / "out", train=train | ({"model_from": "last"} if search else {}))
    space = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}
    tree["search"] = {"space": space, "trials": TRIALS, "scheduler": "none", **search}
    recipe = folder / "shapes.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    return recipe


def test_a_killed_search_goes_on_by_the_same_command(shapes: EmojiLike, tmp_path: Path, interlace: Command) -> None:
    command = ["tune", str(recipe_in(shapes, tmp_path)), "--run-name", "s"]
    sweep = tmp_path / "out" / "sweeps" / "s"
    first = interlace(*command)
    wait_for(sweep, 1)
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
    compare(tmp_path, command, interlace)


def test_a_search_that_was_stopped_goes_on_by_the_same_command(
    shapes: EmojiLike, tmp_path: Path, interlace: Command
) -> None:
    command = ["tune", str(recipe_in(shapes, tmp_path)), "--run-name", "s"]
    sweep, log = tmp_path / "out" / "sweeps" / "s", tmp_path / "command.log"
    first = interlace(*command)
    wait_for(sweep, 1)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does at Ctrl-C: to all processes
    assert first.wait() == 130, log.read_text()
    assert ended(sweep) < TRIALS
    assert "is best: its checkpoint" in log.read_text()
    assert (sweep / "report" / "best.yaml").exists()
    assert interlace(*command, "--time-s", "2").wait() == 0, log.read_text()
    assert "the time is over" in log.read_text()
    assert ended(sweep) < TRIALS
    assert interlace(*command).wait() == 0, log.read_text()
    compare(tmp_path, command, interlace)


def test_a_killed_population_goes_on_by_the_same_command(shapes: EmojiLike, tmp_path: Path, interlace: Command) -> None:
    command = ["tune", str(recipe_in(shapes, tmp_path, scheduler="pbt", first_rung=0.2)), "--run-name", "s"]
    sweep = tmp_path / "out" / "sweeps" / "s"
    first = interlace(*command)
    deadline = time.monotonic() + 400
    while not (sweep / "exchanges" / "002.json").exists():
        assert time.monotonic() < deadline, (tmp_path / "command.log").read_text()
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert interlace(*command).wait() == 0, (tmp_path / "command.log").read_text()
    compare(tmp_path, command, interlace)
    made = {p.name: p.read_text() for p in (sweep / "exchanges").iterdir()}
    again = tmp_path / "undisturbed" / "sweeps" / "s" / "exchanges"
    assert made == {p.name: p.read_text() for p in again.iterdir()}
    assert len(made) == 4


def test_a_search_survives_the_loss_of_a_node(shapes: EmojiLike, tmp_path: Path, interlace: Command) -> None:
    recipe = recipe_in(shapes, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.lost_node", str(recipe)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lost = re.search(r"node lost in the middle of trial (\d+)", done.stdout)
    assert lost is not None, done.stdout
    events = (tmp_path / "out" / "sweeps" / "s" / "trials" / lost[1] / "events.jsonl").read_text()
    assert "resumed from step-" in events
    compare(tmp_path, ["tune", str(recipe), "--run-name", "s"], interlace)


def compare(folder: Path, command: list[str], interlace: Command) -> None:
    """What was ended in the middle is as an undisturbed search is."""
    assert interlace(*command, "--storage", str(folder / "undisturbed")).wait() == 0
    found = results(folder / "out" / "sweeps" / "s")
    assert found == results(folder / "undisturbed" / "sweeps" / "s")
    assert len(found) == TRIALS
    check_mlflow(folder / "out")


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
