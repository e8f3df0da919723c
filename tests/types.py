"""`python -m tests.types`: type checks of the project under its import name.

The folders `pipeline`, `jobs` and `cluster` are installed as `interlace`, `interlace.jobs` and `interlace.cluster`,
which mypy can't see by itself: it is given a folder of links that has that shape.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def link_packages(folder: Path, root: Path = ROOT) -> Mapping[str, str]:
    """Fill a folder with `interlace` as it is installed, made of links; gives back link -> folder of the project."""
    package = folder / "interlace"
    package.mkdir(parents=True)
    links = {package / path.name: path for path in (root / "pipeline").iterdir() if path.name != "__pycache__"}
    links |= {package / name: root / name for name in ("jobs", "cluster")}
    for link, path in links.items():
        link.symlink_to(path)
    return {str(link): path.relative_to(root).as_posix() for link, path in links.items()}


def check_types(words: Sequence[str] = (), root: Path = ROOT) -> tuple[int, str]:
    """Exit code and output of mypy over the packages, paths as the project has them."""
    with tempfile.TemporaryDirectory() as folder:
        links = link_packages(Path(folder).resolve(), root)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *words]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "MYPYPATH": folder}, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        for link, path in links.items():
            said = said.replace(link, path).replace(os.path.relpath(link, folder), path)
    return done.returncode, said


def main() -> None:
    """Print what mypy says."""
    code, said = check_types([f"--cache-dir={ROOT / '.mypy_cache'}", *sys.argv[1:]])
    sys.stdout.write(said)
    sys.exit(code)


if __name__ == "__main__":
    main()
