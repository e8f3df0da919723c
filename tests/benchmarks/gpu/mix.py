"""The heavy-tailed mix for models of three sizes, as a file: recipe, shapes, lengths of the samples of each pack.

`write` takes what `synthetic/sizes.py` deals, which needs the data arm, and what a step should take on paper; `read`
needs the model arm alone and draws values for the lengths. Values are random: ids that were all the same would meet in
one row of the table's gradient.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interlace.contract.flops import FieldFlops, Flops
from interlace.contract.sample import FieldPack, FieldSpec, Pack, TargetPack
from tests.gpu.stored import Made

SIZES = ("20M", "150M", "1B")
TINY: Mapping[str, Mapping[str, int]] = {
    "20M": {"dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 1},
    "150M": {"dim": 32, "head_dim": 16, "field_layers": 1, "joint_layers": 2},
    "1B": {"dim": 64, "head_dim": 16, "field_layers": 1, "joint_layers": 2},
}
"""What stands for the sizes in a rehearsal."""
TINY_BUDGET, TINY_PACKS, SHRUNK = 6_000, 8, 16
"""A rehearsal: tokens of a pack as dealt (the longest sample has 5,076), packs, what lengths are divided by then."""
NUM_PACKS, ROWS = 48, 20_000
"""Packs that are kept, of so many samples that were dealt."""
SECONDS_A_TOKEN = 0.04
STILL = ("optim.lr=1e-5", "train.steps=100000")
"""Weights hardly move: labels are random, and a loss that overflows would end what is to be measured."""

Lengths = Mapping[str, NDArray[np.int32]]
"""Tokens of each sample `[S]` by field; 0 where it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A model and the packs that it trains on.

    Args:
        name: of the size.
        made: recipe, shapes of fields, classes.
        flops: of a sample's forward pass.
        lengths: of each pack.
        expected: what a step should take on paper, by device: lines of `tests.benchmarks.roofline`; may be empty.
    """

    name: str
    made: Made
    flops: Flops
    lengths: tuple[Lengths, ...]
    expected: Mapping[str, Mapping[str, Any]]

    @property
    def layers(self) -> tuple[int, int]:
        """Layers that a token passes within its field and with all fields."""
        return self.made.recipe.model.field_layers, self.made.recipe.model.joint_layers

    def packs(self, count: int | None = None) -> list[Pack]:
        """The packs at positions from 0 on, all or so many of them."""
        return [self._drawn(position, own) for position, own in enumerate(self.lengths[:count])]

    def step_flops(self, lengths: Lengths) -> float:
        """FLOPs of forward and backward over a pack's real tokens."""
        return 3 * float(self.flops.of_rows(lengths).sum())

    def _drawn(self, position: int, lengths: Lengths) -> Pack:
        rng = np.random.default_rng(position)
        samples = len(next(iter(lengths.values())))
        classes = len(self.made.targets["label"]["classes"])
        return Pack(
            position=position,
            epoch=0,
            sample_ids=np.arange(samples, dtype=np.int64),
            fields={name: draw_field(spec, lengths[name], rng) for name, spec in self.made.specs.items()},
            targets={
                "label": TargetPack(
                    values=rng.integers(0, classes, samples),
                    lengths=np.ones(samples, np.int32),
                    present=np.ones(samples, np.bool_),
                )
            },
        )


def endless(packs: list[Pack]) -> Iterator[Pack]:
    """The packs again and again, at positions that go on."""
    position = 0
    while True:
        yield dataclasses.replace(packs[position % len(packs)], position=position)
        position += 1


def draw_field(spec: FieldSpec, lengths: NDArray[np.int32], rng: np.random.Generator) -> FieldPack:
    """Random tokens of so many a sample; pictures are square, of other fields each token is a row."""
    total = int(lengths.sum())
    if spec.kind == "ids":
        values: NDArray[Any] = rng.integers(0, spec.vocab_size, total, np.int32)
    elif spec.patch_dtype == "uint8":
        values = rng.integers(0, 256, (total, spec.patch_dim), np.uint8)
    else:
        values = rng.standard_normal((total, spec.patch_dim), np.float32).astype(spec.patch_dtype)
    sides = np.array([math.isqrt(n) if spec.channels else n for n in lengths.tolist()], np.int32)
    places = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return FieldPack(
        values=values,
        lengths=lengths,
        grids=np.stack([sides, sides if spec.channels else (lengths > 0).astype(np.int32)], axis=1),
        times=(SECONDS_A_TOKEN * places).astype(np.float32) if spec.clocked else None,
    )


def shrink(spec: FieldSpec, lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """A sixteenth of each value's tokens, rounded up; pictures stay square."""
    if spec.channels:
        return (np.sqrt(lengths).astype(np.int32) // math.isqrt(SHRUNK)) ** 2
    return -(-lengths // SHRUNK)


def write(folder: Path, name: str, *, tiny: bool = False) -> None:
    """Deal packs of the mix to a model of a size, or to what stands for it in a rehearsal."""
    # They need the data arm, which is not where the kit runs.
    from interlace.recipe.load import parse_recipe
    from tests.benchmarks.roofline import DEVICES, roofline, step_of
    from tests.benchmarks.synthetic import sizes

    assert tuple(sizes.SIZES) == SIZES
    settings = TINY[name] if tiny else sizes.SIZES[name]
    changes = (*STILL, f"batch.token_budget={TINY_BUDGET}") if tiny else STILL
    recipe = parse_recipe(sizes.recipe_of(settings).model_dump(mode="json"), changes)
    sized = sizes.Sized(recipe=recipe, rows=ROWS // 10 if tiny else ROWS)
    dealt = list(itertools.islice(sized.packs(), TINY_PACKS if tiny else NUM_PACKS))
    lengths = [{field: own[rows] for field, own in sized.tokens.items()} for rows in dealt]
    if tiny:
        lengths = [{field: shrink(sized.specs[field], own) for field, own in pack.items()} for pack in lengths]
        recipe = parse_recipe(recipe.model_dump(mode="json"), (f"batch.token_budget={TINY_BUDGET // SHRUNK}",))
    expected = {}
    if not tiny:
        step = step_of(name, ROWS)
        expected = {device: roofline(step, DEVICES[device]) for device in ("H100", "H200")}
    tree = {
        **Made(recipe=recipe, specs=sized.specs, targets=sized.targets).to_json(),
        "flops": dataclasses.asdict(sized.flops),
        "lengths": [{field: own.tolist() for field, own in pack.items()} for pack in lengths],
        "expected": expected,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")


def read(folder: Path, name: str) -> Mix:
    """What `write` wrote."""
    tree = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    fields = {field: FieldFlops(**own) for field, own in tree["flops"].pop("fields").items()}
    return Mix(
        name=name,
        made=Made.from_json(tree),
        flops=Flops(fields=fields, **tree["flops"]),
        lengths=tuple({f: np.array(own, np.int32) for f, own in pack.items()} for pack in tree["lengths"]),
        expected=tree["expected"],
    )
