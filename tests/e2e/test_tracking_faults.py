"""Faults of an MLflow server while a run goes on: no step waits, no point is lost or doubled, one run is shown.

Each test drives a real server through a proxy that fails on command, while a process of its own writes the journal, as
a training worker does.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlace.store.journal import journal_path
from interlace.tracking import Target, Tracker, make_target, sync
from tests.e2e.faulty import FINE, Fault, Proxy, mlflow_server
from tests.tracked import card, shown

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

REPOSITORY = Path(__file__).parents[2]
HEALED_S = 180.0
"""Time given to a healthy server to take what is left."""

WORKER = """
import json, sys, time
from pathlib import Path
from interlace.store.journal import Journal, journal_path
folder, steps, step_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
journal, costs = Journal(journal_path(folder)), []
for step in range(steps):
    time.sleep(step_s)
    begin = time.perf_counter()
    journal.log(step, {"train/loss": 1 / (step + 1), "samples_per_s": 100.0 + step, "data/wait_s": 0.25})
    costs.append(time.perf_counter() - begin)
journal.close()
json.dump(sorted(costs), sys.stdout)
"""

DRIVER = """
import sys
from pathlib import Path
from interlace.tracking import Tracker, make_target
uri, folder, key = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
target = make_target(uri=uri, storage=folder, experiment=key, run_name="emoji-1", run_key=key)
print(Tracker(folder, target).close(60.0))
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def proxy(backend: int) -> Iterator[Proxy]:
    proxy = Proxy(backend)
    proxy.up()
    yield proxy
    proxy.down()


@pytest.fixture
def client(backend: int) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"http://127.0.0.1:{backend}")


@pytest.fixture
def target(proxy: Proxy, tmp_path: Path, request: pytest.FixtureRequest) -> Target:
    name = request.node.name
    return make_target(uri=proxy.url, storage=tmp_path, experiment=name, run_name="emoji-1", run_key=name)


