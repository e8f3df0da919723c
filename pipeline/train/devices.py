"""How much of its devices a step uses: model FLOPs over what they could do, as `train/mfu`, and the memory it took.

The model FLOPs utilization of Chowdhery et al. 2022 (PaLM). Model FLOPs are those of the step's real tokens
(`contract.flops`), forward and backward; neither recomputed activations nor heads count. All is known on the host:
lengths of the pack, the name of the device.
"""

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from interlace.contract.flops import Flops
from interlace.contract.sample import Pack

PEAK_FLOPS: Mapping[str, float] = {
    "B200": 2250e12,
    "H200 NVL": 835.5e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 NVL": 835.5e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
}
"""Words of a device's name, as CUDA has it -> dense bf16 FLOP/s of its tensor cores, the first that fits.

From NVIDIA's datasheets (nvidia.com/data-center), half of what they give with sparsity.
"""


def peak_flops(name: str) -> float | None:
    """Peak FLOP/s in bf16 of a device by its name, such as `NVIDIA A100-SXM4-80GB`; None for one that is not known.

    A slice of a device (MIG) is not known: it has a share of the peak.
    """
    words = set(name.replace("-", " ").split())
    if "MIG" in words:
        return None
    return next((peak for known, peak in PEAK_FLOPS.items() if set(known.split()) <= words), None)


def device_peak(device: torch.device, precision: str) -> float:
    """Peak FLOP/s of a rank's device in `train.precision`; nan on a CPU, in fp32 and where it is not known."""
    if device.type != "cuda" or precision != "bf16":
        return math.nan
    return peak_flops(torch.cuda.get_device_name(device)) or math.nan


def memory_peak(device: torch.device) -> float:
    """Most bytes that this process has held so far: of a GPU's memory by torch's count, else of the machine's."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """What one rank's packs ask of its device.

    Args:
        flops: forward FLOPs of samples.
        peak: FLOP/s of the device; nan where not known.
    """

    flops: Flops
    peak: float

    def of_packs(self, packs: Sequence[Pack]) -> tuple[float, float]:
        """FLOPs of forward and backward, and the peak: to be summed over ranks."""
        if math.isnan(self.peak):
            return 0.0, math.nan
        lengths = ({name: field.lengths for name, field in pack.fields.items()} for pack in packs)
        return 3 * sum(float(self.flops.of_rows(own).sum()) for own in lengths), self.peak


def mfu(flops: float, peak: float, seconds: float) -> dict[str, float]:
    """The metric of a step, none where the peak of any rank is not known.

    Args:
        flops: of all ranks' packs.
        peak: FLOP/s of all ranks' devices together.
        seconds: of the step.
    """
    return {} if math.isnan(peak) else {"train/mfu": flops / (seconds * peak)}
