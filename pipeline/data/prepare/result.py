"""The result: what `prepared.json` says, whether a folder holds it for these inputs and settings, and its removal."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace.contract.errors import ResumeError
from interlace.data.prepare.plan import Plan
from interlace.data.prepare.work import HIDDEN, SHARDS
from interlace.recipe.prepare import output_settings

CODE_VERSION = 1
"""Raised when the same inputs and settings would give another output."""
RESULT, REJECTED, LOCK = "prepared.json", "quarantine.parquet", ".prepare.lock"
MOST_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `prepared.json` says.

    Args:
        name: of the recipe.
        settings: those that decide the output, by dotted path.
        inputs: fingerprint of each shard of each source.
        splits: `{split: {"rows", "present": {source: rows that have it}, "shards": [{"file", "rows", ...}]}}`.
        quarantined: rows of `quarantine.parquet`.
        unmatched: rows of each source that an inner join left out.
        digest: of the rows of all shards, 32 hex digits.
        version: of the code that decides the output.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]]
    splits: Mapping[str, Mapping[str, Any]]
    quarantined: int
    unmatched: Mapping[str, int]
    digest: str
    version: int = CODE_VERSION


def out_folder(plan: Plan) -> Path:
    """Where the shards go."""
    return Path(plan.recipe.out).absolute()


def finished(plan: Plan) -> Prepared | None:
    """What the plan's folder holds if it is finished, made from these inputs by these settings.

    Raises:
        ResumeError: it was made, or begun, from others; or shards are gone.
    """
    out = out_folder(plan)
    result = read_facts(out / RESULT)
    begun = result or read_facts(out / HIDDEN / "job.json")
    if begun is not None:
        _check_same(plan, begun)
    elif out.is_dir() and (others := sorted(f.name for f in out.iterdir() if f.name not in (HIDDEN, LOCK))):
        raise ResumeError(f"`out`: expected a new or empty folder, but {out} holds {', '.join(others[:MOST_LISTED])}")
    if result is None:
        return None
    for shard in _shards(result):
        path = out / shard["file"]
        if not path.exists() or path.stat().st_size != shard["bytes"]:
            raise ResumeError(
                f"{path}: expected {shard['bytes']} bytes, but it is gone or changed; `--fresh` begins anew"
            )
    return Prepared(**result)


def made_from(plan: Plan) -> dict[str, Any]:
    """What decides the output."""
    return {"settings": output_settings(plan.recipe), "inputs": plan.prints, "version": CODE_VERSION}


def _check_same(plan: Plan, there: Mapping[str, Any]) -> None:
    """Refuse a folder made from other inputs or by other settings, with each difference named."""
    here = json.loads(json.dumps(made_from(plan)))
    errors = []
    if there["version"] != here["version"]:
        errors.append(f"version of the code: the folder has {there['version']}, here it is {here['version']}")
    for key in sorted({*there["settings"], *here["settings"]}):
        old, new = there["settings"].get(key), here["settings"].get(key)
        if old != new:
            errors.append(f"{key}: the folder has {old}, the recipe {new}")
    for source in sorted({*there["inputs"], *here["inputs"]}):
        old, new = there["inputs"].get(source, {}), here["inputs"].get(source, {})
        shards = sorted(s for s in {*old, *new} if old.get(s) != new.get(s))
        if shards:
            more = f" and {len(shards) - MOST_LISTED} more" if len(shards) > MOST_LISTED else ""
            errors.append(f"inputs of `{source}` changed: {', '.join(shards[:MOST_LISTED])}{more}")
    if errors:
        raise ResumeError(
            "\n  - ".join([f"{out_folder(plan)} was made from something else; `--fresh` begins anew", *errors])
        )


def remove(out: Path) -> None:
    """Remove what a job wrote to a folder, and nothing else; what names the files goes last."""
    shards = _shards(read_facts(out / RESULT) or {"splits": {}})
    for mark in (out / HIDDEN).glob(f"*/{SHARDS}/*.json"):
        shards.append(json.loads(mark.read_text(encoding="utf-8"))["shard"])
    for name in (*(s["file"] for s in shards), REJECTED):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / HIDDEN, ignore_errors=True)
    (out / RESULT).unlink(missing_ok=True)


def read_facts(path: Path) -> dict[str, Any] | None:
    """A JSON file, if it is there."""
    facts: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return facts


def _shards(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [shard for facts in result["splits"].values() for shard in facts["shards"]]
