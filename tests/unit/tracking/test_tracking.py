"""Laws of tracking against a real sqlite store: everything arrives once, whatever is repeated, torn or refused."""

import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from interlace.contract.errors import InterlaceError
from interlace.store.journal import Journal, journal_path
from interlace.tracking import ModelCard, Target, Tracker, make_target, resolve_uri, sync
from interlace.tracking.model import requirements
from interlace.tracking.outbox import Outbox
from interlace.tracking.store import SETTINGS
from tests.tracked import card, shown

pytestmark = [
    # sqlalchemy 2.1 on mlflow's own tables
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    # mlflow's check of a table against a signature, with pandas 3.1
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]

LONG_S = 60.0
"""Time given to ship to a local file; used up only if something is broken."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name holds all that means something else in a URI."""
    return tmp_path_factory.mktemp("sto rage?a=b#c")


@pytest.fixture
def target(storage: Path, request: pytest.FixtureRequest) -> Target:
    name = request.node.name
    return make_target(uri=None, storage=storage, experiment=name, run_name="emoji-1", run_key=name)


@pytest.fixture
def client(storage: Path) -> Any:
    os.environ.update({k: v for k, v in SETTINGS.items() if k not in os.environ})
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=resolve_uri(None, storage))


def journal(folder: Path, *steps: int) -> dict[tuple[str, int], tuple[float, int]]:
    """Write two metrics for each step; what the journal holds then, (key, step) -> (value, time)."""
    book = Journal(journal_path(folder))
    for step in steps:
        book.log(step, {"train/loss": 1 / (step + 1), "rate": float(step)})
    book.close()
    lines = [json.loads(line) for line in journal_path(folder).read_text().splitlines()]
    return {(k, line["step"]): (v, line["t"]) for line in lines for k, v in line["m"].items()}


def runs_of(client: Any, target: Target) -> list[Any]:
    experiment = client.get_experiment_by_name(target.experiment)
    return list(client.search_runs([experiment.experiment_id], run_view_type=3)) if experiment else []  # 3: deleted too


def test_everything_said_of_a_run_is_in_mlflow(tmp_path: Path, target: Target, client: Any) -> None:
    tracker = Tracker(tmp_path, target)
    params = {f"section.key_{i}": i for i in range(250)} | {"long": "x" * 7000, "none": None, "list": ["ü", 1], "": "y"}
    tracker.params(params)
    tracker.tags({f"tag {i}": str(i) for i in range(150)} | {"odd*key": "https://me:secret@host/x"})
    tracker.dataset("emoji", "d" * 64, source="/data/*.parquet", context="training", profile={"rows": 7})
    written = journal(tmp_path, *range(700))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.txt").write_text("A")
    (tmp_path / "figures" / "inner").mkdir()
    (tmp_path / "figures" / "inner" / "b.txt").write_text("B")
    (tmp_path / "recipe.yaml").write_text("name: x")
    tracker.artifact(tmp_path / "recipe.yaml")
    tracker.artifact(tmp_path / "figures", "pictures")
    tracker.status("FINISHED")
    report = tracker.close(LONG_S)

    assert report.shipped, report
    assert (report.error, report.rejected) == (None, ())
    assert report.run_id is not None
    run = client.get_run(report.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "emoji-1")
    assert target.created_ms == run.info.start_time < run.info.end_time
    expected = {
        key or "_": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in params.items()
    }
    assert run.data.params == {key: value[:6000] for key, value in expected.items()}
    assert run.data.params["list"] == '["ü", 1]'
    assert {f"tag {i}": str(i) for i in range(150)}.items() <= run.data.tags.items()
    assert run.data.tags["odd_key"] == "https://***@host/x"
    assert shown(client, report.run_id) == written
    assert len(written) == 1400, "more than one batch of 1,000"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("emoji", "d" * 36)
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "training"}
    artifacts = Path(unquote(run.info.artifact_uri.removeprefix("file://")))
    assert (artifacts / "recipe.yaml").read_text() == "name: x"
    assert (artifacts / "pictures" / "a.txt").read_text() == "A"
    assert (artifacts / "pictures" / "inner" / "b.txt").read_text() == "B"
    assert artifacts.is_relative_to(Path(unquote(target.uri.removeprefix("sqlite:///"))).parent)
    assert f"mlflow ui --backend-store-uri '{target.uri}'" in report.open_with
    assert report.run_id in report.open_with


