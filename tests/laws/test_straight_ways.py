"""A recipe goes straight from the command to a training worker: few modules see it whole, and it climbs back seldom.

The walk follows calls in the order of the code, from `results.training.train` and on in the worker that Ray starts, as
long as the whole recipe is handed on: itself, or inside what carries it (`CARRIERS`). Sections of it are not followed:
they are what a room needs.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from tests.laws.code import sources
from tests.laws.test_layers import ASIDE, LEVELS, plant, room

BEGIN = ("interlace.results.training", "train")
HANDED_OVER = ("interlace.train.run", "fit")
WORKER = ("interlace.train.worker", "Worker.__init__"), ("interlace.train.worker", "Worker.run")
"""Where it is handed to Ray, and where the walk goes on in a worker."""
CARRIERS = frozenset({"Recipe", "Prepared", "Job"})
"""Types that are the recipe or hold it whole."""
MOST_MODULES, MOST_CLIMBS = 15, 6


@dataclass(frozen=True)
class Module:
    """Functions and methods by name, and what imported names stand for: module and name there."""

    functions: Mapping[str, ast.FunctionDef]
    imported: Mapping[str, tuple[str, str]]


@cache
def read(paths: tuple[tuple[str, Path], ...]) -> dict[str, Module]:
    """Every module."""
    found = {}
    for name, path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        for owner in (n for n in tree.body if isinstance(n, ast.ClassDef)):
            functions |= {f"{owner.name}.{f.name}": f for f in owner.body if isinstance(f, ast.FunctionDef)}
        imported = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        found[name] = Module(functions=functions, imported=imported)
    return found


def carried(function: ast.FunctionDef, module: Module, modules: Mapping[str, Module]) -> set[str]:
    """Names in a function that are the recipe or carry it: parameters by their annotation, and what is made of them."""
    names = {a.arg for a in _parameters(function) if a.annotation and ast.unparse(a.annotation) in CARRIERS}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and (_whole(node.value, names) or _gives(node.value, module, modules)):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return names


def _gives(node: ast.expr, module: Module, modules: Mapping[str, Module]) -> bool:
    """Whether an expression calls a function that gives a carrier."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    there, name = module.imported.get(node.func.id, ("", ""))
    found = modules[there].functions.get(name) if there in modules else module.functions.get(node.func.id)
    return found is not None and found.returns is not None and ast.unparse(found.returns) in CARRIERS


def _parameters(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _whole(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is one of the names, or a carrier's `recipe`."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("recipe", "job") and (_whole(node.value, names) or ast.unparse(node.value) == "self")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "model_copy":
        return _whole(node.func.value, names)
    return isinstance(node, ast.Name) and node.id in names


def calls(function: ast.FunctionDef, module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """Names of the functions that get the recipe, in the order of the code; methods of other objects are not known."""
    names = carried(function, module, modules)
    found = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
    for node in sorted(found, key=lambda n: (n.end_lineno or 0, n.end_col_offset or 0)):
        given = [*node.args, *(k.value for k in node.keywords)]
        if isinstance(node.func, ast.Name) and any(_whole(a, names) for a in given):
            yield node.func.id


def walk(modules: Mapping[str, Module], *begins: tuple[str, str]) -> list[tuple[str, str]]:
    """Where the recipe is, one entry a move: module and function, back in a caller too where it goes on from there."""
    moves: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()

    def enter(module: str, name: str) -> None:
        seen.add((module, name))
        moves.append((module, name))
        for called in calls(modules[module].functions[name], modules[module], modules):
            there, own = modules[module].imported.get(called, (module, called))
            own = own if own in modules.get(there, Module({}, {})).functions else f"{own}.__init__"
            if there in modules and own in modules[there].functions and (there, own) not in seen:
                if moves[-1][0] != module:
                    moves.append((module, name))
                enter(there, own)
            if HANDED_OVER in seen:  # what comes after is made of the trained model
                return

    for begin in begins:
        seen.discard(HANDED_OVER)
        enter(*begin)
    return moves


def climbs(moves: list[tuple[str, str]]) -> list[str]:
    """Moves from a room to one of a higher layer."""
    levels = {**LEVELS, ASIDE: -1}
    pairs = [(a[0], b[0]) for a, b in pairwise(moves)]
    return [f"{a} -> {b}" for a, b in pairs if levels[room(b)] > levels[room(a)]]


def test_a_recipe_goes_straight_to_the_training_worker() -> None:
    moves = walk(read(tuple(sources().items())), BEGIN, *WORKER)
    modules = list(dict.fromkeys(module for module, _ in moves))
    assert len(modules) <= MOST_MODULES, modules
    assert len(climbs(moves)) <= MOST_CLIMBS, climbs(moves)
    assert {
        "interlace.train.run",
        "interlace.data.index.build",
        "interlace.recipe.start",
        "interlace.train.loop",
    } <= set(modules)


def test_a_planted_detour_is_found(tmp_path: Path) -> None:
    head = "from interlace.recipe.recipe import Recipe\n"
    last = "def last(recipe: Recipe):\n    return recipe.name\n"
    same = "def {}(recipe: Recipe):\n    return recipe\n"
    plant(
        tmp_path,
        pipeline__results__training=f"{head}from interlace.data.a import a\nfrom interlace.recipe.b import b\n"
        "def train(recipe: Recipe):\n    b(recipe)\n    a(recipe)\n",
        pipeline__data__a=f"{head}from interlace.recipe.b import c\ndef a(recipe: Recipe):\n    c(recipe)\n"
        f"    last(recipe)\n{last}",
        pipeline__recipe__b=head + same.format("b") + same.format("c"),
    )
    moves = walk(read(tuple(sources(tmp_path).items())), BEGIN)
    assert [f"{m.removeprefix('interlace.')}.{f}" for m, f in moves] == [
        "results.training.train", "recipe.b.b", "results.training.train", "data.a.a", "recipe.b.c", "data.a.a",
        "data.a.last",
    ]  # fmt: skip
    assert len(climbs(moves)) == 2
