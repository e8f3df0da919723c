"""An environment for each peer: its own packages, and below them those of the environment that runs the benchmark.

The ground (torch, Ray, numpy, Pillow, pyarrow) is the same for all, so that differences are those of the peers. A peer
is installed without what it asks for; what its reading needs of that is named here, and nothing of the ground is
replaced.
"""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DRIVERS = "tests.benchmarks.peers.drivers"
_VISION = {
    "torchvision/__init__.py": "",
    "torchvision/datasets.py": "class VisionDataset: ...\nclass CIFAR10: ...\n",
    "torchvision/transforms/__init__.py": "",
    "torchvision/transforms/functional.py": "def to_tensor(picture): raise NotImplementedError\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A way to read that is measured.

    Args:
        name: in the table.
        driver: module of its script.
        workers: for each of these numbers of processes that decode.
        packages: installed without their dependencies; none where the ground has all.
        files: put beside them.
        note: what a reader of the table must know.
        ours: runs in the environment of the benchmark.
    """

    name: str
    driver: str
    workers: tuple[int, ...] = (0, 2)
    packages: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    ours: bool = False


RAW = Contestant(name="raw", driver="raw", workers=(0,), ours=True)
CONTESTANTS = (
    Contestant(name="interlace", driver="interlace_reader", workers=(0,), ours=True),
    Contestant(name="interlace-ray", driver="interlace_ray", workers=(2,), ours=True),
    Contestant(name="torch", driver="torch_loader", note="single files; no state: replays"),
    Contestant(name="ray-data", driver="ray_data", workers=(2,), note="shuffles files only; no state: replays"),
    Contestant(
        name="mosaicml-streaming",
        driver="mosaic",
        packages=("mosaicml-streaming", "brotli", "python-snappy", "cramjam", "zstd", "catalogue"),
        files=_VISION,
        note="MDS; torchvision is a stand-in of empty names, its pictures are not used",
    ),
    Contestant(
        name="litdata",
        driver="lit",
        packages=("litdata", "lightning-utilities", "boto3", "botocore", "s3transfer", "jmespath"),
        note="chunks",
    ),
    Contestant(
        name="grain",
        driver="grain_loader",
        packages=("grain", "etils", "absl-py", "array-record", "portpicker", "protobuf", "zipp"),
        note="ArrayRecord; threads of its own",
    ),
    Contestant(
        name="webdataset",
        driver="web",
        packages=("webdataset", "braceexpand"),
        note="tar; shuffles 1,000; no state: replays",
    ),
    Contestant(
        name="datasets",
        driver="hub",
        packages=("datasets", "dill<0.4.2", "multiprocess<0.70.20"),
        note="iterable over Parquet; shuffles 1,000, and a state forgets what is in the buffer",
    ),
)


class LeftOutError(Exception):
    """A peer that can't be measured here, and why."""


def python_of(contestant: Contestant, cache: Path) -> str:
    """The interpreter of a contestant; its environment is made where it is not there. Raises LeftOutError."""
    if contestant.ours:
        return sys.executable
    folder = cache / "environments" / contestant.name
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, with_pip=False, clear=True)
        _fill(contestant, folder, str(python))
        (folder / "made").touch()
    return str(python)


def _fill(contestant: Contestant, folder: Path, python: str) -> None:
    """Put the ground and the peer's packages into an environment. Raises LeftOutError."""
    own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (own / "ground.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    if contestant.packages:
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", python]
        done = subprocess.run([*command, *contestant.packages], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LeftOutError(f"not installed: {last_line(done.stderr)}")
    for name, text in contestant.files.items():
        path = own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def version_of(contestant: Contestant, python: str) -> str:
    """The version of the peer's package."""
    package = contestant.packages[0] if contestant.packages else {"ray-data": "ray"}.get(contestant.name, "torch")
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return "" if contestant.ours else done.stdout.strip()


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