def test_values_that_are_not_finite_stay_visible(tmp_path: Path, target: Target, client: Any) -> None:
    book = Journal(journal_path(tmp_path))
    for step, value in enumerate([1.0, math.nan, math.inf]):
        book.log(step, {"loss": value})
    book.close()
    report = Tracker(tmp_path, target).close(LONG_S)
    history = [p.value for p in client.get_metric_history(report.run_id, "loss")]
    assert math.isnan(history[1])
    assert history[2] > 1e308
    assert len(history) == 3


def test_shipping_all_again_leaves_no_trace(tmp_path: Path, target: Target, client: Any) -> None:
    """A process killed between a request and the writing of the cursor repeats the request: here, all of them."""
    tracker = Tracker(tmp_path, target)
    tracker.params({"a": 1})
    tracker.tags({"b": "2"})
    tracker.dataset("d", "digest", source="/x", context="training", profile={})
    tracker.model(card(tmp_path))
    written = journal(tmp_path, *range(300))
    tracker.status("FINISHED")
    first = tracker.close(LONG_S)
    before = client.get_run(first.run_id).to_dictionary()
    (tmp_path / "tracking" / "cursor.json").unlink()
    second = sync(tmp_path, LONG_S)
    assert second.shipped, second
    assert second.rejected == ()
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).to_dictionary() == before
    assert shown(client, first.run_id) == written
    assert len(runs_of(client, target)) == 1
    assert len(client.search_logged_models([before["info"]["experiment_id"]])) == 1
    assert before["inputs"]["dataset_inputs"], "there was something to double"


def test_any_stretch_shipped_twice_leaves_no_trace(tmp_path: Path, target: Target, client: Any) -> None:
    tracker = Tracker(tmp_path, target)
    written = journal(tmp_path, *range(2000))
    report = tracker.close(LONG_S)
    box = Outbox(tmp_path)
    cursor = box.cursor()
    assert cursor.points > 2 * 65536, "several portions"
    lines = journal_path(tmp_path).read_bytes().splitlines(keepends=True)
    half = sum(map(len, lines[:1000]))
    saved = json.loads((tmp_path / "tracking" / "cursor.json").read_text())
    saved |= {"points": half, "last": {"train/loss": 999, "rate": 999}}
    (tmp_path / "tracking" / "cursor.json").write_text(json.dumps(saved))
    assert Outbox(tmp_path).pending() == (0, 2000)
    assert sync(tmp_path, LONG_S).shipped
    assert shown(client, report.run_id or "") == written


def test_a_run_that_goes_on_keeps_its_run(tmp_path: Path, target: Target, client: Any) -> None:
    tracker = Tracker(tmp_path, target)
    tracker.params({"optim.lr": 0.1, "train.workers": 1})
    journal(tmp_path, *range(10))
    tracker.status("KILLED")
    first = tracker.close(LONG_S)
    start = client.get_run(first.run_id).info.start_time

    again = Tracker(tmp_path, make_target(**{**given(target), "run_name": "ignored"}))
    again.params({"optim.lr": 0.1, "train.workers": 2, "new": True})
    second = again.close(LONG_S)
    assert client.get_run(first.run_id).info.status == "RUNNING"
    third_tracker = Tracker(tmp_path, target)
    third_tracker.params({"optim.lr": 0.1, "train.workers": 3})
    written = journal(tmp_path, *range(5, 15))
    third_tracker.status("FINISHED")
    third = third_tracker.close(LONG_S)

    assert first.run_id == second.run_id == third.run_id
    run = client.get_run(first.run_id)
    assert (run.info.status, run.info.start_time) == ("FINISHED", start)
    assert run.data.params == {"optim.lr": "0.1", "train.workers": "1", "new": "true"}
    resumed = {key: value for key, value in run.data.tags.items() if key.startswith("resume.")}
    assert resumed == {"resume.1.train.workers": "2", "resume.2.train.workers": "3"}
    assert shown(client, third.run_id or "") == written
    assert len(written) == 30
    assert len(runs_of(client, target)) == 1


def test_a_driver_killed_in_a_line_loses_that_line_only(tmp_path: Path, target: Target, client: Any) -> None:
    tracker = Tracker(tmp_path, target)
    tracker.params({"a": 1})
    tracker.close(LONG_S)
    with (tmp_path / "tracking" / "outbox.jsonl").open("a") as file:
        file.write('{"op":"tags","at_ms":1,"val')
    again = Tracker(tmp_path, target)
    again.tags({"after": "yes"})
    report = again.close(LONG_S)
    assert report.shipped, report
    assert client.get_run(report.run_id).data.tags["after"] == "yes"


