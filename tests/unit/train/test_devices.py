"""The share of a device's peak that a step uses: known devices by their names, the value by hand, else no metric."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from interlace.contract.flops import FieldFlops, Flops
from interlace.contract.sample import FieldPack, Pack
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.train.devices import Utilization, device_peak, memory_peak, mfu, peak_flops
from tests.data import EmojiLike
from tests.training import start

BY_HAND = Flops(fields={"a": FieldFlops(linear=2, quadratic=1), "b": FieldFlops(each=7)}, joint=10)


def pack(**lengths: list[int]) -> Pack:
    samples = len(lengths["a"])
    fields = {
        name: FieldPack(
            values=np.zeros(sum(own), np.int32),
            lengths=np.array(own, np.int32),
            grids=np.array([(n, 1) for n in own], np.int32),
        )
        for name, own in lengths.items()
    }
    return Pack(position=0, epoch=0, sample_ids=np.arange(samples), fields=fields, targets={})


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA B200", 2250),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
    ],
)
def test_a_device_is_known_by_the_name_that_cuda_gives_it(name: str, tflops: float) -> None:
    assert peak_flops(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 3090",
        "Tesla V100-SXM2-16GB",
        "NVIDIA A1000",
        "NVIDIA A10G",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "",
    ],
)
def test_others_are_not(name: str) -> None:
    assert peak_flops(name) is None


def test_a_cpu_has_no_peak() -> None:
    assert math.isnan(device_peak(torch.device("cpu"), "bf16"))


def test_the_share_is_that_of_the_arithmetic() -> None:
    packs = [pack(a=[3, 0, 5], b=[0, 2, 4]), pack(a=[1, 0, 0], b=[0, 0, 0])]
    forward = (2 * 8 + 3**2 + 5**2 + 2 * 7 + 10 * 14) + (2 + 1 + 10)
    flops, peak = Utilization(flops=BY_HAND, peak=1e3).of_packs(packs)
    assert (flops, peak) == (3 * forward, 1e3)
    assert mfu(flops, peak, 2.0) == {"train/mfu": pytest.approx(3 * forward / 2e3)}


def test_ranks_are_summed_and_one_that_is_not_known_leaves_no_metric() -> None:
    ranks = [Utilization(flops=BY_HAND, peak=peak).of_packs([pack(a=[1], b=[0])]) for peak in (100.0, 300.0, math.nan)]
    flops, peak = (sum(numbers) for numbers in zip(*ranks[:2], strict=True))
    assert mfu(flops, peak, 0.5) == {"train/mfu": pytest.approx(2 * 39 / (0.5 * 400))}
    assert mfu(flops, sum(peak for _, peak in ranks), 0.5) == {}


@pytest.mark.parametrize("known", [True, False])
def test_steps_report_it_where_the_device_is_known(shapes: EmojiLike, tmp_path: Path, known: bool) -> None:
    recipe = shapes.recipe(tmp_path / "out", batch={"global_batch": 2})
    index = build_index(recipe)
    reader = open_reader(index, recipe, "train", training=True)
    loop, packs = start(recipe, index)
    loop.utilization = Utilization(flops=reader.flops, peak=1e12 if known else math.nan)
    taken: list[Pack] = []
    metrics = next(loop.steps((taken.append(p) or p for p in packs), 0)).metrics
    costs = [reader.flops.of_rows({n: f.lengths for n, f in p.fields.items()}).sum() for p in taken]
    expected = 3 * sum(costs) / (metrics["step_s"] * 1e12)
    assert len(taken) == 2
    assert 1e8 < metrics["train/memory_peak_bytes"] <= memory_peak(torch.device("cpu")), "torch alone is more"
    assert metrics.get("train/mfu") == (pytest.approx(expected) if known else None)
    assert expected > 0


def test_the_peak_of_memory_stays_when_it_is_given_back() -> None:
    before = memory_peak(torch.device("cpu"))
    held = torch.ones(int(before) // 4)
    peak = memory_peak(torch.device("cpu"))
    assert peak - before > 0.5 * held.nbytes
    del held
    assert memory_peak(torch.device("cpu")) >= peak
