"""A fresh environment that sees what is installed here, and another package installed into it."""

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.types import ROOT

SECOND = ROOT / "tests" / "second_package"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A virtual environment and the source of the package that was installed into it."""

    python: Path
    source: Path

    def run(self, *words: str, cwd: Path, timeout_s: float = 600.0) -> "subprocess.CompletedProcess[str]":
        """Run its Python with these arguments."""
        return subprocess.run(
            [str(self.python), *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout_s
        )


def make_environment(folder: Path, package: Path = SECOND) -> Environment:
    """Copy a package into a folder and install the copy, by pip and without any network, beside what is there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "venv" / "lib" / version / "site-packages"
    outer = sysconfig.get_path("purelib")
    (site / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n", encoding="utf-8")
    source = folder / "source"
    shutil.copytree(package, source, ignore=shutil.ignore_patterns("__pycache__"))
    made = Environment(python=python, source=source)
    done = made.run(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", str(source), cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return made
