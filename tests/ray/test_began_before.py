"""What older code began (`tests/legacy`) is refused whole where its packs were others, and says the way on."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from interlace.contract.errors import RecipeError, ResumeError
from interlace.recipe.data import Data
from interlace.recipe.load import load_kept, load_recipe, parse_recipe
from interlace.results.evaluation import evaluate_run
from interlace.results.listener import Quiet
from interlace.results.training import Launch, train
from interlace.store.journal import journal_path
from interlace.store.lock import held
from interlace.train.checkpoint import newest_checkpoint
from interlace.tune.check import parse_search
from interlace.tune.tuning import tune

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

FIXTURE = Path(__file__).parents[1] / "legacy" / "began.zip"
MADE_IN, CHANGED_AT = Path("/tmp/interlace-began-a797fcf"), 1_700_000_000
SAVED_AT = 20


@pytest.fixture(scope="module")
def began() -> Iterator[Path]:
    """The unpacked folder, once: MLflow keeps its database open.

    An index is of shards at a place and of a time, so both are as they were.
    """
    with held(MADE_IN.with_suffix(".lock"), wait_s=250):
        shutil.rmtree(MADE_IN, ignore_errors=True)
        with zipfile.ZipFile(FIXTURE) as archive:
            archive.extractall(MADE_IN)
        for shard in (MADE_IN / "shards").iterdir():
            os.utime(shard, (CHANGED_AT, CHANGED_AT))
        yield MADE_IN
        shutil.rmtree(MADE_IN)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of the last change of each file below a folder."""
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns)
            for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> dict[int, float]:
    found = [(x["step"], x["m"]["train/loss"]) for x in lines(journal_path(folder)) if "train/loss" in x["m"]]
    assert len(found) == len(dict(found)), "a step was journaled twice"
    return dict(found)


def shown(storage: Path) -> dict[str, tuple[str, str, list[int]]]:
    """What MLflow holds by run id: name, status, steps of the training loss."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {
        r.info.run_id: (
            r.info.run_name,
            r.info.status,
            sorted(p.step for p in client.get_metric_history(r.info.run_id, "train/loss")),
        )
        for r in runs
    }


def recipe_of(folder: Path, name: str = "shapes.yaml", **sections: Any) -> dict[str, Any]:
    """The recipe that was begun, as today's settings have it: windows are cut by packs."""
    tree = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
    assert tree["data"].pop("window_groups") > 0
    tree["data"]["root"], tree["storage"] = str(folder / "shards"), str(folder / "out")
    return tree | sections


def test_its_recipe_is_refused_with_the_setting_that_is_gone(began: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.window_groups: is no setting any more: .*`data\.window_packs`"):
        load_recipe(began / "shapes.yaml")


@pytest.mark.slow
def test_a_run_is_refused_with_the_way_on_and_another_starts_from_its_weights(began: Path) -> None:
    run = began / "out" / "runs" / "half"
    before, known = contents(run), shown(began / "out")
    state = newest_checkpoint(run).state
    assert state is not None
    assert state.step == SAVED_AT
    began_with = losses(run)[1]
    tree = recipe_of(began)

    with pytest.raises(ResumeError, match=f"other packs of the same data.*--set model.init.run={run}$"):
        train(parse_recipe(tree), Launch(run_name="half", resume=True), Quiet())
    assert contents(run) == before
    assert shown(began / "out") == known

    on = recipe_of(began, model=tree["model"] | {"init": {"run": str(run)}}, train=tree["train"] | {"steps": 8})
    outcome = train(parse_recipe(on), Launch(run_name="on"), Quiet())
    assert outcome is not None
    assert losses(outcome.run)[1] < began_with - 0.05  # it knows what the other had learned
    assert sorted(losses(outcome.run)) == list(range(1, 9))
    assert contents(run) == before
    ((_, status, _),) = (item for key, item in shown(began / "out").items() if key not in known)
    assert status == "FINISHED"


def test_a_search_is_refused_and_nothing_of_it_is_touched(began: Path) -> None:
    sweep = began / "out" / "sweeps" / "half"
    before = contents(sweep)
    recipe, search = parse_search(recipe_of(began, "search.yaml"), (), "search.yaml")
    with pytest.raises(ResumeError, match=r"search `half` was begun by a version that made other packs.*--fresh"):
        tune(recipe, search, Launch(run_name="half"), Quiet())
    assert contents(sweep) == before
    assert [p.parent.name for p in (sweep / "trials").glob("*/result.json")] == ["000"]
    assert len(before) > 10


def test_its_model_is_read_as_it_was(began: Path, tmp_path: Path) -> None:
    run = began / "out" / "runs" / "half"
    found = evaluate_run(run, "validation", [f"storage={tmp_path}", f"data.root={began / 'shards'}"], tmp_path, Quiet())
    assert 0 <= found.results[0].metrics["color/accuracy"] <= 1
    assert load_kept(run / "recipe.yaml").data.window_packs == Data.model_fields["window_packs"].default
