"""A run, a search and an index that older code began and left in the middle go on with today's (`tests/legacy`)."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlace.recipe.load import load_recipe
from interlace.results.listener import Quiet
from interlace.results.training import Launch, train
from interlace.store.journal import journal_path
from interlace.store.lock import held
from interlace.train.checkpoint import newest_checkpoint
from interlace.tune.check import load_search
from interlace.tune.suggest import sample
from interlace.tune.tuning import tune
from tests.ray.reference import run_here

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

FIXTURE = Path(__file__).parents[1] / "legacy" / "began.zip"
MADE_IN, CHANGED_AT = Path("/tmp/interlace-began-a797fcf"), 1_700_000_000
STEPS, KILLED_AFTER, SAVED_AT = 40, 24, 20
TRIALS, TRIAL_SAVED_AT = 3, 30
CLOSE = 1e-4
"""Largest relative difference of a loss: the same arithmetic, perhaps on another processor."""


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


def places(folder: Path) -> list[str]:
    """Settings that say where data and results are, which in the recipes are relative."""
    return [f"storage={folder / 'out'}", f"data.root={folder / 'shards'}"]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of the last change of each file below a folder."""
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns)
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> dict[int, float]:
    found = [(x["step"], x["m"]["train/loss"]) for x in lines(journal_path(folder)) if "train/loss" in x["m"]]
    assert len(found) == len(dict(found)), "a step was journaled twice"
    return dict(found)


def packs(folder: Path) -> list[tuple[tuple[int, int], tuple[int, ...], float]]:
    """Step and position, samples and loss of each pack in the order in which they were trained on."""
    return [((x["step"], x["position"]), tuple(x["ids"]), x["loss"]) for x in lines(folder / "trace-0.jsonl")]


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


def test_a_run_that_older_code_began_goes_on_in_the_same_steps(began: Path) -> None:
    run, index = began / "out" / "runs" / "half", began / "out" / "cache" / "index"
    before, indexed, known = packs(run), contents(index), shown(began / "out")
    assert max(step for (step, _), _, _ in before) == KILLED_AFTER
    state = newest_checkpoint(run).state
    assert state is not None
    assert state.step == SAVED_AT
    recipe = load_recipe(began / "shapes.yaml", places(began))

    outcome = train(recipe, Launch(run_name="half", resume=True), Quiet())

    assert outcome is not None
    assert outcome.run == run
    assert any(f"resumed from step-{SAVED_AT:08d}" in event["text"] for event in lines(run / "events.jsonl"))
    assert contents(index) == indexed
    assert len(indexed) == 3  # what was fitted, and a manifest a split
    reference = run_here(recipe.model_copy(update={"storage": str(began / "reference")}))
    done = packs(run)
    assert done[: len(before)] == before
    again = {key for key, _, _ in before} & {key for key, _, _ in done[len(before) :]}
    assert {step for step, _ in again} == set(range(SAVED_AT + 1, KILLED_AFTER + 1))
    assert {key: ids for key, ids, _ in done} == {key: ids for key, (ids, _) in reference.packs.items()}
    for key, ids, loss in done:  # also of packs that were computed twice
        assert (ids, loss) == (reference.packs[key][0], pytest.approx(reference.packs[key][1], rel=CLOSE))
    assert losses(run) == pytest.approx(reference.losses, rel=CLOSE)
    assert sorted(losses(run)) == list(range(1, STEPS + 1))
    ((name, (_, status, steps)),) = (item for item in shown(began / "out").items() if item[1] != known.get(item[0]))
    assert (name in known, status, steps) == (True, "FINISHED", list(range(1, STEPS + 1)))


def test_a_search_that_older_code_began_goes_on_and_keeps_what_ended(began: Path) -> None:
    trials, cache = began / "out" / "sweeps" / "half" / "trials", began / "out" / "cache"
    kept, cached = contents(trials / "000"), contents(cache)
    suggested = {path: path.read_text() for path in trials.glob("*/trial.json")}
    assert [p.parent.name for p in trials.glob("*/result.json")] == ["000"]
    known = shown(began / "out")
    recipe, search = load_search(began / "search.yaml", places(began))
    assert [sample(search, number) for number in (1, 2)] == [
        json.loads(suggested[trials / f"{number:03d}" / "trial.json"])["overrides"] for number in (1, 2)
    ]

    tuned = tune(recipe, search, Launch(run_name="half"), Quiet())

    assert tuned is not None
    assert tuned.verified
    assert {t.number: t.status for t in tuned.findings.trials} == dict.fromkeys(range(TRIALS), "finished")
    for name, content in kept.items():
        if not name.startswith("tracking/"):  # what is told to MLflow once more changes nothing of the trial
            assert contents(trials / "000")[name] == content
    assert {path: path.read_text() for path in suggested} == suggested
    assert contents(cache) == cached
    events = [event["text"] for event in lines(trials / "001" / "events.jsonl")]
    assert any(f"resumed from step-{TRIAL_SAVED_AT:08d}" in text for text in events)
    for number in range(TRIALS):
        assert sorted(losses(trials / f"{number:03d}")) == list(range(1, STEPS + 1))
        assert not any("resumed" in e["text"] for e in lines(trials / "000" / "events.jsonl"))
    now, run_key = (
        shown(began / "out"),
        json.loads((began / "out/runs/half/tracking/cursor.json").read_text())["run_id"],
    )
    assert {name: now.pop(name) for name in (run_key,)} == {run_key: known.pop(run_key)}  # the run beside it
    assert set(known) < set(now)
    assert {status for _, status, _ in now.values()} == {"FINISHED"}
    steps = sorted(steps for _, _, steps in now.values())
    assert steps == [[], *[list(range(1, STEPS + 1))] * TRIALS]  # the search itself, and its trials
