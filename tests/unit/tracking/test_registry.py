"""Laws of `interlace register` against a real sqlite store."""

import os
from pathlib import Path
from typing import Any

import pytest

from interlace.contract.errors import InterlaceError
from interlace.jobs.register import run_register
from interlace.results.prediction import find_model
from interlace.store.hashes import hash_file
from interlace.tracking import Bar, resolve_uri
from interlace.tracking.outbox import Outbox
from interlace.tracking.registry import make_bar
from interlace.tracking.store import SETTINGS
from tests.served import Model, log_run, make_model
from tests.tracked import shown

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

ACCURACY = Bar(metric="test/color/accuracy", mode="max")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


def client_of(storage: Path) -> Any:
    os.environ.update({k: v for k, v in SETTINGS.items() if k not in os.environ})
    from mlflow import MlflowClient

    uri = resolve_uri(None, storage)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def register(run: Path | str, storage: Path, bar: Bar | None = None) -> None:
    run_register(str(run), None, "champion", bar, storage=storage, tracking_uri=None)


def test_the_alias_goes_only_to_a_model_that_is_no_worse(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = log_run(model, tmp_path, "first", {"test/color/accuracy": 0.80, "test/color/loss": 0.5})
    register(first, tmp_path, ACCURACY)
    client = client_of(tmp_path)
    champion = client.get_model_version_by_alias("sounding", "champion")
    assert (str(champion.version), champion.description) == ("1", "Run first")
    assert {"recipe_digest": "abc", "data_digest": "def"}.items() <= champion.tags.items()

    worse = log_run(model, tmp_path, "worse", {"test/color/accuracy": 0.75, "test/color/loss": 0.4})
    with pytest.raises(InterlaceError, match=r"not registered: test/color/accuracy 0.75, version 1 has 0.8, "):
        register(worse, tmp_path, ACCURACY)
    assert str(client.get_model_version_by_alias("sounding", "champion").version) == "1"
    assert len(client.search_model_versions("name='sounding'")) == 1
    with pytest.raises(InterlaceError, match=r"expected a metric `test/color/acuracy`, but it has .*accuracy"):
        register(worse, tmp_path, Bar(metric="test/color/acuracy", mode="max"))

    capsys.readouterr()
    register("worse", tmp_path, make_bar("test/color/loss", None))  # by name; of a loss less is better
    said = capsys.readouterr().out
    assert "test/color/loss 0.4, version 1 has 0.5" in said
    assert "version 2 of `sounding` is champion, which version 1 had" in said
    assert str(client.get_model_version_by_alias("sounding", "champion").version) == "2"
    register(worse, tmp_path, ACCURACY)  # again, and compared with itself: nothing happens
    assert "(as before)" in capsys.readouterr().out
    assert len(client.search_model_versions("name='sounding'")) == 2


def test_a_model_whose_metric_is_not_a_number_becomes_no_champion(model: Model, tmp_path: Path) -> None:
    """MLflow keeps NaN of a model as 0, of which a loss is the best there can be."""
    unknown = log_run(model, tmp_path, "unknown", {"test/color/loss": float("nan")})
    bar = make_bar("test/color/loss", None)
    with pytest.raises(InterlaceError, match="not registered: test/color/loss of run unknown is not a number"):
        register(unknown, tmp_path, bar)
    register(log_run(model, tmp_path, "first", {"test/color/loss": 0.5}), tmp_path, bar)
    with pytest.raises(InterlaceError, match=r"test/color/loss nan, version 1 has 0.5"):
        register(unknown, tmp_path, bar)
    register(unknown, tmp_path)  # nothing is compared
    register(log_run(model, tmp_path, "again", {"test/color/loss": 0.7}), tmp_path, bar)
    assert str(client_of(tmp_path).get_model_version_by_alias("sounding", "champion").version) == "3"


def test_a_registered_model_is_fetched_as_it_was_exported(model: Model, tmp_path: Path) -> None:
    run = log_run(model, tmp_path, "run", {"test/color/accuracy": 0.5})
    register(run, tmp_path)
    found = [find_model(place, tmp_path, None) for place in ("models:/sounding@champion", "models:/sounding/1", "run")]
    run_id = Outbox(run).cursor().run_id
    assert run_id is not None
    found.append(find_model(run_id, tmp_path, None))
    assert len(set(found)) == 1
    assert found[0].is_relative_to(tmp_path / "cache" / "models")
    for name in ("model.safetensors", "recipe.yaml", "fitted.json"):
        assert hash_file(found[0] / name) == hash_file(model.folder / name)
    assert find_model(str(model.folder), tmp_path, None) == model.folder
    with pytest.raises(InterlaceError, match=r"MLflow run `nosuch`.*there is none"):
        find_model("nosuch", tmp_path, None)


def test_metrics_of_the_model_are_said_of_the_model_too_and_stay_single(model: Model, tmp_path: Path) -> None:
    run = log_run(model, tmp_path, "run", {"test/color/accuracy": 0.5, "val/color/accuracy": 0.25})
    client = client_of(tmp_path)
    cursor = Outbox(run).cursor()
    points = shown(client, cursor.run_id)
    assert {key for key, _ in points} == {"train/loss", "test/color/accuracy", "val/color/accuracy"}
    (logged,) = client.search_logged_models([cursor.experiment_id])
    assert {m.key: m.value for m in logged.metrics} == {"test/color/accuracy": 0.5}


def test_a_run_without_a_model_is_refused(tmp_path: Path) -> None:
    from interlace.tracking import Tracker, make_target

    target = make_target(uri=None, storage=tmp_path, experiment="served", run_name="empty", run_key="empty")
    Tracker(tmp_path / "runs" / "empty", target).close(60.0)
    with pytest.raises(InterlaceError, match="run empty: expected a logged model, but it has none"):
        register("empty", tmp_path)


def test_the_mode_follows_from_the_name() -> None:
    assert make_bar("test/a/accuracy", None) == Bar(metric="test/a/accuracy", mode="max")
    assert make_bar("test/a/mae_width", None) == Bar(metric="test/a/mae_width", mode="min")
    assert make_bar("test/a/loss", "max") == Bar(metric="test/a/loss", mode="max")
    assert make_bar(None, None) is None
    with pytest.raises(InterlaceError, match="--mode has no effect"):
        make_bar(None, "max")
