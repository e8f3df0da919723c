"""Small networks that write texts, over the fields of `tests.networks`, and packs for them."""

from collections.abc import Sequence

import numpy as np
import torch

from interlace.contract.batch import Batch, TargetBatch
from interlace.contract.sample import END, NUM_SPECIALS
from interlace.model.network import Network, Outputs
from interlace.recipe import recipe
from interlace.tasks import Context, GenerationTask
from tests.networks import FIELDS, SPECS, draw_batch

CHARACTERS = "abcde "
NAMES = ("photo", "series", "values")
MODEL = {"dim": 32, "head_dim": 16, "dropout": 0.0, "field_layers": 1, "joint_layers": 1}


def build(
    names: Sequence[str] = NAMES, seed: int = 0, scale: float = 0.3, first_tables: str = "small", **settings: object
) -> Network:
    """A network of width 32 whose task writes texts of six characters; its weights are large, so texts differ."""
    torch.manual_seed(seed)
    model = recipe.Model.model_validate(MODEL | {"first_tables": first_tables})
    given = {"task": "generation", "column": "text", "tokenizer": "characters", "max_tokens": 12} | settings
    context = Context(
        name="text",
        model=model,
        fields={n: FIELDS[n] for n in names},
        specs={n: SPECS[n] for n in names},
        fitted={"characters": CHARACTERS},
    )
    task = GenerationTask(recipe.GenerationTask.model_validate(given), context)
    network = Network(context.specs, context.fields, model, {"text": task})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return network.eval()


def task_of(network: Network) -> GenerationTask:
    """The network's only task."""
    task = network.tasks["text"]
    assert isinstance(task, GenerationTask)
    return task


def texts_of(lengths: Sequence[int | None], seed: int = 0) -> TargetBatch:
    """Random texts of so many characters and `END`; None is a sample without target."""
    rng = np.random.default_rng(seed)
    ids = [
        np.append(rng.integers(NUM_SPECIALS, NUM_SPECIALS + len(CHARACTERS), n), END) for n in lengths if n is not None
    ]
    return TargetBatch(
        values=torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *ids])),
        lengths=torch.tensor([0 if n is None else n + 1 for n in lengths]),
        present=torch.tensor([n is not None for n in lengths]),
    )


def batch_of(target: TargetBatch, seed: int = 0, missing: float = 0.3) -> Batch:
    """A pack of as many samples, with these texts."""
    batch = draw_batch(seed, len(target.lengths), missing)
    return Batch(
        position=0, sample_ids=batch.sample_ids, fields={n: batch.fields[n] for n in NAMES}, targets={"text": target}
    )


def run(network: Network, batch: Batch) -> Outputs:
    """The outputs without gradients."""
    with torch.no_grad():
        return network(batch)
