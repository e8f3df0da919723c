"""A search under Ray Tune: trials are the runs that their recipes make, whatever happens beside or between them."""

import json
import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from interlace.contract.errors import InterlaceError, ResumeError
from interlace.recipe.load import load_recipe, parse_tree
from interlace.recipe.recipe import Recipe
from interlace.results.listener import Quiet
from interlace.results.training import Launch
from interlace.store.lock import worker_lock
from interlace.tune.check import load_search
from interlace.tune.folder import Goal, Score, Trial
from interlace.tune.schedulers import Judge, make_scheduler
from interlace.tune.search import Search
from interlace.tune.suggest import overridden, sample
from interlace.tune.tuning import Tuned, tune
from tests.data import EmojiLike
from tests.ray.reference import run_here

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

STEPS, EVERY = 12, 4
RATES = [1e-3, 3e-3, 1e25]
"""The last one makes weights infinite in the first step: the loss after it is no number."""


def files_of(shapes: EmojiLike, tmp_path: Path, steps: int = STEPS, **search: Any) -> Path:
    train = {"steps": steps, "eval_every": EVERY, "precision": "fp32", "threads": 1, "cpus_per_worker": 3}
    tree = shapes.tree(tmp_path / "out", train=train, optim={"warmup": 0.0})
    space = {"optim.lr": {"choice": RATES}, "model.fusion": {"choice": ["mid", "weighted_sum"]}}
    tree["search"] = {"space": space, "trials": 4, "scheduler": "none", "seed": 4, **search}
    path = tmp_path / "shapes.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def run(path: Path, *overrides: str, **launch: Any) -> Tuned:
    recipe, search = load_search(path, overrides)
    handler = signal.getsignal(signal.SIGINT)
    tuned = tune(recipe, search, Launch(run_name="s", **launch), Quiet())
    assert tuned is not None
    assert signal.getsignal(signal.SIGINT) is handler
    return tuned


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return {x["step"]: x["m"]["train/loss"] for x in lines if "train/loss" in x["m"]}


def results(tuned: Tuned) -> dict[int, tuple[str, list[tuple[int, float]]]]:
    return {t.number: (t.status, [(s.step, s.value) for s in t.scores]) for t in tuned.findings.trials}


def shown_runs(storage: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


@pytest.mark.slow
def test_trials_are_their_recipes_runs_and_a_diverging_one_costs_the_rest_nothing(
    shapes: EmojiLike, tmp_path: Path
) -> None:
    path = files_of(shapes, tmp_path)
    first = run(path)
    assert first.verified
    assert first.tracking.shipped
    recipe, search = load_search(path, [])
    whole: Recipe = overridden(recipe, {"storage": str(tmp_path / "reference")})
    diverged = []
    for trial in first.findings.trials:
        overrides = sample(search, trial.number)
        assert trial.overrides == overrides
        if overrides.get("optim.lr") == RATES[-1]:
            diverged.append(trial.number)
            assert (trial.status, trial.reason.partition(":")[0]) == ("failed", "NonFiniteLossError")
            continue
        assert trial.status == "finished"
        assert losses(first.sweep / "trials" / f"{trial.number:03d}") == run_here(overridden(whole, overrides)).losses
    assert 0 < len(diverged) < 3
    assert len(list((first.sweep / "report").glob("*.png"))) == 3
    assert load_recipe(first.sweep / "report" / "best.yaml") == first.findings.recipe

    parent, children = check_mlflow(tmp_path / "out", trials=4)
    assert {c.data.tags["trial.status"] for c in children} == {"finished", "failed"}
    assert all(set(c.data.params) == {"trial", "lr", "fusion"} for c in children)

    more = run(path, "search.trials=5")  # goes on: one trial more, the others as they were
    assert {n: r for n, r in results(more).items() if n < 4} == results(first)
    assert len(results(more)) == 5
    again, _ = check_mlflow(tmp_path / "out", trials=5)
    assert again.info.run_id == parent.info.run_id
    with pytest.raises(ResumeError, match=r"search\.seed: the search has 4, now it is 5"):
        run(path, "search.seed=5")


def check_mlflow(storage: Path, trials: int) -> tuple[Any, list[Any]]:
    """One parent, a child a trial, none doubled, none still running."""
    runs = shown_runs(storage)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 1
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parents[0].info.run_id}
    assert sorted(int(c.data.params["trial"]) for c in children) == list(range(trials))
    assert "RUNNING" not in {r.info.status for r in runs}
    return parents[0], children


class Controller:
    """What Tune's schedulers ask of the machinery around them: nothing, as long as they neither pause nor choose."""