def test_only_one_process_ships_a_run(tmp_path: Path, target: Target, client: Any) -> None:
    journal(tmp_path, 0, 1)
    holder = Outbox(tmp_path)
    holder.open(target)
    holder.lock()
    blocked = sync(tmp_path, 0.3)
    assert not blocked.shipped
    assert "another process is shipping" in (blocked.error or "")
    assert runs_of(client, target) == []
    holder.unlock()
    holder.close()
    assert sync(tmp_path, LONG_S).shipped
    assert len(runs_of(client, target)) == 1


def test_a_second_writer_of_the_journal_doubles_nothing(tmp_path: Path, target: Target, client: Any) -> None:
    one, two = Journal(journal_path(tmp_path)), Journal(journal_path(tmp_path))
    for step in range(5):
        one.log(step, {"loss": float(step)})
    for step in range(3, 8):
        two.log(step, {"loss": float(step)})
    report = Tracker(tmp_path, target).close(LONG_S)
    one.close()
    two.close()
    assert len(journal_path(tmp_path).read_text().splitlines()) == 10
    assert [(step, value) for (_, step), (value, _) in shown(client, report.run_id or "").items()] == [
        (step, float(step)) for step in range(8)
    ]


def test_a_trial_is_a_child_of_its_search(tmp_path: Path, target: Target, client: Any) -> None:
    trial = make_target(**{**given(target), "run_key": "trial-0", "run_name": "trial-0", "parent_key": target.run_key})
    early = Tracker(tmp_path / "trial", trial).close(1.0)
    assert not early.shipped
    parent = Tracker(tmp_path / "search", target).close(LONG_S)
    child = sync(tmp_path / "trial", LONG_S)
    assert child.shipped, child
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert len(runs_of(client, target)) == 2


def test_what_can_never_be_shipped_is_reported_and_holds_nothing_up(
    tmp_path: Path, target: Target, client: Any
) -> None:
    other = Tracker(tmp_path / "other", target)
    other.params({"a": 1})
    other.close(LONG_S)
    tracker = Tracker(tmp_path / "run", target)  # same key, another folder: MLflow has `a` already
    tracker.params({"a": 2})
    tracker.artifact(tmp_path / "gone.txt")
    tracker.model(ModelCard(folder=tmp_path / "gone", inputs={}, outputs={}, examples=[]))
    tracker.tags({"after": "yes"})
    report = tracker.close(LONG_S)
    assert report.shipped
    assert [reason.split(":")[0] for reason in report.rejected] == ["params", "artifact", "model"]
    assert "gone.txt was gone" in str(report)
    assert client.get_run(report.run_id).data.tags["after"] == "yes"


def test_a_deleted_run_is_neither_revived_nor_made_anew(tmp_path: Path, target: Target, client: Any) -> None:
    tracker = Tracker(tmp_path, target)
    journal(tmp_path, 0)
    report = tracker.close(LONG_S)
    client.delete_run(report.run_id)
    written = journal(tmp_path, 1, 2)
    left = sync(tmp_path, 0.5)
    assert (left.pending_points, left.shipped) == (4, False)
    assert "was deleted in MLflow: restore it" in str(left)
    assert len(runs_of(client, target)) == 1
    client.restore_run(report.run_id)
    assert sync(tmp_path, LONG_S).shipped
    assert shown(client, report.run_id or "") == written


def test_another_store_gets_the_whole_run(tmp_path: Path, target: Target, client: Any) -> None:
    tracker = Tracker(tmp_path, target)
    tracker.params({"a": 1})
    written = journal(tmp_path, *range(20))
    first = tracker.close(LONG_S)
    moved = make_target(**{**given(target), "uri": "sqlite:///second.db"})
    again = Tracker(tmp_path, moved)
    again.params({"a": 1})
    second = again.close(LONG_S)
    assert second.shipped, second
    assert moved.uri == f"sqlite:///{Path(target.uri.removeprefix('sqlite:///')).parent}/second.db"
    from mlflow import MlflowClient

    there = MlflowClient(tracking_uri=moved.uri)
    assert shown(there, second.run_id or "") == written == shown(client, first.run_id or "")
    assert there.get_run(second.run_id).data.params == {"a": "1"}


