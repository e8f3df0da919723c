"""Imports go down only, as `pipeline/README.md` pictures it; no circles; the arms never meet below `train`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.laws.code import ROOT, Import, imports, sources

PICTURE = (ROOT / "pipeline" / "README.md").read_text(encoding="utf-8")
ASIDE = "cluster"
"""Imports nothing of the project, and only rooms from `train` up import it."""
FACE = "interlace"
"""The package's own opening, above all rooms."""

DATA_ARM = ("data", "modalities")
MODEL_ARM = ("model", "tasks", "contract.batch")

EXCEPTIONS = {
    (
        "interlace.tracking.pyfunc",
        "interlace.results.predictor",
    ): "MLflow runs this file alone, in a process of its own",
}


def layers(text: str = PICTURE) -> tuple[tuple[str, ...], ...]:
    """The rooms of each layer, from the bottom up, as the picture names them."""
    block = re.search(r"^```layers\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    return tuple(tuple(re.findall(r"\w+", line)) for line in reversed(block.group(1).splitlines()))


LAYERS = layers()
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def room(module: str) -> str:
    """The room of a module, a folder of the library or one of the other two; empty for the face."""
    return [*module.split("."), ""][1]


def refused(edge: Import) -> str | None:
    """Why an import between own modules breaks the layers, or None."""
    if (edge.module, edge.target) in EXCEPTIONS or edge.module == FACE:
        return None
    above, below = room(edge.module), room(edge.target)
    if above == below:
        return None
    if ASIDE in (above, below):
        fine = below == ASIDE and LEVELS.get(above, -1) >= LEVELS["train"]
        return None if fine else f"{edge.module} imports {edge.target}: `{ASIDE}` stands aside"
    if below == "":
        return f"{edge.module} imports the face"
    if above not in LEVELS or below not in LEVELS:
        return f"{edge.module} imports {edge.target}: one of them has no place in the picture"
    return None if LEVELS[above] > LEVELS[below] else f"{edge.module} imports {edge.target}: imports go down only"


def broken(edges: Iterable[Import]) -> list[str]:
    """Every reason why edges between own modules break the layers."""
    return [why for edge in edges if edge.own and (why := refused(edge))]


def targets_of(edges: Iterable[Import]) -> dict[str, set[str]]:
    """Module -> own modules that it imports."""
    found: dict[str, set[str]] = {}
    for edge in edges:
        if edge.own:
            found.setdefault(edge.module, set()).add(edge.target)
    return found


def reachable(start: Sequence[str], edges: Iterable[Import]) -> set[str]:
    """Own modules that modules of these rooms import, over any number of steps."""
    by_module = targets_of(edges)
    seen: set[str] = set()
    todo = [m for m in by_module if belongs(m, start)]
    while todo:
        for target in by_module.get(todo.pop(), ()):
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def belongs(module: str, rooms: Sequence[str]) -> bool:
    """Whether a module lies in one of the rooms."""
    names = [f"interlace.{name}" for name in rooms]
    return any(module == name or module.startswith(name + ".") for name in names)


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names that need each other in a loop, the first found; empty where there is none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := search(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := search(name, []))), [])


def plant(root: Path, **files: str) -> list[Import]:
    """The imports of a tree of files, `pipeline__model__x="import ..."` for `pipeline/model/x.py`."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return imports(root)


def test_the_library_holds_the_rooms_of_the_picture_and_nothing_else() -> None:
    here = {p.name for p in (ROOT / "pipeline").iterdir() if p.name != "__pycache__"}
    assert here == {"__init__.py", "README.md", *LEVELS} - {"jobs"}
    assert len(here) > 10


def test_imports_go_down_only() -> None:
    edges = imports()
    assert broken(edges) == []
    assert sum(e.own for e in edges) > 150


def test_no_two_modules_need_each_other() -> None:
    graph = targets_of(e for e in imports() if (e.module, e.target) not in EXCEPTIONS)
    assert circle(graph) == []
    assert len(graph) > 100


def test_every_module_has_a_layer() -> None:
    assert [m for m in sources() if room(m) not in (*LEVELS, ASIDE, "")] == []
    assert {room(m) for m in sources()} == {*LEVELS, ASIDE, ""}


def test_the_two_arms_never_meet() -> None:
    edges = imports()
    from_data, from_model = reachable(DATA_ARM, edges), reachable(MODEL_ARM, edges)
    assert [m for m in from_data if belongs(m, MODEL_ARM)] == []
    assert [m for m in from_model if belongs(m, DATA_ARM)] == []
    assert {"interlace.contract.sample", "interlace.modalities.image", "interlace.data.plan.plan"} <= from_data
    assert {"interlace.contract.sample", "interlace.model.attention", "interlace.contract.batch"} <= from_model


def test_exceptions_are_still_needed() -> None:
    there = {(e.module, e.target) for e in imports()}
    assert set(EXCEPTIONS) <= there


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pipeline__model__x", "from interlace.data import reader"),
        ("pipeline__model__x", "def f():\n    from interlace import modalities"),
        ("pipeline__data__x", "import interlace.train.loop"),
        ("pipeline__data__x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import interlace.tasks"),
        ("pipeline__recipe__x", "from interlace.modalities import base"),
        ("pipeline__train__x", "from interlace.results.predictor import Predictor"),
        ("pipeline__results__x", "from interlace.jobs.console import say"),
        ("pipeline__data__x", "import interlace.cluster.connect"),
        ("pipeline__contract__x", "from interlace.store import journal"),
        ("cluster__x", "from interlace.recipe import recipe"),
        ("cluster__x", "import interlace.jobs.cli"),
        ("pipeline__novelty", "from interlace.recipe.recipe import Recipe"),
        ("pipeline__train__x", "from interlace import load_recipe"),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path: Path, file: str, text: str) -> None:
    rest = {"pipeline__modalities__base": "", "pipeline__data__reader": "", "pipeline__modalities____init__": ""}
    assert len(broken(plant(tmp_path, **rest, **{file: text}))) == 1


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    edges = plant(
        tmp_path, pipeline__model__a="import interlace.model.b", pipeline__model__b="import interlace.model.c",
        pipeline__model__c="def f():\n    from interlace.model.a import x",
    )  # fmt: skip
    assert circle(targets_of(edges)) == ["interlace.model.a", "interlace.model.b", "interlace.model.c"]


def test_a_planted_meeting_of_the_arms_is_found(tmp_path: Path) -> None:
    """Also over a module between them that may import either."""
    edges = plant(
        tmp_path, pipeline__data__x="import interlace.contract.sample",
        pipeline__contract__sample="import interlace.contract.batch", pipeline__contract__batch="import torch",
    )  # fmt: skip
    assert broken(edges) == []
    assert [m for m in reachable(DATA_ARM, edges) if belongs(m, MODEL_ARM)] == ["interlace.contract.batch"]
