"""The documents are true: file maps are complete, commands parse, recipes are valid, CI installs as README.md says."""

import contextlib
import re
import shlex
import subprocess

import pytest
import typer
import yaml

from interlace.data.sources import FORMATS
from interlace.jobs.console import BAD_INPUT, INTERRUPTED, RESUME_ME
from interlace.modalities import MODALITIES
from interlace.model.fusions import FUSIONS
from interlace.recipe.load import load_recipe, parse_recipe, parse_tree
from interlace.recipe.plugins import GROUPS
from interlace.recipe.prepare import PrepareRecipe
from interlace.tasks import TASKS
from interlace.tune.check import check
from interlace.tune.search import Search
from tests.laws.code import PACKAGES, ROOT, sources
from tests.laws.documents import (
    COMMAND,
    FOLDERS,
    UsageError,
    absent,
    commands,
    documents,
    faults_of_figures,
    faults_of_links,
    faults_of_maps,
    fences,
    figures,
    file_map,
    inline,
    opens_with_a_model,
    parse,
    section,
    walk,
    words_of,
)

DOCUMENTS = documents()
TEXTS = tuple(DOCUMENTS.values())
README = DOCUMENTS["README.md"]
MOST_LINES = 200


def changed(document: str, pattern: str, becomes: str) -> dict[str, str]:
    """The documents with a change in one of them."""
    text = re.sub(pattern, becomes, DOCUMENTS[document], count=1, flags=re.MULTILINE)
    assert text != DOCUMENTS[document], "nothing was planted"
    return {**DOCUMENTS, document: text}


def test_the_readme_is_short_and_leads_to_all_other_documents() -> None:
    assert len(README.splitlines()) <= MOST_LINES
    assert [d for d in DOCUMENTS if d != "README.md" and f"]({d})" not in README] == []
    assert len(DOCUMENTS) > 10


def test_documents_of_folders_open_with_a_numbered_model_that_stands_once() -> None:
    folders = {d: text for d, text in DOCUMENTS.items() if d != "README.md"}
    assert [d for d, text in folders.items() if not opens_with_a_model(text)] == []
    packages = [(ROOT / d).with_name("__init__.py") for d in folders]
    twice = [p for p in packages if p.exists() and re.search(r"^1\. ", p.read_text(encoding="utf-8"), re.MULTILINE)]
    assert twice == []
    assert not opens_with_a_model(re.sub(r"^2\. ", "", DOCUMENTS["pipeline/README.md"], flags=re.MULTILINE))


def test_the_file_maps_are_complete_and_true() -> None:
    assert faults_of_maps(DOCUMENTS) == []
    assert sum(len(file_map(text)) for text in TEXTS) > 25
    assert {d for d, text in DOCUMENTS.items() if file_map(text)} == {f"{f}/README.md" for f in FOLDERS}


@pytest.mark.parametrize(
    ("document", "pattern", "becomes", "fault"),
    [
        ("pipeline", r"^.*`pipeline/contract/`.*\n", "", "no file map names pipeline/contract/"),
        ("jobs", r"^.*`jobs/datasets/`.*\n", "", "no file map names jobs/datasets/"),
        ("cluster", r"(`cluster/` .*)`connect`", r"\1`ghost`", "`cluster/`: `ghost` is not there"),
        ("pipeline", r"(`pipeline/model/` .*)`attention`, ", r"\1", "`pipeline/model/` does not name `attention`"),
        ("tests", r"^\| `tests/realdata", "| `tests/ghost", "`tests/ghost.py` is not there"),
        ("pipeline", r"^(\| `pipeline/store/` \|)[^`]*", r"\1 ", "`pipeline/store/` has no sentence"),
        ("jobs", r"^\| `jobs/`", "| `tests/unit/`", "jobs/README.md maps `tests/unit/`, which lies elsewhere"),
    ],
)
def test_a_hole_and_a_ghost_in_a_file_map_are_found(document: str, pattern: str, becomes: str, fault: str) -> None:
    assert fault in faults_of_maps(changed(f"{document}/README.md", pattern, becomes))


def test_places_named_anywhere_are_there() -> None:
    codes = inline(TEXTS)
    places = [c for c in codes if re.fullmatch(rf"({'|'.join(PACKAGES)}|tests)/[\w./-]*", c)]
    assert [p for p in places if not (ROOT / p).exists()] == []
    files = [c for c in codes if re.fullmatch(r"[\w/]+\.py", c)]
    there = [f"/{f.relative_to(ROOT).as_posix()}" for folder in FOLDERS for f in (ROOT / folder).rglob("*.py")]
    assert [f for f in files if not any(t.endswith(f"/{f}") for t in there)] == []
    modules = [c for c in codes if re.fullmatch(r"interlace(\.[a-z_]+)+", c)]
    entry_points = {f"interlace.{group}" for group in GROUPS}
    assert [m for m in modules if m not in sources() and m not in entry_points] == []
    assert len(places) > 40
    assert len(files) > 10


