"""Writes a kit: what a machine with Python 3.12 and PyTorch, and no network, must be brought to run `run` of it.

    run.py      unpacks the wheels and runs the kit (`launch.py`)
    source/     Interlace, and those modules of its tests that the kit imports
    packs/      what is trained on, written beforehand
    wheels/     the packages that the kit loads here and that PyTorch does not bring, for that Python

Which modules and packages those are is found by loading the kit in a process of its own. Ray, MLflow, and what reads
shards (Arrow, decoders) are none of them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu import launch, mix
from tests.benchmarks.gpu.kit import BUDGETS_S, prepare
from tests.benchmarks.gpu.paper import arithmetic
from tests.benchmarks.gpu.results import table

ROOT = Path(__file__).parents[3]
LIMIT = 64 * 2**20
"""Bytes of a kit, at most."""
PYTHON = ".".join(map(str, launch.PYTHON))
PLATFORMS = tuple(
    f"manylinux{version}_x86_64" for version in ("_2_28", "_2_27", "_2_17", "2014", "1", "_2_24", "_2_34")
)
"""pip takes a tag only where it is the same to the letter."""
THERE = ("torch", "numpy", "setuptools")
"""What that machine has; also all that these need, but for `OWN`."""
OWN = ("typing-extensions",)
"""Brought all the same: newer packages want a newer one."""
NEVER = ("ray", "mlflow", "pyarrow")
"""What must not be loaded: large, or not for that Python."""
PACKAGES = {"pipeline": "interlace", "jobs": "interlace/jobs", "cluster": "interlace/cluster"}
PROBE = """
import importlib, json, pathlib, sys
import pytest
from tests.benchmarks.gpu import correct, kit, paper, results, speed
for name in sorted(path.stem for path in pathlib.Path({folder!r}).glob("*.py")):
    importlib.import_module("tests.gpu." + name)
import interlace.train.checkpoint, interlace.train.compile
root = {root!r}
files = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
print(json.dumps({{
    "names": sorted({{m.partition(".")[0] for m in sys.modules}}),
    "files": sorted(f for f in files if f and f.startswith(root + "/tests/")),
}}))
"""


def gather(folder: Path) -> None:
    """Write the kit, and say how large each of its parts is and how long it should take."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"expected a new or empty folder, but {folder} has files")
    folder.mkdir(parents=True, exist_ok=True)
    names, files = loaded()
    copy_sources(folder / "source", files)
    shutil.copy(launch.__file__, folder / "run.py")
    prepare(folder / "packs", BUDGETS_S, tiny=False)
    prepare(folder / "packs", mix.SIZES, tiny=True)
    download(folder / "wheels", needed(names))
    lines = sizes(folder)
    times = arithmetic([mix.read(folder / "packs", name) for name in mix.SIZES])
    text = [*table(lines), *(row for kind in ([times[0], times[-1]], times[1:-1]) for row in table(kind))]
    print("\n".join(text))  # noqa: T201
    total = sum(line["bytes"] for line in lines[:-1])
    if total > LIMIT:
        raise SystemExit(f"the kit has {total:,} bytes, more than {LIMIT:,}")


def loaded() -> tuple[list[str], list[Path]]:
    """Outermost names of all modules that the kit loads, and the files of the tests among them."""
    program = PROBE.format(folder=str(ROOT / "tests" / "gpu"), root=str(ROOT))
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"the kit can't be loaded:\n{done.stderr}")
    found = json.loads(done.stdout)
    if stray := sorted(set(NEVER) & set(found["names"])):
        raise SystemExit(f"the kit loads {', '.join(stray)}, which is not brought")
    return found["names"], [Path(file) for file in found["files"]]


def needed(names: Iterable[str]) -> list[str]:
    """Distributions of these modules with their versions, without those that PyTorch brings."""
    there = {canonical(name) for name in closure(THERE)} - set(OWN) | {"interlace"}
    owners = metadata.packages_distributions()
    outside = set(names) - {"tests", "interlace"}  # other packages too install something called `tests`
    found = {canonical(owner) for name in outside for owner in owners.get(name, ())}
    return [f"{name}=={metadata.version(name)}" for name in sorted(found - there)]


def closure(names: Sequence[str]) -> set[str]:
    """Distributions, and all that they need here without extras."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = canonical(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        todo += [one.split(";")[0].strip() for one in wanted if "extra ==" not in one]
    return seen


def canonical(name: str) -> str:
    """A distribution's name without version and extras, as indexes write it."""
    for end in " [<>=!~(":
        name = name.partition(end)[0]
    return name.strip().lower().replace("_", "-").replace(".", "-")


def copy_sources(folder: Path, files: Sequence[Path]) -> None:
    """Interlace under the name that it is installed by, and the files of tests."""
    for place, package in PACKAGES.items():
        ignored = shutil.ignore_patterns("__pycache__", "*.md", "recipes")
        shutil.copytree(ROOT / place, folder / package, ignore=ignored, dirs_exist_ok=True)
    tests = [*files, *(ROOT / "tests" / "gpu").glob("*.py"), *Path(__file__).parent.glob("*.py")]
    for file in tests:
        target = folder / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def download(folder: Path, wanted: Sequence[str]) -> None:
    """Wheels for that machine, from pip's index."""
    tags = [word for platform in PLATFORMS for word in ("--platform", platform)]
    kind = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *tags]
    words = [sys.executable, "-m", "pip", "download", "-q", *kind, "-d", str(folder), *wanted]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip could not download wheels for Python {PYTHON}:\n{done.stderr[-2000:]}")


def sizes(folder: Path) -> list[dict[str, Any]]:
    """Bytes of each wheel and of each other part; all of them last."""

    def of(path: Path) -> int:
        return path.stat().st_size if path.is_file() else sum(map(of, path.iterdir()))

    parts = [*sorted((folder / "wheels").iterdir(), key=of, reverse=True)]
    parts += [path for path in sorted(folder.iterdir()) if path.name != "wheels"]
    lines: list[dict[str, Any]] = [{"part": os.path.relpath(path, folder), "bytes": of(path)} for path in parts]
    return [*lines, {"part": f"all, of {LIMIT:,} at most", "bytes": of(folder)}]
