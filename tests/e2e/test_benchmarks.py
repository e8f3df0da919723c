"""The benchmarks of the data stage run to their end on a handful of samples, without Ray."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.data import EmojiLike

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def printed(*words: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def float_or_none(text: str) -> float | None:
    """The number that a cell holds."""
    try:
        return float(text)
    except ValueError:
        return None


@pytest.mark.slow
def test_peers_are_measured_beside_the_raw_limit_and_decode_the_same(tmp_path: Path) -> None:
    small = ("--cache", str(tmp_path), "--samples", "64", "--batch", "8", "--repetitions", "1")
    text = printed("tests.benchmarks.peers", "run", *small, "--only", "interlace", "torch", "--workloads", "mixed")
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    rows = {row[0]: row for row in cells if len(row) > 8 and float_or_none(row[1]) is not None}
    assert set(rows) == {"raw limit", "interlace/0", "torch/0", "torch/2"}
    assert "left out" not in text  # also where samples were decoded to something else
    others = [row for name, row in rows.items() if name != "raw limit"]
    assert min(float(row[2]) for row in others) > 0.2
    assert [row[7:9] for row in others] == [["yes", "yes"]] * 3  # the same samples after a restart, each once


def test_a_peer_that_cannot_run_is_left_out_with_its_reason(tmp_path: Path) -> None:
    small = ("--cache", str(tmp_path), "--samples", "16", "--batch", "8", "--repetitions", "1", "--no-resume")
    broken = tmp_path / "environments" / "torch"
    broken.mkdir(parents=True)
    (broken / "bin").mkdir()
    (broken / "bin" / "python").write_text("#!/bin/sh\necho no wheel for this machine >&2\nexit 1\n")
    (broken / "bin" / "python").chmod(0o755)
    (broken / "made").touch()
    text = printed("tests.benchmarks.peers", "run", *small, "--only", "torch", "--workloads", "pictures")
    assert "left out: torch: prepare failed: no wheel for this machine" in text


def test_memory_is_measured_with_more_data(tmp_path: Path) -> None:
    small = ("--cache", str(tmp_path), "--samples", "32", "--batch", "8", "--times", "1", "2", "--only", "interlace")
    lines = printed("tests.benchmarks.peers", "grow", *small).splitlines()
    assert [re.findall(r"(\d+) samples", line) for line in lines] == [["32"], ["64"]]
    assert all(float(mib) > 20 for line in lines for mib in re.findall(r"(\d+) MiB", line))


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe", "characters", "ngrams"])
def test_the_data_stage_is_measured_with_every_tokenizer(shapes: EmojiLike, tmp_path: Path, tokenizer: str) -> None:
    tree = shapes.tree(tmp_path, data={"max_bad_share": 0.1})  # a few rows have a size alone
    del tree["fields"]["size"]
    tree["fields"]["caption"]["tokenizer"] = tokenizer
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    text = printed("tests.benchmarks.data_stage", str(tmp_path / "recipe.yaml"), str(shapes.folder), "no-ray")
    found = dict(re.findall(r"^(.+?)\s+([\d.]+) CPU-s", text, re.MULTILINE))
    assert set(found) == {"plain loop", "reader in process", "reader in process, with augmentation"}
    assert all(float(seconds) > 0 for seconds in found.values())
