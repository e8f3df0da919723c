"""Time of one training step of the model arm on a CPU: `python -m tests.benchmarks.step [threads]`.

Pictures (16 patches of 8 x 8 x 3, `cnn` stem) and two texts, 64 samples, width 128, `mid` fusion of 2 + 2 layers;
forward, backward and AdamW in bf16 autocast. Prints milliseconds a step (median and best) and tokens a second.
"""

import statistics
import sys
import time

import numpy as np
import torch

from interlace.contract.batch import Batch, to_batch
from interlace.contract.sample import FieldPack, FieldSpec, Pack, TargetPack
from interlace.model.network import Network
from interlace.recipe import fields as settings
from interlace.recipe import recipe, tasks
from interlace.tasks import ClassificationTask, Context

SAMPLES = 64
SPECS = {
    "image": FieldSpec(name="image", kind="patches", patch_dim=192, patch_dtype="uint8", max_grid=(4, 4), channels=3),
    "english": FieldSpec(name="english", kind="ids", vocab_size=1000, max_grid=(32, 1)),
    "chinese": FieldSpec(name="chinese", kind="ids", vocab_size=2500, max_grid=(32, 1)),
}
FIELDS: dict[str, settings.AnyField] = {
    "image": settings.ImageField(modality="image", column="image", stem="cnn"),
    "english": settings.TextField(modality="text", column="english"),
    "chinese": settings.TextField(modality="text", column="chinese"),
}


def draw_batch(seed: int = 0) -> Batch:
    """A pack of 64 samples, about 1,900 tokens."""
    rng = np.random.default_rng(seed)
    fields = {}
    for name, spec in SPECS.items():
        low, high = {"image": (16, 16), "english": (3, 14), "chinese": (2, 8)}[name]
        lengths = rng.integers(low, high + 1, SAMPLES).astype(np.int32)
        total = int(lengths.sum())
        grids = np.stack([lengths, np.ones_like(lengths)], axis=1)
        if spec.kind == "patches":
            values = rng.integers(0, 256, (total, spec.patch_dim)).astype(np.uint8)
            grids = np.full((SAMPLES, 2), 4, dtype=np.int32)
        else:
            values = rng.integers(0, spec.vocab_size, total).astype(np.int32)
        fields[name] = FieldPack(values=values, lengths=lengths, grids=grids)
    target = TargetPack(
        values=rng.integers(0, 9, SAMPLES), lengths=np.ones(SAMPLES, np.int32), present=np.ones(SAMPLES, np.bool_)
    )
    return to_batch(Pack(position=0, epoch=0, sample_ids=np.arange(SAMPLES), fields=fields, targets={"group": target}))


def build(fusion: str = "mid") -> Network:
    """The network of the demo's size."""
    model = recipe.Model.model_validate({"fusion": fusion, "dropout": 0.2, "modality_dropout": 0.15})
    settings = tasks.ClassificationTask(task="classification", column="group", label_smoothing=0.1)
    context = Context(
        name="group", model=model, fields=FIELDS, specs=SPECS, fitted={"classes": range(9), "counts": [1] * 9}
    )
    task = ClassificationTask(settings, context)
    return Network(SPECS, FIELDS, model, {"group": task})


def make_step(network: Network):
    """A function that takes one optimizer step on a batch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    task = network.tasks["group"]

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(network(batch), batch)
        (loss / task.count(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print one line a fusion."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    batches = [draw_batch(seed) for seed in range(8)]
    tokens = sum(int(f.lengths.sum()) for b in batches for f in b.fields.values()) / len(batches)
    for fusion in ("mid", "early", "weighted_sum"):
        step, times = make_step(build(fusion)), []
        for i in range(60):
            start = time.perf_counter()
            step(batches[i % len(batches)])
            times.append((time.perf_counter() - start) * 1e3)
        median, best = statistics.median(times[10:]), min(times)
        rate = tokens / median * 1e3
        print(f"{fusion:13s} {median:6.1f} ms a step (best {best:.1f}), {rate:,.0f} tokens/s")  # noqa: T201


if __name__ == "__main__":
    main()
