"""How fast a GPU should train, on paper: `python -m tests.benchmarks.roofline`. Nothing runs on a GPU.

A step of one pack of 16,384 tokens of the heavy-tailed mix, in models of three sizes (`synthetic/sizes.py`), against
the roofline of a device (Williams et al. 2009). Its FLOPs are Interlace's own (`contract/flops.py`: forward pass of the
samples that the real plan deals into a pack, mean over an epoch, attention included; three times as many with the
backward pass). Its bytes and kernels are counted in one step of the real loop on shapes alone (`synthetic/traffic.py`),
as the code runs today, operation by operation, nothing compiled:

    compute_ms   FLOPs / (COMPUTE_SHARE * peak FLOP/s)
    memory_ms    bytes / (MEMORY_SHARE * peak bytes/s)
    launch_ms    kernels * LAUNCH_S
    roof_ms      max(compute_ms, memory_ms): all transfers behind the arithmetic, and no launch seen
    expected_ms  max(launch_ms, products_ms + pointwise_ms): what is no product moves its bytes when its turn comes, and
                 a product takes its arithmetic or its bytes, whichever is longer
    binds        which of compute, memory and launch is the longest
    mfu          FLOPs / (expected_ms * peak FLOP/s), Chowdhery et al. 2022 (PaLM); `best_mfu` is that of roof_ms

Bytes, in a model of P parameters, T tokens and width D, are about 10 P for weights (4 read in fp32 and 2 written in
bf16, 2 read forward, 2 read backward), 40 P for gradients and AdamW in fp32 (12 for clipping; 16 read and 12 written
by the update), and for activations some 350 T D for each layer that a token passes: the residual stream, norms and
casts in fp32 or between fp32 and bf16, products and GELU in bf16, each tensor written once and read where it is used.
Compiled layers will move fewer: then the count, not the roof, is to be made anew.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interlace.train.devices import PEAK_FLOPS
from tests.benchmarks.scale import Line, show
from tests.benchmarks.synthetic.shapes import BUDGET
from tests.benchmarks.synthetic.sizes import SIZES, Sized, recipe_of
from tests.benchmarks.synthetic.traffic import Traffic, measured

COMPUTE_SHARE = 0.7
"""Of the peak that matrix products reach. At its best shape cuBLAS reaches 0.80 on an H100 SXM (792 of 989 TFLOP/s) and
0.86 on an A100 SXM (268 of 312; github.com/mag-/gpu_benchmark); products of widths of 384 to 2,048, and attention over
segments of some hundred tokens, take part here, so less is assumed."""
MEMORY_SHARE = 0.9
"""Of the bandwidth that operations on whole tensors reach: assumed."""
LAUNCH_S = 5e-6
"""From one kernel to the next where the host launches each by itself: assumed; with Python in between it is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A datasheet: dense bf16 FLOP/s (as `train/mfu` has it), bytes/s and bytes of memory."""

    flops: float
    bandwidth: float
    memory: float


DEVICES: Mapping[str, Device] = {
    "H100": Device(flops=PEAK_FLOPS["H100"], bandwidth=3.35e12, memory=80e9),  # SXM5, nvidia.com/data-center/h100
    "H200": Device(flops=PEAK_FLOPS["H200"], bandwidth=4.8e12, memory=141e9),  # SXM, nvidia.com/data-center/h200
    "A100": Device(
        flops=PEAK_FLOPS["A100"], bandwidth=2.039e12, memory=80e9
    ),  # SXM4 80 GB, nvidia.com/data-center/a100
    "L40S": Device(flops=PEAK_FLOPS["L40S"], bandwidth=0.864e12, memory=48e9),  # nvidia.com/data-center/l40s
    "L4": Device(flops=PEAK_FLOPS["L4"], bandwidth=0.3e12, memory=24e9),  # nvidia.com/data-center/l4
}
"""Datasheets of NVIDIA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step of a model.

    Args:
        parameters: of the network, heads included.
        flops: forward and backward, of an average pack.
        tokens: real ones of an average pack.
        samples: of an average pack.
        traffic: of one pack.
    """

    parameters: int
    flops: float
    tokens: float
    samples: float
    traffic: Traffic


def step_of(size: str, rows: int) -> Step:
    """The step of a size, with packs dealt of so many rows."""
    sized = Sized(recipe=recipe_of(SIZES[size]), rows=rows)
    packs = list(sized.packs())
    of_rows = sized.flops.of_rows(sized.tokens)
    total = sum(sized.tokens.values(), np.zeros(rows, np.int64))
    return Step(
        parameters=sum(p.numel() for p in sized.network().parameters()),
        flops=3 * float(np.mean([of_rows[pack].sum() for pack in packs])),
        tokens=float(np.mean([total[pack].sum() for pack in packs])),
        samples=float(np.mean([len(pack) for pack in packs])),
        traffic=measured(sized),
    )


def roofline(step: Step, device: Device) -> Line:
    """What the device should make of the step."""
    traffic = step.traffic
    moved = sum(traffic.moved.values())
    peak, bandwidth = COMPUTE_SHARE * device.flops, MEMORY_SHARE * device.bandwidth
    compute, memory, launch = step.flops / peak, moved / bandwidth, traffic.kernels * LAUNCH_S
    products, pointwise = max(compute, traffic.products / bandwidth), (moved - traffic.products) / bandwidth
    roof, expected = max(compute, memory), max(launch, products + pointwise)
    binds = max((compute, "compute"), (memory, "memory"), (launch, "launch"))[1]
    return {
        "compute_ms": 1e3 * compute,
        "memory_ms": 1e3 * memory,
        "launch_ms": 1e3 * launch,
        "roof_ms": 1e3 * roof,
        "expected_ms": 1e3 * expected,
        "binds": binds,
        "mfu": step.flops / (expected * device.flops),
        "best_mfu": step.flops / (roof * device.flops),
        "samples_per_s": step.samples / expected,
        "tokens_per_s": step.tokens / expected,
        "fits": "yes" if traffic.peak < device.memory else "no",
    }


def described(size: str, step: Step) -> Line:
    """What a step is, whatever the device."""
    traffic = step.traffic
    return {
        "model": size,
        "parameters": step.parameters,
        "tflop": step.flops / 1e12,
        "kernels": traffic.kernels,
        **{f"{kind}_gb": traffic.moved[kind] / 1e9 for kind in ("weights", "activations", "update")},
        "peak_gb": traffic.peak / 1e9,
        "tokens": step.tokens,
        "samples": step.samples,
        "fill": step.tokens / BUDGET,
    }


def main(words: Sequence[str] | None = None) -> list[Line]:
    """Print the tables; their figures."""
    made = argparse.ArgumentParser(prog="python -m tests.benchmarks.roofline", description=__doc__.partition("\n")[0])
    made.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    made.add_argument("--devices", nargs="+", choices=DEVICES, default=["H100", "H200"])
    made.add_argument("--rows", type=int, default=20_000, help="samples of the mix that packs are dealt of")
    made.add_argument("--json", type=Path, help="file that takes the figures")
    given = made.parse_args(words)
    steps = {size: step_of(size, given.rows) for size in given.sizes}
    lines: list[Line] = [described(size, step) for size, step in steps.items()]
    for size, step in steps.items():
        lines += [{"model": size, "device": name} | roofline(step, DEVICES[name]) for name in given.devices]
    show(lines)
    if given.json:
        given.json.write_text(json.dumps(lines, indent=1), encoding="utf-8")
    return lines


if __name__ == "__main__":
    main()
