"""Benchmarks run to their end on a handful of samples, without Ray."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.benchmarks.synthetic.traffic import Meter
from tests.data import EmojiLike
from tests.fakecuda import DEVICE, fake_cuda

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_roofline_of_a_step_is_that_of_its_parameters_and_flops(tmp_path: Path) -> None:
    text = printed("tests.benchmarks.roofline", "--sizes", "20M", "--rows", "1000", "--json", str(tmp_path / "figures"))
    step, h100, h200 = json.loads((tmp_path / "figures").read_text(encoding="utf-8"))
    parameters = step["parameters"]
    assert 19e6 < parameters < 21e6
    matrices = 12 * 384**2 * (2 + 4)  # of the layers that a token passes
    assert 6 * matrices * step["tokens"] < 1e12 * step["tflop"] < 1.4 * 6 * matrices * step["tokens"]
    assert step["update_gb"] == pytest.approx(40 * parameters / 1e9, rel=0.01)  # clipping 12, AdamW 28
    assert 8 * parameters < 1e9 * step["weights_gb"] < 12 * parameters
    assert 1e9 * step["peak_gb"] > 16 * parameters
    assert 500 < step["kernels"] < 2000
    assert h100["compute_ms"] == h200["compute_ms"] == pytest.approx(step["tflop"] / 0.7 / 989 * 1e3)
    assert h100["memory_ms"] / h200["memory_ms"] == pytest.approx(4.8 / 3.35)
    for line in (h100, h200):
        assert max(line["compute_ms"], line["memory_ms"]) == line["roof_ms"] <= line["expected_ms"]
        assert 0 < line["mfu"] <= line["best_mfu"] <= 0.7
    assert "tokens_per_s" in text


@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")
def test_bytes_of_operations_are_those_of_their_tensors() -> None:
    with fake_cuda():
        weight = torch.empty(8, 4, device=DEVICE)
        with Meter([weight]) as meter:
            x = torch.empty(16, 8, device=DEVICE)
            half = weight.bfloat16()
            product = x.bfloat16() @ half
            product.view(4, 16).t().add_(1)
        assert meter.alive == 4 * (8 * 4 + 16 * 8) + 2 * (8 * 4 + 16 * 4)
    assert meter.kernels == {"_to_copy": 2, "mm": 1, "add_": 1}
    assert meter.moved["weights"] == 32 * (4 + 2 + 2)
    assert meter.moved["activations"] == 128 * (4 + 2 + 2) + 64 * (2 + 2 + 2)
    assert meter.products == 2 * (32 + 128 + 64)
    assert meter.peak == meter.alive + 2 * 128
