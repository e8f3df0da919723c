"""Laws of system metrics: a run of any length has some, they count on over restarts, and reach MLflow once."""

from pathlib import Path

import psutil
import pytest

from interlace.store.journal import Journal, journal_path, read
from interlace.store.system import sampled, system_journal
from interlace.tracking import Tracker, make_target, sync
from tests.tracked import shown

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


def test_the_shortest_run_has_a_sample_and_a_restart_counts_on(tmp_path: Path) -> None:
    for _ in range(2):
        with sampled(tmp_path, 60.0):
            pass
    with sampled(tmp_path, 60.0, node=1, name="host-b"):
        pass
    points, _ = read(system_journal(tmp_path, 0))
    assert [point.step for point in points] == [0, 1]
    found = points[0].metrics
    assert 0 < found["system/system_memory_usage_percentage"] <= 100
    rss = psutil.Process().memory_info().rss / 1e6
    assert found["system/worker_memory_usage_megabytes"] == pytest.approx(rss, rel=0.5)
    other, _ = read(system_journal(tmp_path, 1))
    assert set(other[0].metrics) == {key.replace("system/", "system/host-b/", 1) for key in found}


def test_nothing_is_sampled_where_nothing_is_wanted(tmp_path: Path) -> None:
    with sampled(tmp_path, 0.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_samples_of_all_nodes_are_shipped_beside_the_journal_and_only_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = tmp_path / "run"
    target = make_target(uri=None, storage=tmp_path, experiment="system", run_name="r", run_key="r")
    written = {}
    files = {
        "train/loss": journal_path(run),
        "system/cpu": system_journal(run, 0),
        "system/b/cpu": run / "system-1.jsonl",
    }
    for number, (key, path) in enumerate(files.items()):
        journal = Journal(path)
        for step in range(40 + number):
            journal.log(step, {key: step / 7})
            written[key, step] = step / 7
        journal.close()
    tracker = Tracker(run, target)
    tracker.status("FINISHED")
    report = tracker.close(60.0)
    assert report.shipped, report
    client = MlflowClient(tracking_uri=target.uri)
    assert {place: value for place, (value, _) in shown(client, report.run_id or "").items()} == written
    assert len(written) == 123

    more = Journal(system_journal(run, 0))
    more.log(100, {"system/cpu": 1.0})
    more.close()
    from interlace.tracking.outbox import Outbox

    assert Outbox(run).pending() == (0, 1)
    assert sync(run, 60.0).shipped
    (run / "tracking" / "cursor.json").unlink()
    assert Outbox(run).pending() == (2, 124)
    assert sync(run, 60.0).shipped
    assert len(shown(client, report.run_id or "")) == 124
