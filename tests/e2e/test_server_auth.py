"""An MLflow server with basic authentication: a wrong password loses nothing and says so; the right one does all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlace.contract.errors import InterlaceError
from interlace.jobs.register import run_register
from interlace.results.bulk import plan_bulk
from interlace.store.hashes import hash_file
from interlace.store.journal import Journal, journal_path
from interlace.tracking import Registry, Tracker, make_target, sync
from tests.e2e.faulty import mlflow_server
from tests.served import Model, log_run, make_model, write
from tests.tracked import shown

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

PASSWORD = "a long password"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("flask_wtf", reason="MLflow's basic authentication needs the extra mlflow[auth]")
    with mlflow_server(tmp_path_factory.mktemp("server"), PASSWORD) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


def log_in(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def test_a_wrong_password_is_told_and_loses_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(monkeypatch, "wrong")
    target = make_target(uri=url, storage=tmp_path, experiment="auth", run_name="r", run_key="r")
    tracker = Tracker(tmp_path, target)
    journal = Journal(journal_path(tmp_path))
    for step in range(300):
        journal.log(step, {"loss": 1 / (step + 1)})
    journal.close()
    tracker.status("FINISHED")
    report = tracker.close(5.0)
    assert not report.shipped
    assert report.pending_points == 300
    assert "not allowed (set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)" in str(report)
    assert "wrong" not in str(report)
    with pytest.raises(InterlaceError, match="not allowed"):
        Registry(url).register("r", None, "champion", None)

    log_in(monkeypatch, PASSWORD)
    report = sync(tmp_path, 120.0)
    assert report.shipped, report
    from mlflow import MlflowClient

    assert len(shown(MlflowClient(tracking_uri=url), report.run_id or "")) == 300


def test_a_model_is_registered_and_fetched_through_the_server(
    url: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in(monkeypatch, PASSWORD)
    log_run(model, tmp_path / "there", "through", {"test/color/accuracy": 0.5}, uri=url)
    run_register("through", None, "champion", None, storage=tmp_path, tracking_uri=url)
    assert "version 1 of `sounding` is champion" in capsys.readouterr().out
    fetched = Registry(url).fetch("models:/sounding@champion", tmp_path / "models")
    for name in ("model.safetensors", "recipe.yaml", "fitted.json"):
        assert hash_file(fetched / name) == hash_file(model.folder / name)
    write(tmp_path / "new.parquet", model.rows)
    assert plan_bulk(fetched, [str(tmp_path / "new.parquet")], tmp_path / "out", part_rows=100).num_rows == 50
