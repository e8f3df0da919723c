"""Speed of decoding: `python -m tests.benchmarks.generation`, on one thread; exits 1 where a line fails.

100 captions of pictures (16 patches of 8 x 8 x 3) by an untrained model of width 128, 2 + 2 layers, a vocabulary of
1,000, 24 tokens each: all in one batch at least 5 times as fast as one by one; and with a cache of keys and values
against running the decoder over the whole text at each step.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from interlace.contract.batch import Batch, to_batch
from interlace.contract.sample import BEGIN, END, FieldPack, FieldSpec, Pack
from interlace.model.attention import Segments
from interlace.model.network import Network, Outputs
from interlace.recipe import fields as settings
from interlace.recipe import recipe
from interlace.tasks import Context, GenerationTask
from interlace.tasks.beam_search import NEVER
from interlace.tasks.generation import memory_of
from tests.training import Lines

CAPTIONS, TOKENS, VOCAB = 100, 24, 1000
SPEC = FieldSpec(name="image", kind="patches", patch_dim=192, patch_dtype="uint8", max_grid=(4, 4), channels=3)
FIELD = settings.ImageField(modality="image", column="image", stem="cnn")


def build() -> Network:
    """An untrained model; it doesn't know when to end, so all texts are as long as they may be."""
    torch.manual_seed(0)
    model = recipe.Model(dim=128, head_dim=64, field_layers=2, joint_layers=0)
    task = recipe.GenerationTask(task="generation", column="name", tokenizer="characters", max_tokens=TOKENS)
    fitted = {"characters": "".join(chr(0x4E00 + i) for i in range(VOCAB - 3))}
    context = Context(name="name", model=model, fields={"image": FIELD}, specs={"image": SPEC}, fitted=fitted)
    return Network(context.specs, context.fields, model, {"name": GenerationTask(task, context)}).eval()


def pictures(numbers: range) -> Batch:
    """Noise, the same for the same number."""
    patches = np.concatenate([np.random.default_rng(i).integers(0, 256, (16, 192)) for i in numbers]).astype(np.uint8)
    count = len(numbers)
    field = FieldPack(
        values=patches, lengths=np.full(count, 16, np.int32), grids=np.full((count, 2), 4, dtype=np.int32)
    )
    return to_batch(Pack(position=0, epoch=0, sample_ids=np.array(numbers), fields={"image": field}, targets={}))


@torch.no_grad()
def uncached(task: GenerationTask, outputs: Outputs) -> list[tuple[int, ...]]:
    """Greedy search that runs the packed decoder over all that is written at each step."""
    assert task.decoder is not None
    table_VD, out_VD = task.tables(outputs)
    ids = torch.full((len(outputs.sample_SD), 1), BEGIN)
    for length in range(1, TOKENS + 1):
        segments = Segments(torch.full((len(ids),), length))
        states_TD = task.decoder(table_VD, ids.flatten(), segments, memory_of(outputs))
        last_SD = states_TD[: segments.num_tokens].view(len(ids), length, -1)[:, -1]
        scores_SV: Tensor = last_SD @ out_VD.T
        scores_SV[:, list(NEVER)] = -torch.inf
        ids = torch.cat([ids, scores_SV.argmax(1, keepdim=True)], dim=1)
    rows = [row[1:] for row in ids.tolist()]
    return [tuple(row[: row.index(END)] if END in row else row) for row in rows]


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of the second run (the first compiles kernels), and what it gives."""
    run()
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def main() -> None:
    """Print the two comparisons."""
    torch.set_num_threads(1)
    network, lines = build(), Lines()
    task = network.tasks["name"]
    assert isinstance(task, GenerationTask)
    with torch.no_grad():
        together, texts = seconds(lambda: task.generate(network(pictures(range(CAPTIONS)))))
        single, alone = seconds(lambda: [task.generate(network(pictures(range(i, i + 1))))[0] for i in range(CAPTIONS)])
        plain, slow = seconds(lambda: uncached(task, network(pictures(range(CAPTIONS)))))
    same = [t.ids for t in texts] == [t.ids for t in alone]
    length = sum(len(t.ids) for t in texts) / CAPTIONS
    lines.check(f"{CAPTIONS} captions of {length:.0f} tokens are the same in one batch and one by one", same)
    ratio = single / together
    lines.check(
        f"one batch: {together:.3f} CPU s, one by one: {single:.3f}, {ratio:.1f} times (at least 5)", ratio >= 5
    )
    lines.check(f"a cache changes nothing; {together:.3f} CPU s against {plain:.3f}", [t.ids for t in texts] == slow)
    sys.exit(bool(lines.failed))


if __name__ == "__main__":
    main()
