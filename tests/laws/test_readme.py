"""README.md is true: its file map is complete, its commands parse, its recipes are valid, CI installs as it says."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml

from interlace.jobs.cli import app
from interlace.recipe.load import load_recipe, parse_recipe, parse_tree
from interlace.recipe.prepare import PrepareRecipe
from interlace.tune.check import check
from interlace.tune.search import Search
from tests.laws.code import PACKAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND: Any = typer.main.get_command(app)
UsageError = typer.BadParameter.__mro__[1]  # of the click that typer carries within it
UNNAMED = ("__init__", "__main__", "conftest")


def section(title: str, text: str = README) -> str:
    """The text below a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def fences(language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def inline() -> list[str]:
    """Code in backticks outside fenced blocks."""
    outside = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", outside)


def commands(lines: list[str]) -> Iterator[list[str]]:
    """Arguments of every `interlace` command, also at the end of a chain with `&&`."""
    for line in "\n".join(lines).replace("\\\n", " ").split("\n"):  # a backslash goes on in the next line
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words and words[0].rpartition("/")[2] == "interlace":
                yield words[1:]


def parse(words: list[str]) -> None:
    """Parse as the command line does, without running anything. Raises UsageError."""
    command, name = COMMAND, "interlace"
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            raise UsageError(f"no such verb: {words}")
        command, name, words = command.commands[words[0]], words[0], words[1:]
    command.make_context(name, list(words))


def file_map(text: str) -> dict[str, list[str]]:
    """Place -> names in backticks on its line, for each line of the section `File map` that opens with a place."""
    rows = re.findall(r"^(?:\| *|- *)?`([^`]+)`(.*)$", section("File map", text), re.MULTILINE)
    return {place: re.findall(r"`([^`]+)`", rest) for place, rest in rows}


def inside(folder: Path) -> set[str]:
    """Modules right in a folder, and folders of modules, these with a slash; of tests only the folders."""
    modules = {f.stem for f in folder.glob("*.py")} - set(UNNAMED) if folder.name != "tests" else set()
    return modules | {f"{d.name}/" for d in folder.iterdir() if any(f.stem != "__init__" for f in d.rglob("*.py"))}


def needed() -> set[str]:
    """What must be named: each folder of modules or recipes, and each module right in a package."""
    files = [f.relative_to(ROOT) for p in PACKAGES for f in (ROOT / p).rglob("*.*") if f.suffix in (".py", ".yaml")]
    folders = {f"{f.parent.as_posix()}/" for f in files} | {f"tests/{d}" for d in inside(ROOT / "tests")}
    return folders - {"pipeline/"} | {f.as_posix() for f in files if len(f.parts) == 2 and f.stem not in UNNAMED}


def faults_of(text: str) -> list[str]:
    """What a file map lacks, and what it names though it is not there."""
    rows = file_map(text)
    named = set(rows)
    faults = [f"`{place}` is not there" for place in rows if not (ROOT / place).exists()]
    for place, names in rows.items():
        if not (ROOT / place).is_dir():
            continue
        here = inside(ROOT / place)
        named |= {f"{place}{n}" if n.endswith("/") else f"{place}{n}.py" for n in names}
        faults += [f"`{place}`: `{n}` is not there" for n in names if n not in here]
        if here & set(names):  # a line that names files of its folder names all, or they have lines of their own
            elsewhere = {r.removeprefix(place) for r in rows}
            left = here - set(names) - elsewhere
            faults += [f"`{place}` does not name `{n}`" for n in sorted(left)]
    return faults + [f"the file map does not name {n}" for n in sorted(needed() - named)]


def test_the_file_map_is_complete_and_true() -> None:
    assert faults_of(README) == []
    assert len(file_map(README)) > 15


@pytest.mark.parametrize(
    ("pattern", "becomes", "fault"),
    [
        (r"^.*`pipeline/contract/`.*\n", "", "the file map does not name pipeline/contract/"),
        (r"^.*`jobs/datasets/`.*\n", "", "the file map does not name jobs/datasets/"),
        (r"`connect`", "`ghost`", "`cluster/`: `ghost` is not there"),
        (r"`attention`, ", "", "`pipeline/model/` does not name `attention`"),
        (r"^\| `tests/realdata", "| `tests/ghost", "`tests/ghost.py` is not there"),
    ],
)
def test_a_hole_and_a_ghost_in_the_file_map_are_found(pattern: str, becomes: str, fault: str) -> None:
    changed = re.sub(pattern, becomes, README, flags=re.MULTILINE)
    assert fault in set(faults_of(changed)) - set(faults_of(README))


def test_places_named_anywhere_are_there() -> None:
    places = [c for c in inline() if re.fullmatch(rf"({'|'.join(PACKAGES)}|tests)/[\w./-]*", c)]
    places += [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [p for p in places if not (ROOT / p).exists()] == []
    assert len(places) > 15


def test_commands_parse() -> None:
    quoted = list(commands("\n".join(fences("sh")).splitlines()))
    for words in quoted:
        parse(words)
    assert {"demo", "train", "inspect", "evaluate", "schema"} <= {w[0] for w in quoted}


def test_commands_in_the_text_name_verbs_and_flags_that_exist() -> None:
    found = [c for c in inline() if c.startswith("interlace ")]
    for words in commands(found):
        with contextlib.suppress(typer.BadParameter):  # a sentence may name a verb without its arguments
            parse(words)
    options = {o for command in walk(COMMAND) for p in command.params for o in p.opts}
    flags = [word for code in inline() for word in code.split() if word.startswith("--")]
    assert [f for f in flags if f not in options] == []
    assert found
    assert flags


def walk(command: Any) -> Iterator[Any]:
    """A command and all below it."""
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from walk(inner)


@pytest.mark.parametrize("words", [["demos"], ["train", "r.yaml", "--dryrun"], ["track", "sink", "x"], ["train"]])
def test_a_wrong_command_is_found(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


def test_settings_and_recipes_are_valid() -> None:
    recipes = [yaml.safe_load(text) for text in fences("yaml")]
    for tree in recipes:
        if "sources" in tree:
            parse_tree(tree, (), "README", PrepareRecipe)
        else:
            recipe = parse_recipe(tree)
            if "search" in tree:
                assert check(parse_tree(tree["search"], (), "README", Search), recipe) == ()
    settings = [s.rstrip(".,") for s in re.findall(r"--set ([\w.]+=[^\s`]+)", README)]
    load_recipe(ROOT / "jobs" / "recipes" / "emoji.yaml", settings)
    assert recipes
    assert settings


def test_ci_installs_and_tests_as_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    body = script.split("install() {", 1)[1].split("\n}", 1)[0].partition("\n")[2]
    mine = [shlex.split(part) for part in body.replace("$venv", ".venv").split("&&")]
    said = [shlex.split(part) for part in next(f for f in fences("sh") if "venv" in f).split("&&")]
    quiet = [[w for w in words if w != "-q"] for words in said if "interlace" not in words[0]]
    assert [[w for w in words if w != "-q"] for words in mine] == quiet
    assert len(quiet) == 3
    assert ".venv/bin/python -m pytest" in README
    assert re.search(r"^ +step tests python -m pytest$", script, re.MULTILINE)
