"""What is installed: one package under one name, all of it, and it works where nothing of the checkout is near."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.laws.code import PACKAGES, ROOT, sources

DATA = {"jobs/recipes": "interlace/jobs/recipes", "cluster/templates": "interlace/cluster/templates"}
"""Folders of files that are no modules -> their place in the package."""


def packages(root: Path = ROOT) -> set[str]:
    """Every folder that holds modules, by the name it is imported by."""
    return {name if file.name == "__init__.py" else name.rpartition(".")[0] for name, file in sources(root).items()}


def faults_of(listed: Iterable[str], root: Path = ROOT) -> list[str]:
    """What a list of packages lacks, and what it names though it is not there."""
    here, named = packages(root), set(listed)
    where = "`tool.setuptools.packages`"
    ghosts = [f"{where} names {name}, which holds no module" for name in sorted(named - here)]
    return [f"{where} does not name {name}" for name in sorted(here - named)] + ghosts


def listed() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names: list[str] = project["tool"]["setuptools"]["packages"]
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, built from a copy, since building writes beside the sources."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "legacy"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=copy, capture_output=True, check=True)
    (made,) = out.iterdir()
    return made


def test_the_list_of_packages_is_complete_and_true() -> None:
    assert faults_of(listed()) == []
    assert len(listed()) == len(set(listed())) > 15


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        ("pipeline/data/novelty/__init__.py", "does not name interlace.data.novelty"),
        ("jobs/novelty/module.py", "does not name interlace.jobs.novelty"),
        (None, "names interlace.ghost, which holds no module"),
    ],
)
def test_a_hole_and_a_ghost_in_the_list_of_packages_are_found(tmp_path: Path, planted: str | None, fault: str) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    if planted is not None:
        (tmp_path / planted).parent.mkdir()
        (tmp_path / planted).write_text("")
    named = listed() if planted is not None else [*listed(), "interlace.ghost"]
    assert faults_of(named, tmp_path) == [f"`tool.setuptools.packages` {fault}"]


def test_a_wheel_holds_one_package_with_every_module_template_and_recipe(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {
        f"{name.replace('.', '/')}{'/__init__' if file.name == '__init__.py' else ''}.py"
        for name, file in sources().items()
    }
    data = {f"{place}/{file.name}" for folder, place in DATA.items() for file in (ROOT / folder).iterdir()}
    data -= {f"{place}/README.md" for place in DATA.values()}
    assert names == modules | data
    assert {name.partition("/")[0] for name in names} == {"interlace"}
    assert len(modules) > 150
    assert len(data) > 20


def test_an_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which sees the dependencies of this one but not its `interlace`."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    away = tmp_path / "away"
    for name in ("pipeline", "jobs", "cluster"):  # the user's own; they do not matter
        (away / name).mkdir(parents=True)
        (away / name / "__init__.py").write_text("raise ImportError('not the library')\n")

    def run(*words: str) -> str:
        done = subprocess.run([str(python), *words], cwd=away, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel))
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    schema = json.loads(run("-m", "interlace.jobs", "schema"))
    assert {"fields", "tasks", "model", "train"} <= set(schema["properties"])
    program = (
        "import interlace.jobs.cli, interlace.cluster.manifests as m; print(interlace.jobs.cli.__file__);"
        "print(m._template('rayjob.yaml'))"
    )
    file, *template = run("-c", program).splitlines()
    assert Path(file) == site / "interlace" / "jobs" / "cli.py"
    assert "kind: RayJob" in template
    console = subprocess.run(
        [str(tmp_path / "env" / "bin" / "interlace"), "schema"], cwd=away, capture_output=True, text=True, check=True
    )
    assert json.loads(console.stdout) == schema
