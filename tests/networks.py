"""Small networks over every kind of field, and packs for them: what the tests of the model arm share."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from interlace.contract.batch import Batch, FieldBatch, to_batch
from interlace.contract.sample import FieldPack, FieldSpec, Pack, TargetPack
from interlace.model.network import Network
from interlace.recipe import fields as settings
from interlace.recipe import tasks as recipe
from interlace.recipe.model import Model
from interlace.tasks import ClassificationTask, Context

FUSIONS = (
    "early", "mid", "bottleneck", "cross_attention", "cross_attention by values", "weighted_sum", "product", "gated",
    "concat", "decision",
)  # fmt: skip
"""What laws of fusions run over; `by` names the field that queries."""
CLASSES = ("cat", "dog", "owl")

SPECS: dict[str, FieldSpec] = {
    "photo": FieldSpec(name="photo", kind="patches", patch_dim=48, patch_dtype="uint8", max_grid=(3, 4), channels=3),
    "scan": FieldSpec(name="scan", kind="patches", patch_dim=12, patch_dtype="uint8", max_grid=(4, 4), channels=3),
    "series": FieldSpec(name="series", kind="patches", patch_dim=5, max_grid=(9, 1), clocked=True),
    "values": FieldSpec(name="values", kind="ids", vocab_size=20, max_grid=(12, 1)),
    "type": FieldSpec(name="type", kind="ids", vocab_size=4),
}
FIELDS: dict[str, settings.AnyField] = {
    "photo": settings.ImageField(modality="image", column="photo", stem="cnn"),
    "scan": settings.ImageField(modality="image", column="scan"),
    "series": settings.TableField(modality="table", numbers=("a",), stem="cnn"),
    "values": settings.TextField(modality="text", column="values", stem="rnn"),
    "type": settings.TableField(modality="table", categories=("b",)),
}
"""Two of the names are those of attributes of torch modules, on purpose."""


def build(fusion: str = "mid", *, names: Sequence[str] = tuple(SPECS), seed: int = 0, **model: object) -> Network:
    """A network of width 32 without dropout unless `model` says so."""
    fusion, _, query = fusion.partition(" by ")
    settings = Model.model_validate(
        {
            "fusion": fusion,
            "query": query or None,
            "dim": 32,
            "head_dim": 16,
            "dropout": 0.0,
            "field_layers": 1,
            "joint_layers": 1,
        }
        | model
    )
    torch.manual_seed(seed)
    task = ClassificationTask(
        recipe.ClassificationTask(task="classification", column="label"), context("label", settings, names)
    )
    network = Network({n: SPECS[n] for n in names}, {n: FIELDS[n] for n in names}, settings, {"label": task})
    with torch.no_grad():  # larger than at the start of training, so that small differences show
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def context(task: str, model: Model, names: Sequence[str] = tuple(SPECS), **fitted: object) -> Context:
    """What a task over some of these fields is made from; its target has three classes unless `fitted` says so."""
    return Context(
        name=task,
        model=model,
        fields={n: FIELDS[n] for n in names},
        specs={n: SPECS[n] for n in names},
        fitted=fitted or {"classes": CLASSES, "counts": (5, 3, 2)},
    )


def draw_pack(seed: int = 0, samples: int = 7, missing: float = 0.3) -> Pack:
    """A pack with values of all shapes, some missing."""
    rng = np.random.default_rng(seed)
    fields = {}
    for name, spec in SPECS.items():
        rows = rng.integers(1, spec.max_grid[0] + 1, samples)
        columns = rng.integers(1, spec.max_grid[1] + 1, samples)
        grids = np.stack([rows, columns], axis=1).astype(np.int32)
        grids[rng.random(samples) < missing] = 0
        lengths = grids.prod(axis=1).astype(np.int32)
        count = int(lengths.sum())
        times = rng.uniform(0, 1000, count).astype(np.float32) if spec.clocked else None
        fields[name] = FieldPack(values=_values(rng, spec, count), lengths=lengths, grids=grids, times=times)
    targets = TargetPack(
        values=rng.integers(0, len(CLASSES), samples),
        lengths=np.ones(samples, np.int32),
        present=np.ones(samples, np.bool_),
    )
    return Pack(
        position=seed, epoch=0, sample_ids=np.arange(samples, dtype=np.int64), fields=fields, targets={"label": targets}
    )


def _values(rng: np.random.Generator, spec: FieldSpec, count: int) -> np.ndarray:
    if spec.kind == "ids":
        return rng.integers(0, spec.vocab_size, count).astype(np.int32)
    if spec.patch_dtype == "uint8":
        return rng.integers(0, 256, (count, spec.patch_dim)).astype(np.uint8)
    return rng.normal(size=(count, spec.patch_dim)).astype(np.float32)


def draw_batch(seed: int = 0, samples: int = 7, missing: float = 0.3) -> Batch:
    """The pack of `draw_pack` as tensors."""
    return to_batch(draw_pack(seed, samples, missing))


def with_fields(batch: Batch, fields: Mapping[str, FieldBatch]) -> Batch:
    """The batch with some fields replaced."""
    return Batch(
        position=batch.position,
        sample_ids=batch.sample_ids,
        fields={**batch.fields, **fields},
        targets=batch.targets,
    )


def rows_of(item: FieldBatch, sample: int) -> slice:
    """Where a sample's tokens lie in a field."""
    end = int(item.lengths[: sample + 1].sum())
    return slice(end - int(item.lengths[sample]), end)


def one_sample(batch: Batch, sample: int) -> Batch:
    """A batch of one of its samples."""
    only = slice(sample, sample + 1)
    fields = {
        name: FieldBatch(
            values=f.values[rows_of(f, sample)],
            lengths=f.lengths[only],
            grids=f.grids[only],
            times=None if f.times is None else f.times[rows_of(f, sample)],
        )
        for name, f in batch.fields.items()
    }
    return Batch(position=batch.position, sample_ids=batch.sample_ids[only], fields=fields, targets={})


def without(batch: Batch, name: str, sample: int) -> Batch:
    """The batch with one field of one sample missing."""
    item = batch.fields[name]
    rows = rows_of(item, sample)
    lengths, grids = item.lengths.clone(), item.grids.clone()
    lengths[sample], grids[sample] = 0, 0
    values = torch.cat([item.values[: rows.start], item.values[rows.stop :]])
    times = None if item.times is None else torch.cat([item.times[: rows.start], item.times[rows.stop :]])
    return with_fields(batch, {name: FieldBatch(values=values, lengths=lengths, grids=grids, times=times)})
