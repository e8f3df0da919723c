"""What a run is: the file that says so in its folder, and which recipes may go on with it.

run.json   when it was begun, its key, digests of its data, its plan, its settings, its length in steps
"""

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interlace.contract.errors import ResumeError
from interlace.data.index.manifest import Manifest
from interlace.data.plan.plan import PLAN
from interlace.recipe.identity import PLACE_KEYS, is_place, to_yaml
from interlace.recipe.recipe import Recipe

FREE_TO_CHANGE = (*PLACE_KEYS, "name", "data.max_bad_share", "data.test", "train.epochs", "train.steps")
"""Settings that a run may go on with changed, its length by more steps only; others decide weights, data or plan."""

SOURCE_KEYS = ("data.train", "data.validation", "data.mix.")
"""Where samples lie and in which format; what they are is in the digest of the data."""


def identity_of(flat: Mapping[str, Any], manifests: Mapping[str, Manifest], num_steps: int) -> dict[str, Any]:
    """What a run must keep to go on: digests of the data, and every setting that decides weights, data or plan.

    Args:
        flat: settings by dotted path.
        manifests: of each split.
        num_steps: of the run.
    """
    settings = {k: v for k, v in flat.items() if not (k.startswith(FREE_TO_CHANGE) or is_place(k, flat))}
    settings = {k: v for k, v in settings.items() if not k.startswith(SOURCE_KEYS) or k.endswith(".weight")}
    return {
        "data": {split: m.digest for split, m in manifests.items() if split != "test"},
        "steps": num_steps,
        "plan": PLAN,
        "settings": settings,
    }


def write_new(folder: Path, recipe: Recipe, fitted: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Begin a run in its folder; it is begun once `run.json` is there."""
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    (folder / "fitted.json").write_text(json.dumps(fitted, ensure_ascii=False), encoding="utf-8")
    _write_made(folder, {"created": time.time(), "key": uuid.uuid4().hex, **identity})


def _write_made(folder: Path, made: Mapping[str, Any]) -> None:
    partial = folder / "run.json.tmp"
    partial.write_text(json.dumps(made, indent=1), encoding="utf-8")
    partial.replace(folder / "run.json")


def check_same(folder: Path, identity: Mapping[str, Any], name: str) -> int | None:
    """Refuse to go on with a run that was something else, naming each difference; its length where it grows now.

    A longer run has the packs of the shorter one and more, so it may go on, also from its end.
    """
    before: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    now: dict[str, Any] = json.loads(json.dumps(identity))
    if before.get("plan") != now["plan"]:
        raise ResumeError(
            f"run `{name}` was begun by a version that made other packs of the same data, so its stream of packs can't"
            f" go on. Start another run from its weights: --run-name NAME --set model.init.run={folder}"
        )
    differences = [
        f"data of split `{split}`: the run has manifest {before['data'].get(split)}, the shards now give"
        f" {now['data'].get(split)} (files were changed, added or removed)"
        for split in sorted({*before["data"], *now["data"]})
        if before["data"].get(split) != now["data"].get(split)
    ]
    old, new = before["settings"], now["settings"]
    differences += [
        f"{key}: the run has {old.get(key)!r}, the recipe {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if not differences and now["steps"] < before["steps"]:
        differences.append(f"length: the run has {before['steps']} steps, the recipe {now['steps']}; it can only grow")
    if differences:
        listed = "\n  - ".join(["", *differences])
        raise ResumeError(
            f"run `{name}` can't go on with this recipe:{listed}\nUse another --run-name, or --fresh to begin anew"
        )
    if now["steps"] == before["steps"]:
        return None
    _write_made(folder, {**before, "steps": now["steps"]})
    return int(before["steps"])


def free_name(runs: Path, name: str) -> str:
    """The name, with the first number behind it that makes it another than those of all runs there."""
    number = 2
    if not (runs / name).exists():
        return name
    while (runs / f"{name}-{number}").exists():
        number += 1
    return f"{name}-{number}"
