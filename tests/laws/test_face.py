"""The Python face: its names are the command line's, importing it is quick, and rooms keep their names beside verbs."""

import inspect
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
import typer.main

import interlace
import interlace.train.loop
import interlace.tune.plan
from interlace.jobs.cli import app
from tests.laws.code import ROOT

VERBS = ("train", "tune", "index", "prepare", "evaluate", "predict", "inspect")
PLURAL = {"label": "labels"}
"""Flags that may be given repeatedly and read as one thing each; in Python all of them are one argument."""
OTHER_DEFAULTS = {("inspect", "out")}
"""The command has to write its page somewhere; in Python the page is what comes back."""
MOST_S = 0.2


def flags(verb: str, command: Any = None) -> dict[str, Any]:
    """Names of a verb's arguments and flags as Python would have them, with their defaults."""
    command = command or typer.main.get_command(app)
    found = {}
    for param in command.commands[verb].params:
        name = max(param.opts, key=len).lstrip("-").replace("-", "_")
        if name != "help":
            found[PLURAL.get(name, name)] = param.default
    return found


def differences(verb: str, function: Callable[..., Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """How a function of the face differs from the flags of its verb."""
    own = inspect.signature(function).parameters
    yield from (f"{verb}: no parameter `{name}`" for name in wanted if name not in own)
    yield from (f"{verb}: no flag `{name}`" for name in own if name not in (*wanted, "listener"))
    for name, default in wanted.items():
        compared = isinstance(default, str | int | float) and name in own and (verb, name) not in OTHER_DEFAULTS
        if compared and own[name].default != default:
            yield f"{verb}: `{name}` is {own[name].default!r}, the flag {default!r}"


def run(program: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


def test_parameters_are_the_flags_of_the_verb() -> None:
    assert [d for verb in VERBS for d in differences(verb, getattr(interlace, verb), flags(verb))] == []
    assert {"recipe", "set", "run_name", "storage", "tracking_uri", "address", "resume", "fresh", "dry_run"} == set(
        flags("train")
    )
    assert {"keep", "labels", "part_rows", "output"} < set(flags("predict"))
    assert set(VERBS) < set(interlace.__all__)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pause": False}, "train: no parameter `pause`"),
        ({"resume": True}, "train: `resume` is False, the flag True"),
        ({"set": ...}, "train: no flag `set`"),
    ],
)
def test_a_planted_difference_is_found(change: dict[str, Any], told: str) -> None:
    wanted = {name: value for name, value in {**flags("train"), **change}.items() if value is not ...}
    assert list(differences("train", interlace.train, wanted)) == [told]


def test_importing_it_loads_no_large_library() -> None:
    program = "import interlace, sys; sys.stdout.write(' '.join(sys.modules))"
    loaded = set(run(program).split())
    assert loaded & {"torch", "ray", "pandas", "numpy", "pyarrow", "mlflow", "pydantic", "matplotlib", "yaml"} == set()
    assert {"interlace", "interlace.train", "interlace.tune"} <= loaded
    assert "torch" in run(program.replace("interlace", "interlace.train.loop"))


def test_importing_it_takes_less_than_a_fifth_of_a_second_more_than_python() -> None:
    def seconds(program: str) -> float:
        began = time.perf_counter()
        run(program)
        return time.perf_counter() - began

    pairs = [(seconds("import interlace"), seconds("pass")) for _ in range(5)]
    with_it, without = (min(times) for times in zip(*pairs, strict=True))
    assert with_it - without < MOST_S
    assert with_it < 3 * without + 0.05


ORDERS = (
    "import interlace; import interlace.train.stop, interlace.tune.plan",
    "import interlace.train.stop, interlace.tune.plan; import interlace",
    "from interlace.tune import plan; from interlace.train import stop; import interlace",
    "import interlace; interlace.train; from interlace.train import stop; import interlace.tune.plan",
)


@pytest.mark.parametrize("order", ORDERS)
def test_a_verb_and_its_room_go_by_one_name_whatever_is_imported_first(order: str) -> None:
    program = (
        f"{order}\n"
        "import sys\nfrom interlace import train, tune\n"
        "assert train is interlace.train is sys.modules['interlace.train']\n"
        "assert callable(interlace.train) and callable(tune)\n"
        "assert interlace.train.stop.__name__ == 'interlace.train.stop'\n"
        "assert interlace.tune.plan.__name__ == 'interlace.tune.plan'\n"
        "try: interlace.train({'name': 'x'})\n"
        "except Exception as error: sys.stdout.write(type(error).__name__)\n"
    )
    assert run(program) == "RecipeError"


def test_rooms_that_are_verbs_are_modules_for_every_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlace.train.loop.Loop", "patched")
    assert interlace.train.loop.Loop == "patched"  # type: ignore[attr-defined,comparison-overlap]
    assert isinstance(interlace.train, ModuleType)
    assert pickle.loads(pickle.dumps(interlace.train)) is interlace.train
    assert inspect.getdoc(interlace.train.__wrapped__).startswith("Train a recipe")  # type: ignore[union-attr]
    assert os.fspath(ROOT) in str(interlace.train)
