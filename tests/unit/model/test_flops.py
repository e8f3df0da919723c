"""FLOPs by formula are those that the real network's matrix products take."""

import json
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from interlace.contract.batch import Batch, FieldBatch
from interlace.contract.flops import NUM_WAVES, ModelShape, embedding_flops, model_flops
from interlace.contract.sample import FieldSpec
from interlace.model.attention import Segments
from interlace.model.cells import find_cells
from interlace.model.embedding import NUM_PERIODS
from interlace.model.pretrained import PretrainedPixels, PretrainedTokens
from interlace.recipe.base import PretrainedEncoder
from tests.networks import FIELDS, FUSIONS, SPECS, build

SAMPLES = 16
GRIDS = {"photo": (2, 4), "scan": (4, 4), "series": (8, 1), "values": (8, 1), "type": (1, 1)}
"""Sizes that a CPU's kernels pad little."""


def even_batch(names: Sequence[str], missing: int = 0) -> Batch:
    """Samples that are alike, but the first `missing` lack the first field."""
    fields = {}
    for name in names:
        spec, (rows, columns) = SPECS[name], GRIDS[name]
        there = SAMPLES - (missing if name == names[0] else 0)
        grids = torch.tensor([(rows, columns)] * SAMPLES)
        grids[: SAMPLES - there] = 0
        count = there * rows * columns
        if spec.kind == "ids":
            values = torch.randint(0, spec.vocab_size, (count,))
        else:
            values = torch.randint(0, 255, (count, spec.patch_dim)).to(getattr(torch, spec.patch_dtype))
        fields[name] = FieldBatch(
            values=values,
            lengths=grids.prod(dim=1),
            grids=grids,
            times=torch.rand(count) if spec.clocked else None,
        )
    return Batch(position=0, sample_ids=torch.arange(SAMPLES), fields=fields, targets={})


def counted(fusion: str, names: Sequence[str], batch: Batch, **model: object) -> float:
    """FLOPs of the matrix products in one forward pass of the real network."""
    network = build(fusion, names=names, **model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(batch)
    return float(counter.get_total_flops())


def by_formula(fusion: str, names: Sequence[str], batch: Batch, **model: object) -> float:
    fusion, _, query = fusion.partition(" by ")
    settings = {"dim": 32, "mlp_ratio": 4.0, "field_layers": 1, "joint_layers": 1, "bottleneck_tokens": 4} | model
    settings.pop("head_dim", None)
    shape = ModelShape(fusion=fusion, query=query or None, **settings)
    flops = model_flops(shape, {n: SPECS[n] for n in names}, {n: FIELDS[n].stem for n in names})
    return float(flops.of_rows({n: batch.fields[n].lengths.numpy() for n in names}).sum())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_flops_of_each_fusion_are_those_of_the_network(fusion: str) -> None:
    names = ("scan", "values", "series")
    for model in ({}, {"field_layers": 2, "joint_layers": 3, "mlp_ratio": 2.0, "dim": 64, "head_dim": 32}):
        batch = even_batch(names)
        assert by_formula(fusion, names, batch, **model) == pytest.approx(
            counted(fusion, names, batch, **model), rel=0.1
        )


@pytest.mark.parametrize("name", list(SPECS))
def test_flops_before_the_layers_are_those_of_the_network(name: str) -> None:
    """Each kind of field alone, without layers: projection, ids, `cnn` of pictures and of series, `rnn`, clock."""
    batch, none = even_batch((name,)), {"field_layers": 0, "joint_layers": 0}
    found = counted("mid", (name,), batch, **none)
    assert by_formula("mid", (name,), batch, **none) == pytest.approx(found, rel=0.1)
    assert found > 0 or name == "type"


@pytest.mark.parametrize("fusion", ["early", "bottleneck", "cross_attention"])
def test_a_missing_field_takes_nothing(fusion: str) -> None:
    names = ("scan", "values")
    batch = even_batch(names, missing=8)
    assert by_formula(fusion, names, batch) == pytest.approx(counted(fusion, names, batch), rel=0.1)
    assert by_formula(fusion, names, batch) < 0.8 * by_formula(fusion, names, even_batch(names))


def test_attention_grows_with_the_square_and_layers_with_the_tokens() -> None:
    shape = ModelShape(fusion="mid", dim=1024, mlp_ratio=4.0, field_layers=12, joint_layers=6)
    flops = model_flops(shape, {"values": SPECS["values"], "type": SPECS["type"]}, {})
    a, b = np.array([0, 100, 700]), np.array([50, 0, 33])
    layer = [24.0 * 1024**2 * t + 4 * 1024 * t.astype(float) ** 2 for t in (a, b, a + b)]
    expected = 12 * (layer[0] + layer[1]) + 6 * layer[2]
    assert flops.of_rows({"values": a, "type": b}).tolist() == expected.tolist()


def test_the_clock_has_as_many_waves_as_the_network() -> None:
    assert NUM_WAVES == 2 * NUM_PERIODS


SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
PIXELS = {"image_size": 32, "patch_size": 4, "pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3}
CONFIGS = {
    "text": {"model_type": "bert", "vocab_size": 20, **SIZES},
    "other names": {"model_type": "distilbert", "dim": 64, "n_layers": 3, "n_heads": 2, "hidden_dim": 96},
    "picture": {"model_type": "vit", **SIZES, **PIXELS},
}


@pytest.mark.slow  # importing transformers takes several seconds
@pytest.mark.skipif(find_spec("transformers") is None, reason="the extra `hf` is not installed")
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_flops_of_pretrained_encoders_are_those_of_the_model(kind: str) -> None:
    shape = {"name": "field", "pretrained": json.dumps(CONFIGS[kind])}
    if kind == "picture":
        spec = FieldSpec(kind="patches", patch_dim=48, patch_dtype="uint8", channels=3, max_grid=(8, 8), **shape)
        values = torch.zeros(2 * 64, 48, dtype=torch.uint8)
    else:
        spec = FieldSpec(kind="ids", vocab_size=20, max_grid=(64, 1), **shape)
        values = torch.ones(2 * 64, dtype=torch.int64)
    grids = torch.tensor([spec.max_grid] * 2)
    segments = Segments(grids.prod(dim=1))
    encoder = (PretrainedPixels if kind == "picture" else PretrainedTokens)(spec, PretrainedEncoder(pretrained="x"), 32)
    visible = sdpa_kernel(SDPBackend.MATH)  # the fused kernel of a CPU is not counted
    with torch.no_grad(), visible, FlopCounterMode(display=False) as counter:
        encoder(values, find_cells(grids, segments))
    part = embedding_flops(spec, "linear", 32)
    found = 2 * (part.each + 64 * part.linear + 64**2 * part.quadratic)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.1)
