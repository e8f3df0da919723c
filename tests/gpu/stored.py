"""Networks and packs in files of numpy and JSON, so that nothing that reads shards is needed where they are trained.

    <folder>/packs.npz                     the arrays of all packs
    <folder>/<fusion>.json                 recipe, shapes of the fields' tokens, what the targets learned

`write` draws them (`tests.everypart`) where modalities are at hand; `read` needs the model arm alone.
"""

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interlace.contract.sample import FieldPack, FieldSpec, Pack, TargetPack
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe

FUSIONS = (
    "early", "mid", "bottleneck", "cross_attention", "cross_attention by words", "weighted_sum", "product", "gated",
    "concat", "decision",
)  # fmt: skip
"""What is trained; `by` names the field that queries. A test holds that none is left out."""
NUM_PACKS = 6
"""Packs that differ; a run of more steps takes them again under new positions."""
PACKS = "packs.npz"
LASTING = ("model.dropout=0", "batch.global_batch=1")
"""Dropout of activations is drawn on the device, whose numbers are its own; that of fields stays, drawn on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a network is built of.

    Args:
        recipe: of the run.
        specs: shape of each field's tokens.
        targets: what the target of each task learned from its rows.
    """

    recipe: Recipe
    specs: Mapping[str, FieldSpec]
    targets: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        specs = {name: dataclasses.asdict(spec) for name, spec in self.specs.items()}
        return {"recipe": self.recipe.model_dump(mode="json"), "specs": specs, "targets": self.targets}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> "Made":
        """The inverse of `to_json`, with settings of the recipe changed."""
        specs = {n: FieldSpec(**{**s, "max_grid": tuple(s["max_grid"])}) for n, s in tree["specs"].items()}
        return cls(recipe=parse_recipe(tree["recipe"], overrides), specs=specs, targets=tree["targets"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A folder that `write` filled."""

    folder: Path

    def made(self, fusion: str, *overrides: str) -> Made:
        """The network of a fusion, with settings of its recipe changed."""
        tree = json.loads((self.folder / f"{fusion}.json").read_text(encoding="utf-8"))
        return Made.from_json(tree, overrides)

    def packs(self, count: int) -> Iterator[Pack]:
        """So many packs in order, the first again after the last."""
        found = read_packs(self.folder / PACKS)
        for position in range(count):
            yield dataclasses.replace(found[position % len(found)], position=position)


def write(folder: Path) -> None:
    """Draw the packs, and write a network for each fusion."""
    from tests.everypart import made_modalities, pack_at, recipe_with, tasks_with  # need what reads pictures and sounds

    folder.mkdir(parents=True, exist_ok=True)
    specs = {name: modality.spec for name, modality in made_modalities().items()}
    for fusion in FUSIONS:
        tasks = tasks_with(fusion)
        still = tuple(f"tasks.{name}.mixup=0" for name, (settings, *_) in tasks.items() if "mixup" in settings)
        recipe = parse_recipe(recipe_with(fusion, "fp32").model_dump(mode="json"), (*LASTING, *still))
        made = Made(recipe=recipe, specs=specs, targets={name: fitted for name, (_, fitted, _) in tasks.items()})
        (folder / f"{fusion}.json").write_text(json.dumps(made.to_json()), encoding="utf-8")
    write_packs(folder / PACKS, [pack_at(position, "mid") for position in range(NUM_PACKS)])


def write_packs(path: Path, packs: Sequence[Pack]) -> None:
    """Write packs into one compressed file."""
    arrays: dict[str, NDArray[Any]] = {"count": np.array(len(packs))}
    for number, pack in enumerate(packs):
        arrays[f"{number}/ids"] = pack.sample_ids
        for kind, items in (("field", pack.fields), ("target", pack.targets)):
            for name, item in items.items():
                for part in (f.name for f in dataclasses.fields(item)):
                    if (array := getattr(item, part)) is not None:
                        arrays[f"{number}/{kind}/{name}/{part}"] = array
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_packs(path: Path) -> list[Pack]:
    """The packs of a file, at positions from 0 on."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    packs = []
    for number in range(int(arrays["count"])):
        found: dict[str, dict[str, dict[str, Any]]] = {"field": {}, "target": {}}
        for place, array in arrays.items():
            pack, _, rest = place.partition("/")
            if pack == str(number) and rest != "ids":
                kind, name, part = rest.split("/")
                found[kind].setdefault(name, {})[part] = array
        packs.append(
            Pack(
                position=number,
                epoch=0,
                sample_ids=arrays[f"{number}/ids"],
                fields={name: FieldPack(**parts) for name, parts in found["field"].items()},
                targets={name: TargetPack(**parts) for name, parts in found["target"].items()},
            )
        )
    return packs
