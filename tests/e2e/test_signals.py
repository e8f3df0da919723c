"""What Ctrl-C and SIGTERM do to `interlace train`, from the start of Ray on: a word, a code, and nothing lost."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data import EmojiLike
from tests.e2e.conftest import Command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
STEPS = 4000


def recipe_in(shapes: EmojiLike, folder: Path) -> Path:
    train = {"steps": STEPS, "eval_every": STEPS, "precision": "fp32", "threads": 1}
    path = folder / "shapes.yaml"
    path.write_text(yaml.safe_dump(shapes.tree(folder / "out", train=train)))
    return path


def wait_until(
    condition: Callable[[], Any], process: "subprocess.Popen[str]", log: Path, wait_s: float = 200.0
) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def send(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """As a terminal does at Ctrl-C, to all processes; as a supervisor does otherwise, to the one that it started."""
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)


def status_of(storage: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [run.info.status for run in runs]


@pytest.mark.parametrize("number", list(CODES))
def test_a_signal_in_training_writes_a_checkpoint_and_the_same_command_goes_on(
    number: signal.Signals, shapes: EmojiLike, tmp_path: Path, interlace: Command
) -> None:
    command = ["train", str(recipe_in(shapes, tmp_path)), "--run-name", "r"]
    run, log = tmp_path / "out" / "runs" / "r", tmp_path / "command.log"
    first = interlace(*command)
    journal = run / "metrics.jsonl"
    wait_until(lambda: journal.exists() and journal.read_text().count("train/loss") > 3, first, log)
    send(first, number)
    assert first.wait() == CODES[number], log.read_text()
    (kept,) = (run / "checkpoints").glob("step-*")
    step = json.loads((kept / "state.json").read_text())["step"]
    assert f"stopped after step {step} of {STEPS}; the same command goes on from there" in log.read_text()
    assert status_of(tmp_path / "out") == ["KILLED"]
    again = interlace(*command)
    wait_until(lambda: f"resumed from {kept.name}" in log.read_text(), again, log)
    send(again, signal.SIGTERM)
    assert again.wait() == 75, log.read_text()
    steps = [line["step"] for line in map(json.loads, journal.read_text().splitlines()) if "train/loss" in line["m"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > step


@pytest.mark.parametrize("number", list(CODES))
@pytest.mark.parametrize("after_s", [0.5, 2.0, 4.0, 7.0])
def test_a_signal_before_the_run_is_open_ends_the_command_with_its_code_and_a_word(
    after_s: float, number: signal.Signals, shapes: EmojiLike, tmp_path: Path, interlace: Command
) -> None:
    first = interlace("train", str(recipe_in(shapes, tmp_path)), "--run-name", "r")
    log = tmp_path / "command.log"
    wait_until(lambda: is_python(first.pid), first, log)
    time.sleep(after_s)
    send(first, number)
    code = first.wait()
    assert code == CODES[number], (code, log.read_text())
    assert "the same command goes on" in log.read_text()


def is_python(pid: int) -> bool:
    """Whether the process has set its handlers: nothing can be said before."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught & 1 << (signal.SIGTERM - 1))
