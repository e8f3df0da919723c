"""Each outside package has its home; data workers start without torch and MLflow."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.laws.code import ROOT, Import, imports, sources
from tests.laws.test_layers import DATA_ARM, belongs, plant

HOMES: dict[str, tuple[str, ...]] = {
    "PIL": ("pipeline/modalities/image.py", "jobs/datasets/"),
    "jsonschema": ("cluster/manifests.py",),
    "matplotlib": ("pipeline/results/figures.py", "pipeline/results/search_figures.py"),
    "mlflow": ("pipeline/tracking/",),
    "numpy": ("pipeline/", "jobs/"),
    "optuna": ("pipeline/tune/tpe.py",),
    "pandas": ("pipeline/tracking/", "pipeline/results/", "pipeline/tune/searched.py"),
    "pathspec": ("cluster/pack.py",),
    "psutil": ("jobs/progress.py", "pipeline/store/system.py"),
    "pyarrow": (
        "pipeline/contract/tables.py", "pipeline/modalities/", "pipeline/data/", "pipeline/results/bulk.py",
        "jobs/datasets/",
    ),
    "pydantic": ("pipeline/recipe/", "pipeline/tune/search.py"),
    "pynvml": ("pipeline/store/system.py",),
    "ray": (
        "cluster/", "pipeline/data/stream.py", "pipeline/data/numbers.py", "pipeline/train/run.py",
        "pipeline/train/policy.py", "pipeline/train/estimate.py", "pipeline/train/prometheus.py",
    ),
    "ray.data": ("pipeline/data/stream.py", "pipeline/data/numbers.py"),
    "ray.train": (
        "pipeline/data/stream.py", "pipeline/train/run.py", "pipeline/train/policy.py", "pipeline/train/worker.py",
    ),
    "ray.tune": ("pipeline/tune/",),
    "requests": ("cluster/submission.py",),
    "rich": ("jobs/",),
    "sacrebleu": ("pipeline/tasks/text_metrics.py",),
    "safetensors": ("pipeline/train/tensors.py",),
    "soundfile": ("pipeline/modalities/audio.py",),
    "soxr": ("pipeline/modalities/audio.py",),
    "tokenizers": (
        "pipeline/contract/detokenizer.py", "pipeline/modalities/text.py", "pipeline/modalities/vocabulary.py",
        "pipeline/modalities/pretrained.py",
    ),
    "torch": (
        "pipeline/contract/batch.py", "pipeline/contract/ranks.py", "pipeline/model/", "pipeline/tasks/",
        "pipeline/train/",
        "pipeline/results/evaluate.py", "pipeline/results/predictor.py", "pipeline/results/evaluation.py",
        "pipeline/results/training.py", "jobs/start.py", "cluster/probe.py",
    ),
    "transformers": ("pipeline/model/pretrained.py",),
    "typer": ("jobs/",),
    "xxhash": ("pipeline/data/", "pipeline/store/hashes.py"),
    "yaml": (
        "pipeline/recipe/load.py", "pipeline/recipe/identity.py", "pipeline/tune/folder.py", "cluster/manifests.py",
    ),
}  # fmt: skip
"""Package or its part -> the files and folders that may import it. The longest name that fits decides."""

BY_NAME = ("jobs/datasets/", "pipeline/recipe/plugins.py")
"""Where packages may be imported by a name in a string: those of the extra `demo`, and those that bring plug-ins."""


def home_of(target: str) -> str | None:
    """The row of HOMES for an imported module."""
    rows = [name for name in HOMES if target == name or target.startswith(name + ".")]
    return max(rows, key=len, default=None)


def strays(edges: Iterable[Import]) -> list[str]:
    """Imports of outside packages away from their homes."""
    found = []
    for edge in edges:
        row = home_of(edge.target)
        if not edge.own and (row is None or not edge.path.startswith(HOMES[row])):
            found.append(f"{edge.path} imports {edge.target}: its home is {HOMES.get(row or '', 'not in HOMES')}")
    return found


def test_every_outside_package_stays_at_home() -> None:
    edges = imports()
    assert strays(edges) == []
    assert sum(not e.own for e in edges) > 100


def test_the_table_holds_no_home_that_is_empty() -> None:
    edges = [e for e in imports() if not e.own]
    for name, homes in HOMES.items():
        for home in homes:
            assert any(home_of(e.target) == name and e.path.startswith(home) for e in edges), (name, home)


def test_packages_are_imported_by_name_only_where_they_may_be() -> None:
    calls = []
    for path in sources().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", None))
            if name in ("import_module", "__import__", "run_module", "resolve_name", "entry_points"):
                calls.append(path.relative_to(ROOT).as_posix())
    assert [c for c in calls if not c.startswith(BY_NAME)] == []
    assert {home for home in BY_NAME if any(c.startswith(home) for c in calls)} == set(BY_NAME)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pipeline__data__x", "import torch"),
        ("pipeline__data__reader", "from ray import data"),
        ("pipeline__results__x", "import ray.tune"),
        ("pipeline__modalities__text", "def f():\n    from PIL import Image"),
        ("pipeline__modalities__mel", "import soundfile"),
        ("pipeline__train__x", "import mlflow.pyfunc"),
        ("jobs__x", "from matplotlib.figure import Figure"),
        ("pipeline__model__x", "import einops"),
    ],
)
def test_a_planted_stray_is_found(tmp_path: Path, file: str, text: str) -> None:
    found = strays(plant(tmp_path, **{file: text}))
    assert [f.partition(".py")[0] for f in found] == [file.replace("__", "/")]


def test_the_data_arm_starts_without_torch_and_mlflow() -> None:
    names = [m for m in sources() if belongs(m, DATA_ARM)]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "sys.stdout.write(' '.join(m for m in ('torch', 'mlflow', 'ray.data', 'pyarrow') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["ray.data", "pyarrow"]
    assert "interlace.data.stream" in names


def test_the_training_loop_starts_with_neither_ray_nor_mlflow_nor_what_reads_files() -> None:
    """So that it runs where only torch and numpy are large: `tests.benchmarks.gpu`."""
    program = (
        "import sys\n"
        "from interlace.train import build, checkpoint, compile, devices, loop, optim, prefetch\n"
        "names = ('torch', 'ray', 'mlflow', 'pyarrow', 'pandas', 'PIL', 'soundfile', 'soxr', 'transformers')\n"
        "sys.stdout.write(' '.join(m for m in names if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["torch"]
