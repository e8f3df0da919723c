"""Compiled layers compute what uncompiled ones do, and packs of any size need few compilations."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from interlace.contract.errors import InterlaceError
from interlace.contract.sample import FieldPack, FieldSpec, Pack, TargetPack
from interlace.data.read.open import open_reader
from interlace.model.transformer import Block
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.train.build import build_network
from interlace.train.compile import MAX_COMPILATIONS, Compiler, compile_layers, lacking
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer
from interlace.train.run import _job, open_run, prepare
from interlace.train.worker import Worker
from tests.benchmarks.synthetic.shapes import BUDGET, heavy
from tests.data import EmojiLike

CPU = torch.device("cpu")
NAMES = ("one", "two", "three")
PACKS = 200
VOCABULARY = 20
FEW = 4
"""Compilations that the network of these tests may need, whatever packs come."""


def recipe_of(**train: object) -> Recipe:
    """Three fields of ids, dropout, and layers within and over them."""
    return parse_recipe(
        {
            "name": "compiled",
            "data": {"root": "/nowhere", "train": {"paths": ["*.parquet"]}},
            "fields": {n: {"modality": "text", "column": n, "tokenizer": "bytes"} for n in NAMES},
            "tasks": {"label": {"task": "classification", "column": "label"}},
            "model": {
                "fusion": "mid", "dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1, "dropout": 0.2,
            },
            "batch": {"token_budget": BUDGET, "global_batch": 1},
            "train": {"steps": PACKS, "precision": "fp32", **train},
        }
    )  # fmt: skip


def loop_of(recipe: Recipe) -> Loop:
    specs = {n: FieldSpec(name=n, kind="ids", vocab_size=VOCABULARY, max_grid=(BUDGET // len(NAMES), 1)) for n in NAMES}
    torch.manual_seed(0)
    network = build_network(recipe, specs, {"label": {"classes": ("a", "b"), "counts": (1, 1)}})
    optimizer = make_optimizer(recipe.optim, network)
    return Loop(network=network, optimizer=optimizer, recipe=recipe, num_steps=PACKS, device=CPU)


def packs() -> Iterator[Pack]:
    """Of one to three samples each, with Pareto tails; a quarter of the values are missing, so whole fields are too."""
    rng = np.random.default_rng(0)
    for position in range(PACKS):
        count = int(rng.integers(1, 4))
        drawn = heavy(count, len(NAMES), rng) // 2
        lengths = np.where(rng.random((len(NAMES), count)) < 0.75, drawn, 0).astype(np.int32)
        fields = {
            name: FieldPack(
                values=rng.integers(0, VOCABULARY, int(own.sum())).astype(np.int32),
                lengths=own,
                grids=np.stack([own, np.minimum(own, 1)], axis=1),
            )
            for name, own in zip(NAMES, lengths, strict=True)
        }
        labels = TargetPack(
            values=rng.integers(0, 2, count), lengths=np.ones(count, np.int32), present=np.ones(count, np.bool_)
        )
        ids = np.arange(count, dtype=np.int64)
        yield Pack(position=position, epoch=0, sample_ids=ids, fields=fields, targets={"label": labels})


def losses_of(loop: Loop, last: int = PACKS) -> list[float]:
    """The losses of the first steps; weights move after each."""
    found = []
    for report in loop.steps(packs(), 0):
        found.append(report.loss)
        if report.step == last:
            break
    return found


@pytest.mark.slow
def test_traced_layers_give_equal_losses_and_few_compilations_over_packs_with_heavy_tails() -> None:
    """With the backend that runs what was traced, which needs no C++ compiler and takes seconds."""
    said: list[str] = []
    traced = loop_of(recipe_of())
    compiler = Compiler(said.append, backend="aot_eager")
    compiler.apply(traced.network)
    found, want = losses_of(traced), losses_of(loop_of(recipe_of()))
    assert found == pytest.approx(want, abs=1e-5)
    assert len(found) == PACKS
    assert 2 <= compiler.count <= FEW
    assert len(said) == compiler.count
    sizes = [sum(len(f.values) for f in pack.fields.values()) for pack in packs()]
    assert len(set(sizes)) > PACKS / 2
    assert max(sizes) > 20 * np.median(sizes)


@pytest.mark.slow
@pytest.mark.skipif(lacking(CPU) is not None, reason=f"torch.compile on a CPU needs {lacking(CPU)}")
@pytest.mark.timeout(900)
def test_compiled_layers_give_equal_losses_and_few_compilations_over_packs_with_heavy_tails() -> None:
    compiled = loop_of(recipe_of())
    compiler = compile_layers(compiled.network, True, CPU, lambda text: None)
    assert compiler is not None
    found = losses_of(compiled)
    assert found == pytest.approx(losses_of(loop_of(recipe_of())), abs=1e-5)
    assert len(found) == PACKS
    assert 2 <= compiler.count <= FEW <= MAX_COMPILATIONS


@pytest.mark.slow
@pytest.mark.skipif(lacking(CPU) is not None, reason=f"torch.compile on a CPU needs {lacking(CPU)}")
def test_a_worker_tells_what_it_compiles_where_the_recipe_wants_it(shapes: EmojiLike, tmp_path: Path) -> None:
    train = {"steps": 2, "eval_every": 2, "compile": True}
    prepared = prepare(shapes.recipe(tmp_path / "out", train=train, batch={"global_batch": 1}), map)
    reader = open_reader(prepared.index, prepared.recipe, "train", training=True)
    read = (
        pack
        for window in prepared.schedule.since(0)
        for pack in reader.read(window, first=0, stop=prepared.schedule.stop)
    )
    with open_run(prepared, "run") as run, Worker(_job(run, prepared), 0, 1) as worker:
        worker.run(read)
    said = [json.loads(line)["text"] for line in (run.folder / "events.jsonl").read_text("utf-8").splitlines()]
    told = [text for text in said if text.startswith("compiling")]
    assert told[0] == f"compiling `project` of the layers, 1 of at most {MAX_COMPILATIONS}"
    assert 2 <= len(told) <= FEW


def test_recomputed_activations_draw_the_same_dropout_when_compiled() -> None:
    recomputed, kept = loop_of(recipe_of(checkpoint_activations=True)), loop_of(recipe_of())
    Compiler(lambda text: None, backend="aot_eager").apply(recomputed.network)
    assert losses_of(recomputed, 6) == pytest.approx(losses_of(kept, 6), abs=1e-5)


def test_after_the_last_compilation_training_goes_on_uncompiled() -> None:
    said: list[str] = []
    limited = loop_of(recipe_of())
    compiler = Compiler(said.append, limit=1, backend="aot_eager")
    compiler.apply(limited.network)
    assert losses_of(limited, 6) == pytest.approx(losses_of(loop_of(recipe_of()), 6), abs=1e-5)
    assert compiler.count == 1
    assert said == ["compiling `project` of the layers, 1 of at most 1; from now on what is new is computed uncompiled"]


def test_a_cpu_compiles_only_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    loop = loop_of(recipe_of())
    for wanted in ("auto", False):
        assert compile_layers(loop.network, recipe_of(compile=wanted).train.compile, CPU, said.append) is None
    blocks = [m for m in loop.network.modules() if isinstance(m, Block)]
    assert blocks
    assert all(block.compiled is None for block in blocks)
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(InterlaceError, match=r"`train.compile: true` on cpu needs a C\+\+ compiler"):
        compile_layers(loop.network, True, CPU, said.append)
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert compile_layers(loop.network, "auto", torch.device("cuda"), said.append) is None
    assert said == ["layers are not compiled: a C compiler (/no/such/compiler) is missing (`train.compile: auto`)"]