def test_a_server_that_is_not_there_costs_nothing_and_loses_nothing(
    tmp_path: Path, target: Target, client: Any
) -> None:
    with socket.socket() as reserved:  # bound but not listening: every connection is refused
        reserved.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{reserved.getsockname()[1]}/"
        begin = time.perf_counter()
        tracker = Tracker(tmp_path, make_target(**{**given(target), "uri": uri}))
        tracker.params({"a": 1})
        tracker.status("FAILED")
        journal(tmp_path, *range(50))
        assert time.perf_counter() - begin < 2.0
        report = tracker.close(1.0)
    assert not report.shipped
    assert (report.run_id, report.pending_ops, report.pending_points) == (None, 3, 100)
    assert "interlace track sync" in str(report)
    there = Tracker(tmp_path, target)
    later = there.close(LONG_S)
    assert later.shipped
    assert len(shown(client, later.run_id or "")) == 100


def test_a_model_predicts_from_raw_rows_with_values_missing(tmp_path: Path, target: Target, client: Any) -> None:
    tracker = Tracker(tmp_path, target)
    tracker.model(card(tmp_path))
    tracker.status("FINISHED")
    report = tracker.close(LONG_S)
    assert report.rejected == ()
    (model,) = client.search_logged_models([client.get_run(report.run_id).info.experiment_id])
    assert (str(model.status), model.source_run_id) == ("READY", report.run_id)
    assert [o.model_id for o in client.get_run(report.run_id).outputs.model_outputs] == [model.model_id]

    import pandas as pd
    from mlflow import pyfunc

    assert not list((tmp_path / "tracking").glob("m-*")), "nothing is left behind"
    location = unquote(model.artifact_location.removeprefix("file://"))
    assert not list(Path(location).rglob("*.pkl"))
    assert Path(location, "requirements.txt").read_text().split() == requirements()
    loaded = pyfunc.load_model(location)
    whole = pd.DataFrame([{"picture": b"png", "name": "cat", "size": 2.0, "tall": True}])
    assert loaded.predict(whole)["said"][0] == "hi {'picture': 'png', 'name': 'cat', 'size': 2.0, 'tall': True}"
    holes = pd.DataFrame({"name": ["cat", None, "dog"], "size": [1.0, 2.0, math.nan]})
    said = loaded.predict(holes)
    assert said["said"].tolist() == ["hi {'name': 'cat', 'size': 1.0}", "hi {'size': 2.0}", "hi {'name': 'dog'}"]
    assert loaded.predict(pd.DataFrame({"size": [3]}))["said"][0] == "hi {'size': 3}"
    assert loaded.predict(pd.DataFrame({"tall": [True, None]}))["said"].tolist() == ["hi {'tall': True}", "hi {}"]
    assert loaded.metadata.metadata["columns"]["size"] == "double"
    names = {column.name: column.required for column in loaded.metadata.signature.inputs}
    assert names == dict.fromkeys(["picture", "name", "size", "tall"], False)
    assert loaded.input_example["name"].isna().tolist() == [False, True]
    assert loaded.predict(loaded.input_example)["count"].tolist() == [4, 1]


def given(target: Target) -> dict[str, Any]:
    """The arguments of `make_target` that made a target."""
    storage = Path(unquote(target.uri.removeprefix("sqlite:///"))).parent
    return {"storage": storage, "uri": None} | {
        key: getattr(target, key) for key in ("experiment", "run_name", "run_key", "parent_key")
    }


def test_a_folder_that_was_never_tracked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterlaceError, match="expected a run folder"):
        sync(tmp_path, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_there_is_filled_and_belongs_to_one_run_of_ours(
    storage: Path, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = client.create_experiment("by id")
    waiting = client.create_run(experiment, run_name="waiting").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", waiting)
    for key, expected in (("mine", True), ("mine", True), ("another", False)):
        own = make_target(uri=None, storage=storage, experiment=None, run_name="r", run_key=key)
        tracker = Tracker(tmp_path / key, own)
        tracker.tags({"seen": key})
        tracker.status("FINISHED")
        report = tracker.close(LONG_S)
        assert report.shipped
        assert (report.run_id == waiting) is expected
    filled = client.get_run(waiting)
    assert (filled.info.run_name, filled.info.status, filled.data.tags["seen"]) == ("waiting", "FINISHED", "mine")
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    own = make_target(uri=None, storage=storage, experiment=None, run_name="r", run_key="third")
    report = Tracker(tmp_path / "third", own).close(LONG_S)
    assert client.get_run(report.run_id).info.experiment_id == experiment


@pytest.mark.parametrize("name", ["MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"])
def test_what_the_environment_names_and_the_store_lacks_is_told(
    name: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "9" * (32 if name == "MLFLOW_RUN_ID" else 3))
    own = make_target(uri=None, storage=storage, experiment=None, run_name="r", run_key=name)
    report = Tracker(tmp_path / "run", own).close(2.0)
    assert not report.shipped
    assert f"{name}: expected" in str(report)
