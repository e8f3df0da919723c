"""A job runs the code of whoever submits it, on nodes that have another one installed, and in any folder."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cluster.conftest import interlace_in
from tests.data import EmojiLike
from tests.headnode import Head
from tests.laws.code import PACKAGES, ROOT
from tests.ownfolder import own_folder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
]

CHANGES = {
    "train/worker.py": ("workers ready on", "workers of the copy ready on"),  # said by a training worker
    "jobs/train.py": ("(goes on)' if run.resumed else ''}", "(goes on)' if run.resumed else ''} of the copy"),
}
"""Module -> words of it and what stands there in the copy."""


def changed_library(folder: Path) -> Path:
    """A copy of the code as an installed package, which says that it is one."""
    package = folder / "interlace"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline", package, ignore=ignored)
    for name in set(PACKAGES) - {"pipeline"}:
        shutil.copytree(ROOT / name, package / name, ignore=ignored)
    for name, (words, becomes) in CHANGES.items():
        text = (package / name).read_text(encoding="utf-8")
        assert text.count(words) == 1
        (package / name).write_text(text.replace(words, becomes), encoding="utf-8")
    return folder


def test_a_job_runs_the_code_of_whoever_submits_it(
    head_node: Head, shapes: EmojiLike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_folder(tmp_path / "mine", shapes)
    library = changed_library(tmp_path / "library")
    monkeypatch.chdir(folder)
    address = {**head_node.environment(tmp_path), "RAY_API_SERVER_ADDRESS": head_node.address}
    client = interlace_in({**address, "PYTHONPATH": str(library)})
    done = client("submit", "train", "shapes.yaml", "--run-name", "there")
    assert done.returncode == 0, done.stdout
    run = folder / "out" / "runs" / "there"
    assert f"run there of the copy in {run}" in done.stdout
    said = [json.loads(line)["text"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert [text for text in said if "workers of the copy ready on" in text]
    assert not [text for text in said if "workers ready on" in text]

    own = interlace_in(address)("submit", "train", "shapes.yaml", "--run-name", "again")  # what is installed
    assert own.returncode == 0, own.stdout
    assert "of the copy" not in own.stdout