def test_links_lead_to_files_and_headings_that_are_there() -> None:
    assert faults_of_links(DOCUMENTS) == []
    assert sum(text.count("](") for text in TEXTS) > 40


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("ghost.md", "ghost.md is not there"),
        ("tests/README.md#ghosts", "tests/README.md has no heading ghosts"),
        ("#ghosts", " has no heading ghosts"),
    ],
)
def test_a_planted_link_to_nothing_is_found(link: str, fault: str) -> None:
    assert faults_of_links({**DOCUMENTS, "README.md": f"{README}\n[there]({link})\n"}) == [f"README.md: {fault}"]


def test_commands_parse() -> None:
    quoted = list(commands(fences("sh", TEXTS)))
    for words in quoted:
        parse(words)
    shown = {w[0] for w in commands(fences("sh", [README]))}
    assert {"demo", "train", "inspect", "evaluate", "schema"} <= shown
    scripts = fences("sh", TEXTS)
    for script in scripts:
        subprocess.run(["bash", "-n", "-c", script], check=True)
    assert len(scripts) > 20


def test_every_verb_has_an_example() -> None:
    shown = {
        tuple(w[:2]) if w[0] == "track" else (w[0],) for w in commands(fences("sh", [DOCUMENTS["jobs/README.md"]]))
    }
    verbs = {
        ("track", n) if g == "track" else (g,) for g, c in COMMAND.commands.items() for n in getattr(c, "commands", [g])
    }
    assert verbs - shown == set()
    assert ("track", "sync") in verbs
    assert len(verbs) > 15


def test_exit_codes_are_those_of_the_command_line() -> None:
    codes = re.findall(r"^\| (\d+) \|", section("Exit codes", DOCUMENTS["jobs/README.md"]), re.MULTILINE)
    assert {0, 1, BAD_INPUT, RESUME_ME, INTERRUPTED} == {int(c) for c in codes}


def test_commands_in_the_text_name_verbs_and_flags_that_exist() -> None:
    found = [c for c in inline(TEXTS) if c.startswith("interlace ")]
    for words in commands(found):
        with contextlib.suppress(typer.BadParameter):  # a sentence may name a verb without its arguments
            if words[0] != "VERB":  # stands for any
                parse(words)
    options = {o for command in walk(COMMAND) for p in command.params for o in p.opts}
    flags = [w for code in inline(TEXTS) if not code.startswith("mlflow ") for w in code.split() if w.startswith("--")]
    assert [f for f in flags if f not in options and f != "--help"] == []
    assert found
    assert flags


