"""Habits that hold in every file: size, no print, no bare except, unit tests without Ray and sleep, one version."""

import ast
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.laws.code import PACKAGES, ROOT, targets

MOST_LINES = 400


def files(*folders: str) -> list[Path]:
    """Python files below folders of the repository."""
    return sorted(f for folder in folders for f in (ROOT / folder).rglob("*.py"))


def habits(tree: ast.AST) -> Iterator[str]:
    """Calls of print and handlers without a type."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"line {node.lineno}: print"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: bare except"


def restless(tree: ast.AST) -> Iterator[str]:
    """Imports of Ray and calls of sleep."""
    yield from (t for t in targets(tree, {}) if t.partition(".")[0] == "ray")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "sleep":
            yield f"line {node.lineno}: sleep"


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in files(*PACKAGES, "tests")}
    assert {f.relative_to(ROOT).as_posix(): n for f, n in lengths.items() if n > MOST_LINES} == {}
    assert len(lengths) > 80


def test_no_print_and_no_bare_except() -> None:
    found = {f: list(habits(ast.parse(f.read_text(encoding="utf-8")))) for f in files(*PACKAGES)}
    assert {f.relative_to(ROOT).as_posix(): h for f, h in found.items() if h} == {}
    assert len(found) > 50


def test_unit_tests_neither_import_ray_nor_sleep() -> None:
    found = {f: list(restless(ast.parse(f.read_text(encoding="utf-8")))) for f in files("tests/unit")}
    assert {f.relative_to(ROOT).as_posix(): h for f, h in found.items() if h} == {}
    assert len(found) > 15


@pytest.mark.parametrize("text", ["print(1)", "try:\n    f()\nexcept:\n    pass", "def f():\n    print()"])
def test_a_planted_habit_is_found(text: str) -> None:
    assert len(list(habits(ast.parse(text)))) == 1


@pytest.mark.parametrize("text", ["import ray.data", "from ray import train", "time.sleep(1)", "sleep(1)"])
def test_planted_unrest_is_found(text: str) -> None:
    assert len(list(restless(ast.parse(text)))) == 1


def test_the_installed_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata.version("interlace") == project["version"]
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
