"""Imports go down only, and the data arm and the model arm never meet below `pipeline.train`."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.laws.code import Import, imports, sources

LAYERS = (
    (
        "pipeline.detokenizer",
        "pipeline.errors",
        "pipeline.exchange",
        "pipeline.exhibits",
        "pipeline.faults",
        "pipeline.fields",
        "pipeline.lock",
        "pipeline.optim_settings",
        "pipeline.origin",
        "pipeline.preparation",
        "pipeline.recipe",
        "pipeline.sample",
        "pipeline.data_settings",
        "pipeline.task_settings",
        "pipeline.train_settings",
        "pipeline.batch",
        "pipeline.journal",
        "pipeline.figures",
        "pipeline.importance",
        "pipeline.tune.search",
        "pipeline.sweep",
        "pipeline.sweep_figures",
        "pipeline.system",
    ),
    ("pipeline.modalities", "pipeline.model"),
    ("pipeline.data", "pipeline.tasks", "pipeline.tracking"),
    ("pipeline.train",),
    (
        "pipeline.tune",
        "pipeline.evaluate",
        "pipeline.predict",
        "pipeline.bulk",
        "pipeline.explain",
        "pipeline.compress",
    ),
    ("jobs",),
)
"""From the bottom up. In the lowest layer and the one above `train` modules may import their neighbours; elsewhere
neighbours are apart."""
NEIGHBOURS = (0, 4)
ASIDE = "cluster"
"""Imports nothing of the project, and only `jobs` imports it."""

DATA_ARM = ("pipeline.data", "pipeline.modalities")
MODEL_ARM = ("pipeline.model", "pipeline.tasks", "pipeline.batch")

EXCEPTIONS = {
    ("pipeline.tracking.pyfunc", "pipeline.predict"): "MLflow runs this file alone, in a process of its own",
}


def room(module: str) -> tuple[int, str] | None:
    """Layer and room of a module; None for the packages' own empty openings."""
    for level, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(name + "."):
                return level, name
    return None


def refused(edge: Import) -> str | None:
    """Why an import between own modules breaks the layers, or None."""
    if (edge.module, edge.target) in EXCEPTIONS:
        return None
    inside, outside = edge.module.split(".")[0], edge.package
    if ASIDE in (inside, outside):
        fine = inside == outside or (inside, outside) == ("jobs", ASIDE)
        return None if fine else f"{edge.module} imports {edge.target}: `{ASIDE}` stands aside"
    above, below = room(edge.module), room(edge.target)
    if above is None or below is None:
        return f"{edge.module} imports {edge.target}: one of them has no layer in LAYERS"
    if above == below or above[0] > below[0] or (above[0] == below[0] and above[0] in NEIGHBOURS):
        return None
    return f"{edge.module} imports {edge.target}: imports go down only"


def broken(edges: Iterable[Import]) -> list[str]:
    """Every reason why edges between own modules break the layers."""
    return [why for edge in edges if edge.own and (why := refused(edge))]


def reachable(start: tuple[str, ...], edges: Iterable[Import]) -> set[str]:
    """Own modules that modules of these rooms import, over any number of steps."""
    by_module: dict[str, set[str]] = {}
    for edge in edges:
        if edge.own:
            by_module.setdefault(edge.module, set()).add(edge.target)
    seen: set[str] = set()
    todo = [m for m in by_module if belongs(m, start)]
    while todo:
        for target in by_module.get(todo.pop(), ()):
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def belongs(module: str, rooms: tuple[str, ...]) -> bool:
    """Whether a module lies in one of the rooms."""
    return any(module == name or module.startswith(name + ".") for name in rooms)


def plant(root: Path, **files: str) -> list[Import]:
    """The imports of a tree of files, `pipeline__model__x="import ..."` for `pipeline/model/x.py`."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return imports(root)


def test_imports_go_down_only() -> None:
    edges = imports()
    assert broken(edges) == []
    assert sum(e.own for e in edges) > 150


def test_every_module_has_a_layer() -> None:
    openings = {"pipeline", "pipeline.tune", "cluster"}
    assert [m for m in sources() if room(m) is None and m.split(".")[0] != ASIDE and m not in openings] == []


def test_the_two_arms_never_meet() -> None:
    edges = imports()
    from_data, from_model = reachable(DATA_ARM, edges), reachable(MODEL_ARM, edges)
    assert [m for m in from_data if belongs(m, MODEL_ARM)] == []
    assert [m for m in from_model if belongs(m, DATA_ARM)] == []
    assert {"pipeline.sample", "pipeline.modalities.image", "pipeline.data.plan"} <= from_data
    assert {"pipeline.sample", "pipeline.model.attention", "pipeline.batch"} <= from_model


def test_exceptions_are_still_needed() -> None:
    there = {(e.module, e.target) for e in imports()}
    assert set(EXCEPTIONS) <= there


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pipeline__model__x", "from pipeline.data import reader"),
        ("pipeline__model__x", "def f():\n    from pipeline import modalities"),
        ("pipeline__data__x", "import pipeline.train.loop"),
        ("pipeline__data__x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pipeline.tasks"),
        ("pipeline__recipe", "from pipeline.modalities import base"),
        ("pipeline__train__x", "from pipeline.predict import Predictor"),
        ("pipeline__evaluate", "from jobs.console import say"),
        ("pipeline__train__x", "import cluster.connect"),
        ("cluster__x", "from pipeline import recipe"),
        ("cluster__x", "import jobs.cli"),
        ("pipeline__novelty", "from pipeline.recipe.recipe import Recipe"),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path: Path, file: str, text: str) -> None:
    rest = {"pipeline__modalities__base": "", "pipeline__data__reader": "", "pipeline__modalities____init__": ""}
    assert len(broken(plant(tmp_path, **rest, **{file: text}))) == 1


def test_a_planted_meeting_of_the_arms_is_found(tmp_path: Path) -> None:
    """Also over a module between them that may import either."""
    edges = plant(
        tmp_path, pipeline__data__x="import pipeline.sample", pipeline__sample="import pipeline.batch",
        pipeline__batch="import torch",
    )  # fmt: skip
    assert broken(edges) == []
    assert [m for m in reachable(DATA_ARM, edges) if belongs(m, MODEL_ARM)] == ["pipeline.batch"]