def train(folder: Path, steps: int = 1000, step_s: float = 0.002) -> list[float]:
    """Seconds that each `log` took in a worker of its own process, ascending."""
    command = [sys.executable, "-c", WORKER, str(folder), str(steps), str(step_s)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    costs: list[float] = json.loads(done.stdout)
    assert len(costs) == steps
    return costs


def say_all(tracker: Tracker, folder: Path) -> float:
    """Say one of each operation; the longest that a call took, in seconds."""
    (folder / "note.txt").write_text("hello")
    costs = []
    for call in (
        lambda: tracker.params({"optim.lr": 0.1}),
        lambda: tracker.tags({"fusion": "mid"}),
        lambda: tracker.dataset("emoji", "digest", source="/data", context="training", profile={"rows": 3}),
        lambda: tracker.artifact(folder / "note.txt"),
        lambda: tracker.model(card(folder)),
    ):
        begin = time.perf_counter()
        call()
        costs.append(time.perf_counter() - begin)
    return max(costs)


def check_whole(client: Any, target: Target, folder: Path) -> None:
    """One run in the experiment, with each point of the journal once and each operation done once."""
    experiment = client.get_experiment_by_name(target.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    lines = [json.loads(line) for line in journal_path(folder).read_text().splitlines()]
    journaled = {(k, line["step"]): (v, line["t"]) for line in lines for k, v in line["m"].items()}
    assert shown(client, run.info.run_id) == journaled
    assert len(journaled) >= 300, "there was something to lose"
    assert (run.info.status, run.data.params) == ("FINISHED", {"optim.lr": "0.1"})
    assert run.data.tags["fusion"] == "mid"
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == "digest"
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert str(model.status) == "READY"
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(status=500, lost=True), id="500"),
        pytest.param(Fault(status=500), id="500-after-the-work-was-done"),
        pytest.param(Fault(status=401, lost=True), id="401"),
        pytest.param(Fault(before_s=5.0), id="5-s-a-call"),
    ],
)
def test_a_bad_server_costs_no_step_and_gets_all_when_it_is_well(
    fault: Fault, tmp_path: Path, target: Target, proxy: Proxy, client: Any
) -> None:
    without = train(tmp_path / "without")
    proxy.rule = lambda method, path, number: fault
    tracker = Tracker(tmp_path, target)
    longest = say_all(tracker, tmp_path)
    costs = train(tmp_path)
    tracker.status("FINISHED")
    begin = time.perf_counter()
    report = tracker.close(1.0)
    took = time.perf_counter() - begin

    assert len(proxy.seen) >= 1, "the server was asked"
    assert not report.shipped
    assert report.pending_points == 3000
    assert took < 5.0
    assert longest < 0.5
    assert costs[len(costs) // 2] < 2 * without[len(without) // 2] + 50e-6
    if fault.status:
        assert ("set MLFLOW_TRACKING_USERNAME" if fault.status == 401 else "too many 500") in str(report)

    proxy.rule = lambda method, path, number: FINE
    assert sync(tmp_path, HEALED_S).shipped
    check_whole(client, target, tmp_path)


def test_a_server_down_at_the_start_and_dying_in_the_middle(
    tmp_path: Path, target: Target, proxy: Proxy, client: Any
) -> None:
    proxy.down()
    tracker = Tracker(tmp_path, target)
    assert say_all(tracker, tmp_path) < 0.5
    train(tmp_path, 100)
    proxy.up()
    proxy.wait_for("log-batch", HEALED_S)
    proxy.down()
    train(tmp_path, 200)
    proxy.up()
    train(tmp_path, 300)
    tracker.status("FINISHED")
    report = tracker.close(HEALED_S)
    assert report.shipped, report
    check_whole(client, target, tmp_path)


def test_a_server_that_fails_a_third_of_all_requests(tmp_path: Path, target: Target, proxy: Proxy, client: Any) -> None:
    faults = [FINE, FINE, FINE, FINE, Fault(status=500, lost=True), Fault(status=503)]
    proxy.rule = lambda method, path, number: random.Random(number).choice(faults)
    tracker = Tracker(tmp_path, target)
    say_all(tracker, tmp_path)
    train(tmp_path, 1500, 0.0)
    tracker.status("FINISHED")
    report = tracker.close(HEALED_S)
    assert report.shipped, report
    assert report.rejected == ()
    assert len(proxy.seen) > 12
    check_whole(client, target, tmp_path)


def test_a_driver_killed_between_a_request_and_its_note(
    tmp_path: Path, target: Target, proxy: Proxy, client: Any
) -> None:
    """MLflow has the points, the cursor does not know: the next process sends them again."""
    train(tmp_path, 600, 0.0)
    slow = Fault(after_s=20.0)
    proxy.rule = lambda method, path, number: slow if "log-batch" in path else FINE
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, target.uri, str(tmp_path), target.run_key], cwd=REPOSITORY)
    proxy.wait_for("log-batch", HEALED_S)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert json.loads((tmp_path / "tracking" / "cursor.json").read_text())["points"] == 0
    experiment = client.get_experiment_by_name(target.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    assert len(shown(client, run.info.run_id)) == 1000, "they had arrived"

    proxy.rule = lambda method, path, number: FINE
    tracker = Tracker(tmp_path, target)
    say_all(tracker, tmp_path)
    train(tmp_path, 900, 0.0)
    tracker.status("FINISHED")
    report = tracker.close(HEALED_S)
    assert report.shipped, report
    check_whole(client, target, tmp_path)


def test_a_creation_carried_out_after_its_time_out_leaves_one_run(
    tmp_path: Path, target: Target, proxy: Proxy, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    late = [Fault(before_s=6.0)]
    proxy.rule = lambda method, path, number: late.pop() if "runs/create" in path and late else FINE
    tracker = Tracker(tmp_path, target)
    say_all(tracker, tmp_path)
    train(tmp_path, 100)
    proxy.wait_for("log-batch", HEALED_S)  # the second creation's run is in use
    train(tmp_path, 200, 0.05)  # the first is carried out by now
    assert [path for _, path in proxy.seen if "runs/create" in path] == ["/api/2.0/mlflow/runs/create"] * 2
    experiment = client.get_experiment_by_name(target.experiment)
    assert len(client.search_runs([experiment.experiment_id])) == 2, "there was a twin"
    tracker.status("FINISHED")
    report = tracker.close(HEALED_S)
    assert report.shipped, report
    check_whole(client, target, tmp_path)
