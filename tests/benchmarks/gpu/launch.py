"""`run.py` of a gathered kit: unpacks its wheels and runs it, by the Python that has PyTorch. Standard library alone.

python3 run.py --out FOLDER             on the GPU, within 8 minutes
python3 run.py --out FOLDER --device cpu --rehearsal
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

PYTHON = (3, 12)
"""That the wheels are for."""
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run `python -m tests.benchmarks.gpu run` with what this kit carries; its exit code."""
    if sys.version_info[:2] != PYTHON or find_spec("torch") is None:
        sys.stderr.write(f"this kit needs Python {PYTHON[0]}.{PYTHON[1]} with PyTorch; this is {sys.version}\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        for wheel in sorted((HERE / "wheels").glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)  # all that installing these would do, and it needs no pip
        paths = [str(HERE / "source"), folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        words = [sys.executable, "-m", "tests.benchmarks.gpu", "run", "--packs", str(HERE / "packs"), *sys.argv[1:]]
        return subprocess.run(words, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
