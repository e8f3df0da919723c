"""The project's documents as laws see them: texts, blocks, commands, file maps, figures."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
import typer.main

from interlace.jobs.cli import app
from tests.laws.code import PACKAGES, ROOT

FOLDERS = (*PACKAGES, "tests")
README = "README.md"
COMMAND: Any = typer.main.get_command(app)
UsageError = typer.BadParameter.__mro__[1]  # of the click that typer carries within it
UNNAMED = ("__init__", "__main__", "conftest")

Documents = Mapping[str, str]
"""Path of a document, relative to the root -> its text."""


def documents() -> dict[str, str]:
    """README.md of the root and of every folder that has one."""
    paths = [ROOT / README, *(f for folder in FOLDERS for f in sorted((ROOT / folder).rglob(README)))]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in paths}


def section(title: str, text: str) -> str:
    """The text below a heading of the second level; empty where there is none."""
    return f"\n{text}".partition(f"\n## {title}\n")[2].split("\n## ", 1)[0]


def fences(language: str, texts: Iterable[str]) -> list[str]:
    """Fenced blocks of a language."""
    return [f for text in texts for f in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def inline(texts: Iterable[str]) -> list[str]:
    """Code in backticks outside fenced blocks."""
    outside = [re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL) for text in texts]
    return [code.replace("\n", " ") for text in outside for code in re.findall(r"`([^`]+)`", text)]


def words_of(lines: Iterable[str]) -> Iterator[list[str]]:
    """Words of every command, those of a chain with `&&` one by one."""
    for line in "\n".join(lines).replace("\\\n", " ").split("\n"):  # a backslash goes on in the next line
        for part in line.split("&&"):
            if words := shlex.split(part, comments=True):
                yield words


def commands(lines: Iterable[str]) -> Iterator[list[str]]:
    """Arguments of every `interlace` command."""
    for words in words_of(lines):
        if words[0].rpartition("/")[2] == "interlace":
            yield words[1:]


def parse(words: list[str]) -> None:
    """Parse as the command line does, without running anything. Raises UsageError."""
    command, name = COMMAND, "interlace"
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            raise UsageError(f"no such verb: {words}")
        command, name, words = command.commands[words[0]], words[0], words[1:]
    command.make_context(name, list(words))


def walk(command: Any) -> Iterator[Any]:
    """A command and all below it."""
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from walk(inner)


def absent(words: list[str]) -> list[str]:
    """What a `python` command names though it is not there: modules of tests, files and folders of the project."""
    named = [w.replace(".", "/") for w in words if re.fullmatch(r"tests(\.\w+)+", w)]
    modules = [n for n in named if not any((ROOT / f"{n}{end}.py").exists() for end in ("", "/__main__"))]
    paths = [w for w in words if re.match(rf"({'|'.join(FOLDERS)})/", w) and not (ROOT / w).exists()]
    return modules + paths


def file_map(text: str) -> dict[str, str]:
    """Place -> what its line says, for each line of the section `File map` that opens with a place."""
    return dict(re.findall(r"^(?:\| *|- *)?`([^`]+)`(.*)$", section("File map", text), re.MULTILINE))


def inside(folder: Path) -> set[str]:
    """Modules right in a folder, and folders of modules, these with a slash; of tests only the folders."""
    modules = {f.stem for f in folder.glob("*.py")} - set(UNNAMED) if folder.name != "tests" else set()
    return modules | {f"{d.name}/" for d in folder.iterdir() if any(f.stem != "__init__" for f in d.rglob("*.py"))}


def needed() -> set[str]:
    """What must be named: each folder of modules or recipes, and each module right in a package."""
    files = [f.relative_to(ROOT) for p in PACKAGES for f in (ROOT / p).rglob("*.*") if f.suffix in (".py", ".yaml")]
    folders = {f"{f.parent.as_posix()}/" for f in files} | {f"tests/{d}" for d in inside(ROOT / "tests")}
    return folders - {"pipeline/"} | {f.as_posix() for f in files if len(f.parts) == 2 and f.stem not in UNNAMED}


def faults_of_maps(texts: Documents) -> list[str]:
    """What the file maps lack, and what they name though it is not there."""
    rows = {place: said for text in texts.values() for place, said in file_map(text).items()}
    named, faults = set(rows), [f"`{place}` is not there" for place in rows if not (ROOT / place).exists()]
    for place, said in rows.items():
        names = re.findall(r"`([^`]+)`", said)
        if len(re.findall(r"[a-z]\w+", said.partition("`")[0])) < 2:  # `x/` alone tells nobody what it is for
            faults.append(f"`{place}` has no sentence")
        if not (ROOT / place).is_dir():
            continue
        here = inside(ROOT / place)
        named |= {f"{place}{n}" if n.endswith("/") else f"{place}{n}.py" for n in names}
        faults += [f"`{place}`: `{n}` is not there" for n in names if n not in here]
        if here & set(names):  # a line that names files of its folder names all, or they have lines of their own
            left = here - set(names) - {r.removeprefix(place) for r in rows}
            faults += [f"`{place}` does not name `{n}`" for n in sorted(left)]
    for document, text in texts.items():
        away = [place for place in file_map(text) if not place.startswith(document.removesuffix(README))]
        faults += [f"{document} maps `{place}`, which lies elsewhere" for place in away]
    return faults + [f"no file map names {n}" for n in sorted(needed() - named)]


def figures(text: str) -> dict[str, str]:
    """Title -> text of each block of measured figures."""
    blocks = section("Figures", text).split("\n### ")[1:]
    return {block.partition("\n")[0]: block.partition("\n")[2] for block in blocks}


def faults_of_figures(text: str) -> list[str]:
    """Blocks of figures without their day or a command that can be run."""
    faults = []
    for title, block in figures(text).items():
        head = block.strip().partition("\n\n")[0]
        if not re.match(r"20\d\d-\d\d-\d\d, `", head):
            faults.append(f"{title}: no day")
        measured = [c for c in inline([head]) if re.match(r"python -m (tests\.benchmarks\.|pytest )|interlace ", c)]
        faults += [f"{title}: {lack} is not there" for c in measured for lack in absent(shlex.split(c))]
        if not measured:
            faults.append(f"{title}: no command")
    return faults


def faults_of_links(texts: Documents) -> list[str]:
    """Links to files, or headings of them, that are not there."""
    faults = []
    for document, text in texts.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, heading = link.partition("#")
            target = ROOT / document if not place else (ROOT / document).parent / place
            if "://" in link:
                continue
            if not target.exists():
                faults.append(f"{document}: {place} is not there")
            elif heading and heading not in headings(target.read_text(encoding="utf-8")):
                faults.append(f"{document}: {place} has no heading {heading}")
    return faults


def headings(text: str) -> set[str]:
    """Headings as links name them."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found}


def opens_with_a_model(text: str) -> bool:
    """Whether a document has a numbered list of three lines or more before its first section."""
    opening = text.partition("\n## ")[0]
    return re.findall(r"^(\d)\. ", opening, re.MULTILINE)[:3] == ["1", "2", "3"]
