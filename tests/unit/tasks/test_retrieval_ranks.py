"""Laws over two ranks: negatives of all packs, and several tasks as one process computes them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from interlace.contract.batch import Batch, FieldBatch
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.train.build import network_for
from interlace.train.loop import Loop, Losses
from interlace.train.optim import make_optimizer
from interlace.train.parallel import distribute
from tests.data import EmojiLike
from tests.networks import draw_batch
from tests.tasked import network_of, task_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TASKS: dict[str, Any] = {
    "color": {"task": "classification", "column": "color"},
    "size": {"task": "regression", "columns": ["width", "height"]},
    "pair": {"task": "retrieval", "left": ["image"], "right": ["caption"]},
    "fill": {"task": "reconstruction", "fields": ["image", "caption"]},
}


def batches() -> list[Batch]:
    """Two packs of different sizes, some samples without a side."""
    return [draw_batch(1, samples=9), draw_batch(2, samples=6)]


def joined(parts: list[Batch]) -> Batch:
    """Packs end to end."""
    fields = {
        name: FieldBatch(
            values=torch.cat([b.fields[name].values for b in parts]),
            lengths=torch.cat([b.fields[name].lengths for b in parts]),
            grids=torch.cat([b.fields[name].grids for b in parts]),
            times=None if item.times is None else torch.cat([b.fields[name].times for b in parts]),
        )
        for name, item in parts[0].fields.items()
    }
    ids = torch.cat([b.sample_ids for b in parts])
    return Batch(position=0, sample_ids=ids, fields=fields, targets={})


def gradients(batch: Batch, negatives: str) -> dict[str, torch.Tensor]:
    """Gradient of the retrieval loss of a pack by parameter, and the loss itself."""
    network = network_of(
        {"it": task_of("retrieval", left=("photo",), right=("values",), embedding_dim=8, negatives=negatives)}
    )
    loss = network.tasks["it"].loss(network(batch), batch)
    loss.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {**found, "": loss.detach()}


def weights(recipe: Recipe, rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
    """The network after a few steps."""
    index = build_index(recipe)
    reader = open_reader(index, recipe, "train", training=True)
    schedule = reader.plan().schedule(steps=3)
    torch.manual_seed(0)
    network = network_for(recipe, index.fitted)
    loop = Loop(
        network=network,
        optimizer=make_optimizer(recipe.optim, network),
        recipe=recipe,
        num_steps=3,
        device=torch.device("cpu"),
        rank=rank,
        world_size=world_size,
        distributed=distribute(Losses(network, recipe), recipe, world_size),
    )
    packs = (p for w in schedule.since(0) for p in reader.read(w, first=0, stop=schedule.stop))
    assert len(list(loop.steps((p for p in packs if p.position % world_size == rank), 0))) == 3
    return network.state_dict()


def work(rank: int, folder: Path, recipe: Recipe) -> None:
    """One of two ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {"retrieval": gradients(batches()[rank], "ranks"), "weights": weights(recipe, rank, 2)}
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_equal_one(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path / "out", model={"dropout": 0.0}, optim={"task_weighting": "uncertainty"})
    recipe = parse_recipe({**tree, "tasks": TASKS})
    alone = weights(recipe)
    multiprocessing.spawn(work, (tmp_path, recipe), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, value in alone.items():
        torch.testing.assert_close(ranks[0]["weights"][name], value, atol=1e-5, rtol=1e-4)
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name])
    together = gradients(joined(batches()), "pack")
    assert set(together) == set(ranks[0]["retrieval"])
    for name, value in together.items():
        torch.testing.assert_close(
            ranks[0]["retrieval"][name] + ranks[1]["retrieval"][name], value, atol=1e-5, rtol=1e-4
        )
    apart = sum(float(gradients(b, "pack")[""]) for b in batches())
    assert float(together[""]) > apart * 1.1
