"""Jobs handed in to a real head with a token: logs, exit codes, results, stopping, and what is open to whom."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests
import safetensors.torch
import yaml

from interlace.jobs.console import INTERRUPTED
from interlace.recipe.load import load_recipe
from interlace.train.checkpoint import MODEL, checkpoint_folder
from tests.cluster.conftest import Run
from tests.cluster.test_submit_verbs import logged
from tests.data import EmojiLike
from tests.headnode import Head
from tests.laws.code import ROOT
from tests.ray.reference import read_traces, run_here

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]

SETTINGS = {"precision": "fp32", "trace": True, "threads": 1}
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def recipe(shapes: EmojiLike, tmp_path: Path, steps: int) -> Path:
    file = tmp_path / "shapes.yaml"
    file.write_text(yaml.safe_dump(shapes.tree(tmp_path / "out", train={**SETTINGS, "steps": steps})))
    return file


def outer_listeners(pid: int) -> set[tuple[str, str]]:
    """Processes of a tree that listen beyond loopback, with the address."""
    process, found = psutil.Process(pid), set()
    for member in [process, *process.children(recursive=True)]:
        try:
            listening = [c.laddr.ip for c in member.net_connections() if c.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
        found |= {(member.name(), ip) for ip in listening if ip not in LOOPBACK}
    return found


def test_the_jobs_api_wants_its_token_and_a_failing_job_gives_its_code(
    head_node: Head, client: Run, shapes: EmojiLike, tmp_path: Path
) -> None:
    without = [requests.get(f"{head_node.address}/api/{path}", timeout=30) for path in ("jobs/", "version", "v0/nodes")]
    assert [answer.status_code for answer in without] == [401, 401, 401]
    asked = requests.post(f"{head_node.address}/api/jobs/", json={"entrypoint": "true"}, timeout=30)
    assert asked.status_code == 401
    refused = client("list", RAY_AUTH_TOKEN="")
    assert (refused.returncode, "wants a token" in refused.stdout) == (2, True)

    file = recipe(shapes, tmp_path, 8)
    failed = client("submit", "index", str(file), "--set", "data.train.paths=[gone*.parquet]", "--id", "mine")
    assert failed.returncode == 2, failed.stdout
    assert "error: expected at least one shard" in failed.stdout  # the job's own words, streamed
    assert f"{head_node.address}/#/jobs/mine" in failed.stdout
    doubled = client("submit", "index", str(file), "--id", "mine")
    assert doubled.returncode == 2
    assert "knows a job `mine` already" in doubled.stdout
    assert client("status", "mine").returncode == 2
    known = requests.get(
        f"{head_node.address}/api/jobs/mine", headers={"Authorization": f"Bearer {head_node.token}"}, timeout=30
    )
    assert known.json()["driver_exit_code"] == 2
    assert head_node.token not in known.text + failed.stdout + doubled.stdout
    assert outer_listeners(head_node.pid) == set()


@pytest.mark.slow
def test_a_submitted_run_equals_the_local_one(client: Run, shapes: EmojiLike, tmp_path: Path) -> None:
    file = recipe(shapes, tmp_path, 8)
    done = client("submit", "train", str(file), "--run-name", "there")
    assert done.returncode == 0, done.stdout
    assert "step 8/8" in done.stdout
    assert done.stdout.count("MLflow: ") == 2  # the job's line, and the link at the end
    run = tmp_path / "out" / "runs" / "there"
    reference = run_here(load_recipe(file, [f"storage={tmp_path / 'reference'}"]))
    traces, again = read_traces(run)
    assert (again, traces) == (0, reference.packs)
    weights = safetensors.torch.load_file(checkpoint_folder(run, 8) / MODEL)
    assert all(weights[k].equal(reference.weights[k]) for k in reference.weights)
    listed = client("list")
    assert "train-there" in listed.stdout
    assert "SUCCEEDED" in listed.stdout
    assert "steps of" in client("logs", "train-there").stdout


@pytest.mark.slow
def test_a_stopped_run_writes_a_checkpoint_and_the_same_submission_goes_on(
    head_node: Head, client: Run, shapes: EmojiLike, tmp_path: Path
) -> None:
    steps = 400
    file = recipe(shapes, tmp_path, steps)
    words = ["submit", "train", str(file), "--run-name", "stopped", "--set", "train.checkpoint_every=1000"]
    assert client(*words, "--detach").returncode == 0
    doubled = client(*words)
    assert (doubled.returncode, "runs already as `train-stopped`" in doubled.stdout) == (2, True)
    run = tmp_path / "out" / "runs" / "stopped"
    deadline = time.monotonic() + 240
    while not (run / "trace-0.jsonl").exists() or not (run / "trace-0.jsonl").read_text():
        assert time.monotonic() < deadline, client("logs", "train-stopped").stdout
        time.sleep(0.2)
    left_alone(head_node, tmp_path, "train-stopped")
    stopped = client("stop", "train-stopped")
    assert stopped.returncode == 0
    assert re.search(r"checkpoint after step \d+: asked to stop", stopped.stdout)
    assert client("logs", "-f", "train-stopped").returncode == 75
    events = [json.loads(line)["text"] for line in (run / "events.jsonl").read_text().splitlines()]
    step = next(int(e.split()[3].rstrip(":")) for e in events if e.endswith(": asked to stop"))
    assert 0 < step < steps
    again = client(*words)
    assert again.returncode == 0, again.stdout
    assert "job train-stopped-2" in again.stdout
    assert f"resumed from step-{step:08d}" in again.stdout
    traces, repeated = read_traces(run)
    assert repeated == 0  # no step was lost, so none is computed twice
    reference = run_here(load_recipe(file, [f"storage={tmp_path / 'reference'}"]))
    assert traces == reference.packs


def left_alone(head_node: Head, home: Path, job: str) -> None:
    """Follow a job and end that by Ctrl-C: it says that the job goes on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a background job ignore it
    watching = subprocess.Popen(
        [sys.executable, "-m", "interlace.jobs", "logs", "-f", job, "--address", head_node.address],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=head_node.environment(home),
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    assert watching.stdout is not None
    printed = watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    printed += watching.communicate(timeout=60)[0]
    assert watching.returncode == INTERRUPTED
    assert f"the job goes on: `interlace logs -f {job}` follows it" in printed


@pytest.mark.slow
def test_a_job_whose_driver_was_killed_goes_on_by_the_same_submission(
    client: Run, shapes: EmojiLike, tmp_path: Path
) -> None:
    steps = 200
    file = recipe(shapes, tmp_path, steps)
    words = ["submit", "train", str(file), "--run-name", "killed", "--set", "train.checkpoint_every=10"]
    assert client(*words, "--detach").returncode == 0
    run = tmp_path / "out" / "runs" / "killed"
    deadline = time.monotonic() + 240
    while not list((run / "checkpoints").glob("step-*/hashes.json")):
        assert time.monotonic() < deadline, client("logs", "train-killed").stdout
        time.sleep(0.1)
    drivers = [p for p in psutil.process_iter() if drives(p, "killed")]
    for driver in drivers:
        driver.kill()
    assert len(drivers) >= 1
    assert client("logs", "-f", "train-killed").returncode not in (0, 75)
    again = client(*words)
    assert again.returncode == 0, again.stdout
    assert "job train-killed-2" in again.stdout
    assert re.search(r"resumed from step-\d+", again.stdout)
    traces, repeated = read_traces(run)
    reference = run_here(load_recipe(file, [f"storage={tmp_path / 'reference'}"]))
    assert traces == reference.packs
    assert repeated <= 4 * 2 * 10  # 4 packs a step; since the last checkpoint, or the one before that was being written
    ((name, (_, values)),) = logged(tmp_path / "out").items()
    assert (name, [step for step, _ in values["train/loss"]]) == ("killed", list(range(1, steps + 1)))


def drives(process: psutil.Process, name: str) -> bool:
    """Whether it is the Python process of a submitted `interlace train --run-name NAME`."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "interlace.jobs" in words and "train" in words and "submit" not in words and name in words


@pytest.mark.slow
def test_an_embedded_ray_listens_on_loopback_only() -> None:
    program = (
        "import sys, time, psutil, ray\nfrom interlace.cluster.connect import connect\nconnect(local_cpus=2)\n"
        "ray.get(ray.remote(lambda: 1).remote())\nprint('up', flush=True)\nsys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        servers = {p.name() for p in psutil.Process(process.pid).children(recursive=True)}
        assert {"gcs_server", "raylet"} <= servers
        assert outer_listeners(process.pid) == set()
    finally:
        process.communicate("\n", timeout=60)
