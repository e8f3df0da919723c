"""A search as Python sees it: a table with every trial, the best of them with its run, its page in a frame."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from interlace.contract.errors import RecipeError
from interlace.recipe.identity import to_yaml
from interlace.recipe.load import parse_recipe
from interlace.store.journal import Journal, journal_path
from interlace.tracking import TrackingReport
from interlace.tune.check import load_search, parse_search
from interlace.tune.folder import Sweep, end_trial, open_sweep, write_json
from interlace.tune.plan import prepare_sweep
from interlace.tune.report import findings, write_report
from interlace.tune.searched import Searched
from interlace.tune.tuning import Tuned
from tests.data import EmojiLike
from tests.page import Page

RATES = (1e-3, 4e-3, 2e-3)
REPORT = TrackingReport(run_id=None, open_with="", pending_ops=0, pending_points=0, rejected=(), error=None)
SECTION = {"space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}, "scheduler": "none", "trials": 3}


def tried(sweep: Sweep, number: int, accuracies: list[float], status: str) -> None:
    """Write what a trial leaves."""
    sweep.suggest(number, {"optim.lr": RATES[number]} if number else {})
    folder = sweep.trial(number)
    write_json(folder / "plan.json", {"num_steps": 4})
    journal = Journal(journal_path(folder))
    for step, accuracy in enumerate(accuracies, 1):
        journal.log(step, {"train/loss": 1.0, "val/color/accuracy": accuracy})
    journal.close()
    if status != "unfinished":
        end_trial(folder, status, "by its own fault" if status == "failed" else "")


@pytest.fixture(scope="module")
def tuned(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    tree = shapes.tree(tmp_path_factory.mktemp("storage"), search=SECTION, optim={"lr": RATES[0]})
    recipe, search = parse_search(tree, ["train.steps=4"], "tree")
    plan = prepare_sweep(recipe, search, map)
    with open_sweep(plan.recipe, search, {}, "s") as sweep:
        tried(sweep, 0, [0.1, 0.2, 0.3, 0.4], "finished")
        tried(sweep, 1, [0.1, 0.6, 0.7, 0.8], "finished")
        tried(sweep, 2, [0.2], "failed")
        (sweep.trial(1) / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        found = findings(sweep, plan, recipe)
        write_report(found, sweep, plan, "")
    return Tuned(sweep=sweep.folder, findings=found, verified=True, tracking=REPORT)


def test_every_trial_is_a_row_the_best_first(tuned: Tuned) -> None:
    trials = Searched(tuned).trials()
    assert trials.index.tolist() == [1, 0, 2]
    assert trials["status"].tolist() == ["finished", "finished", "failed"]
    assert trials["step"].tolist() == [4, 4, 1]
    assert trials["color/accuracy"].tolist()[:2] == [0.8, 0.4]
    assert pd.isna(trials["color/accuracy"].loc[2])
    assert trials["optim.lr"].tolist() == [4e-3, 1e-3, 2e-3]
    assert trials.loc[2, "reason"] == "by its own fault"


def test_the_best_is_a_recipe_a_value_and_a_run(tuned: Tuned) -> None:
    search = Searched(tuned)
    assert search.best is not None
    assert (search.best.trial, search.best.value, search.best.recipe.optim.lr) == (1, 0.8, 4e-3)
    assert search.best.run.metrics()["val/color/accuracy"].tolist() == [0.1, 0.6, 0.7, 0.8]
    assert search.best.run.folder == search.folder / "trials" / "001"
    assert "best color/accuracy 0.8000 of trial 1" in repr(search)
    nothing = Searched(replace(tuned, findings=replace(tuned.findings, best=None, recipe=None)))
    assert nothing.best is None
    assert "no result yet" in repr(nothing)
    assert search.retrained is None


def test_its_page_stands_in_a_frame_of_its_own(tuned: Tuned) -> None:
    search = Searched(tuned)
    ((tag, attributes),) = Page(search._repr_html_()).elements
    assert tag == "iframe"
    assert attributes["srcdoc"] == search.page == (search.folder / "report" / "sweep.html").read_text()
    assert attributes["sandbox"] == ""
    assert "<style>" in attributes["srcdoc"]


def test_a_tree_and_its_file_are_one_search(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path, search=SECTION)
    before = repr(tree["search"])
    file = tmp_path / "recipe.yaml"
    whole = to_yaml(parse_recipe(shapes.tree(tmp_path)))
    file.write_text(f"{whole}search: {SECTION}\n".replace("'", '"'), encoding="utf-8")
    changes = ["search.trials=7", "train.steps=5"]
    assert parse_search(tree, changes, "tree") == load_search(file, changes)
    assert repr(tree["search"]) == before
    with pytest.raises(RecipeError, match="search: required by `interlace tune`"):
        parse_search(shapes.tree(tmp_path), [], "tree")