class OfTune:
    """A trial of Tune as far as `Judge` looks at it."""

    def __init__(self, number: int) -> None:
        self.config = {"number": number}


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_verdicts_are_the_same_after_a_new_start(scheduler: str) -> None:
    rng = random.Random(1)
    search = parse_tree({"space": {"optim.lr": {"choice": [1]}}, "scheduler": scheduler}, (), "", Search)
    goal = Goal(metric="a/b", mode="max", last=False)
    levels = {n: rng.random() for n in range(24)}
    lived = make_scheduler(search, goal, [])
    new = Trial(number=0, overrides={}, status="unfinished", reason="", scores=(), num_steps=9, cpu_s=0, wall_s=0)
    trials = {n: replace(new, number=n) for n in levels}
    stopped: set[int] = set()
    time_ms = 0
    for n in levels:
        lived.on_trial_add(Controller(), OfTune(n))
    for step in range(1, 10):
        for n in levels:
            if n in stopped:
                continue
            time_ms += 1
            score = Score(step=step, share=step / 9, value=levels[n] + 0.1 * rng.random(), time_ms=time_ms)
            result = {"value": score.value, "progress": float(step)}
            fresh = make_scheduler(search, goal, list(trials.values()))
            fresh.on_trial_add(Controller(), OfTune(n))
            verdict = lived.on_trial_result(Controller(), OfTune(n), dict(result))
            assert fresh.on_trial_result(Controller(), OfTune(n), dict(result)) == verdict
            trials[n] = replace(trials[n], scores=(*trials[n].scores, score))
            if verdict == "STOP":
                stopped.add(n)
    assert isinstance(lived, Judge)
    assert 8 < len(stopped) < 24
    assert max(levels, key=lambda n: levels[n]) not in stopped


@pytest.mark.slow
def test_a_trial_of_two_workers_that_leaves_one_cpu_to_data_tasks_ends(shapes: EmojiLike, tmp_path: Path) -> None:
    """2 x 2.5 CPUs and one for data are all there are: nothing that the trial takes for itself may be part of them."""
    both = ["train.workers=2", "train.cpus_per_worker=2.5", "batch.global_batch=2"]
    tuned = run(files_of(shapes, tmp_path, trials=1, seed=0), *both, "search.space={optim.lr: {choice: [0.001]}}")
    assert {n: status for n, (status, _) in results(tuned).items()} == {0: "finished"}
    assert sum(node["Resources"].get("CPU", 0.0) for node in ray.nodes()) == 2 * 2.5 + 1


@pytest.mark.slow
def test_a_killed_trial_goes_on_and_all_results_are_as_undisturbed(shapes: EmojiLike, tmp_path: Path) -> None:
    steps = 60
    undisturbed = run(files_of(shapes, tmp_path, steps, trials=3), f"storage={tmp_path / 'undisturbed'}")
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        trial = tmp_path / "out" / "sweeps" / "s" / "trials" / "000"
        while time.monotonic() < deadline and not killed:
            if (trial / "checkpoints").exists() and len((trial / "metrics.jsonl").read_text().splitlines()) > 10:
                holder = (trial / worker_lock(0)).read_text()  # "process 123 on host"
                killed.append(int(holder.split()[1]))
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    disturbed = run(tmp_path / "shapes.yaml")
    killer.join()
    assert killed
    assert results(disturbed) == results(undisturbed)
    events = "".join(p.read_text() for p in (disturbed.sweep / "trials").glob("*/events.jsonl"))
    assert "resumed from step-" in events


@pytest.mark.slow
def test_population_based_training_hands_checkpoints_on(shapes: EmojiLike, tmp_path: Path) -> None:
    path = files_of(shapes, tmp_path, 24, scheduler="pbt", first_rung=0.33, trials=4, seed=1)
    tree = yaml.safe_load(path.read_text())
    tree["search"]["space"] = {"optim.lr": {"log_uniform": [1e-6, 1e-2]}}
    tree["train"]["model_from"] = "last"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    tuned = run(path)
    assert [t.status for t in tuned.findings.trials] == ["finished"] * 4
    assert tuned.verified
    _, search = load_search(path, [])
    exchanges = [json.loads(p.read_text()) for p in sorted((tuned.sweep / "exchanges").glob("*.json"))]
    assert [e["step"] for e in exchanges] == [8, 16]
    settings = {t.number: sample(search, t.number) for t in tuned.findings.trials}
    for exchange in exchanges:
        assert len(exchange["copies"]) == 1
        copy = exchange["copies"][0]
        assert exchange["values"][str(copy["number"])] == min(exchange["values"].values())
        assert exchange["values"][str(copy["source"])] == max(exchange["values"].values())
        settings[copy["number"]] = copy["overrides"]
    assert {t.number: t.overrides for t in tuned.findings.trials} == settings
    # the copy's losses after the stop are those of a run that goes on from the source's checkpoint with its settings
    number = exchanges[-1]["copies"][0]["number"]
    assert sorted(losses(tuned.sweep / "trials" / f"{number:03d}")) == list(range(1, 25))
    events = (tuned.sweep / "trials" / f"{number:03d}" / "events.jsonl").read_text()
    assert "resumed from step-00000016" in events
    check_mlflow(tmp_path / "out", trials=4)


@pytest.mark.slow
def test_a_search_in_which_nothing_was_found_is_no_success(shapes: EmojiLike, tmp_path: Path) -> None:
    path = files_of(shapes, tmp_path, steps=4, trials=2, space={"optim.lr": {"choice": [1e25, 2e25]}})
    with pytest.raises(InterlaceError, match=r"no trial has a result in color/accuracy: 2 of 2 failed, trial 0 by: .*"):
        run(path, "optim.lr=1e25")
    assert {r.info.status for r in shown_runs(tmp_path / "out")} == {"FAILED"}
    report = tmp_path / "out" / "sweeps" / "s" / "report"
    assert (report / "sweep.html").exists()
    assert not (report / "best.yaml").exists()