@pytest.mark.parametrize("words", [["demos"], ["train", "r.yaml", "--dryrun"], ["track", "sink", "x"], ["train"]])
def test_a_wrong_command_is_found(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


def test_commands_of_python_name_modules_and_tests_that_exist() -> None:
    lines = [*fences("sh", TEXTS), *(c for c in inline(TEXTS) if c.startswith("python "))]
    found = [w for w in words_of(lines) if w[0].rpartition("/")[2] == "python"]
    assert [lack for words in found for lack in absent(words)] == []
    assert len(found) > 25
    assert absent(shlex.split("python -m tests.benchmarks.ghost")) == ["tests/benchmarks/ghost"]
    assert absent(shlex.split("python -m pytest tests/ghost -q")) == ["tests/ghost"]


def test_settings_and_recipes_are_valid() -> None:
    recipes = [yaml.safe_load(text) for text in fences("yaml", TEXTS)]
    for tree in recipes:
        if "sources" in tree:
            parse_tree(tree, (), "README", PrepareRecipe)
        else:
            recipe = parse_recipe(tree)
            if "search" in tree:
                assert check(parse_tree(tree["search"], (), "README", Search), recipe) == ()
    settings = [s.rstrip(".,") for text in TEXTS for s in re.findall(r"--set ([\w.]+=[^\s`]+)", text)]
    load_recipe(ROOT / "jobs" / "recipes" / "emoji.yaml", settings)
    assert len(recipes) >= 8
    assert settings


@pytest.mark.parametrize(
    ("document", "names"),
    [("modalities", set(MODALITIES)), ("model", set(FUSIONS)), ("tasks", set(TASKS))],
)
def test_every_name_that_a_recipe_may_choose_has_its_row(document: str, names: set[str]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENTS[f"pipeline/{document}/README.md"], re.MULTILINE)
    assert sorted(rows) == sorted(names)
    assert len(names) >= 5


def test_every_format_of_shards_has_its_example() -> None:
    text = DOCUMENTS["pipeline/data/README.md"]
    shown = set(re.findall(r"format: (\w+)", "".join(fences("yaml", [text]))))
    assert shown == set(FORMATS) - {"parquet"}  # which is the default
    assert "Parquet by default" in text


def test_every_figure_has_its_day_and_command() -> None:
    text = DOCUMENTS["tests/README.md"]
    assert faults_of_figures(text) == []
    assert len(figures(text)) > 8
    benchmarks = {f.stem for f in (ROOT / "tests" / "benchmarks").glob("*.py")}
    assert {b for b in benchmarks if not re.search(rf"benchmarks[./]{b}\b|`{b}`", text)} == set()


@pytest.mark.parametrize(
    ("pattern", "becomes", "fault"),
    [
        (r"^20..-..-.., (`python -m tests.benchmarks.icu)", r"\1", "Intensive care: no day"),
        (r"`python -m tests.benchmarks.icu`", "`icu`", "Intensive care: no command"),
        (r"tests.benchmarks.icu", "tests.benchmarks.ghost", "Intensive care: tests/benchmarks/ghost is not there"),
        (r"tests/e2e/test_serving.py", "tests/e2e/ghost.py", "Serving: tests/e2e/ghost.py is not there"),
    ],
)
def test_a_figure_without_day_or_command_is_found(pattern: str, becomes: str, fault: str) -> None:
    assert faults_of_figures(changed("tests/README.md", pattern, becomes)["tests/README.md"]) == [fault]


def test_every_shipped_recipe_has_its_data_result_and_command() -> None:
    text = DOCUMENTS["jobs/recipes/README.md"]
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(\1\.yaml\) \|(.*)\|$", section("Recipes", text), re.MULTILINE))
    shipped = {f.stem for f in (ROOT / "jobs" / "recipes").glob("*.yaml")}
    assert set(rows) == shipped
    assert all(len(cells.split(" | ")) == 3 and all(c.strip() for c in cells.split(" | ")) for cells in rows.values())
    trained = {word for words in commands(fences("sh", [text])) if words[0] == "train" for word in words}
    assert {f"jobs/recipes/{name}.yaml" for name in shipped} <= trained
    measured = " ".join(figures(DOCUMENTS["tests/README.md"]).values())
    results = {n: re.findall(r"\d+(?:[.,]\d+)+", cells.rpartition(" | ")[2]) for n, cells in rows.items()}
    assert {n: f for n, found in results.items() for f in found if f not in measured} == {}
    assert sum(len(found) for found in results.values()) > 10


def undefined(text: str) -> list[str]:
    """Names in the section `Add to it` that no file of the library or of the tests defines."""
    names = [c for c in inline([section("Add to it", text)]) if re.fullmatch(r"[A-Za-z_]+(\.(?!py$)[a-z_]+)?", c)]
    code = "\n".join(f.read_text(encoding="utf-8") for d in ("pipeline", "tests") for f in (ROOT / d).rglob("*.py"))
    defined = set(re.findall(r"^ *(?:def|class) (\w+)|^ *(\w+)(?::|\s*=) ", code, re.MULTILINE))
    known = {name for pair in defined for name in pair}
    return [n for n in names if n.rpartition(".")[2] not in known]


def test_what_an_addition_follows_is_defined() -> None:
    text = DOCUMENTS["pipeline/README.md"]
    assert undefined(text) == []
    assert undefined(text.replace("`measure`", "`measures_up`")) == ["measures_up"]
    assert len(re.findall(r"`\w+`", section("Add to it", text))) > 20


def test_ci_installs_and_tests_as_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    body = script.split("install() {", 1)[1].split("\n}", 1)[0].partition("\n")[2]
    mine = [shlex.split(part) for part in body.replace("$venv", ".venv").split("&&")]
    said = [shlex.split(part) for part in next(f for f in fences("sh", [README]) if "venv" in f).split("&&")]
    quiet = [[w for w in words if w != "-q"] for words in said if "interlace" not in words[0]]
    assert [[w for w in words if w != "-q"] for words in mine] == quiet
    assert len(quiet) == 3
    assert ".venv/bin/python -m pytest" in README
    assert re.search(r"^ +step tests python -m pytest$", script, re.MULTILINE)
