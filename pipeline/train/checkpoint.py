"""Checkpoints: weights, optimizer and state of a run in one folder, hashes of its files written last.

    checkpoints/step-00000120/  model.safetensors  optimizer.safetensors  state.json  hashes.json

A folder without `hashes.json`, or whose files do not match it, was cut short or damaged: it is refused, and the one
before it is taken. Nothing is pickled. `state.json` says which step comes next, so a resumed run goes on as if it had
never stopped.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor, nn

from pipeline.errors import CheckpointError

MODEL, OPTIMIZER, STATE, HASHES = "model.safetensors", "optimizer.safetensors", "state.json", "hashes.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands.

    Args:
        step: optimizer steps done; the next pack is at position `step * global_batch`.
        best_step, best_value: the best evaluation so far; step -1 before the first.
        evaluations_since_best: evaluations without improvement, for early stopping.
        finished: whether the run has come to its end.
        recipe_digest, data_digest: what the run computes, on which data.
    """

    step: int
    best_step: int
    best_value: float
    evaluations_since_best: int
    finished: bool
    recipe_digest: str
    data_digest: str


def save_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: RunState) -> None:
    """Write a checkpoint folder; until its last file is there it does not count."""
    if folder.exists():
        shutil.rmtree(folder)  # a partial one from before a crash
    folder.mkdir(parents=True)
    weights = {k: v.detach().contiguous() for k, v in network.state_dict().items()}
    safetensors.torch.save_file(weights, folder / MODEL)
    safetensors.torch.save_file(optimizer_tensors(optimizer, network), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    hashes = {name: _hash(folder / name) for name in (MODEL, OPTIMIZER, STATE)}
    partial = folder / (HASHES + ".tmp")
    partial.write_text(json.dumps(hashes), encoding="utf-8")
    partial.replace(folder / HASHES)


def verify(folder: Path) -> RunState:
    """The state of a whole checkpoint.

    Raises:
        CheckpointError: a file is missing or differs from its hash.
    """
    try:
        hashes: Mapping[str, str] = json.loads((folder / HASHES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: incomplete, {HASHES} is missing or unreadable") from error
    for name in (MODEL, OPTIMIZER, STATE):
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{folder}: {name} is missing")
        if _hash(path) != hashes.get(name):
            raise CheckpointError(f"{folder}: {name} is damaged (its hash differs from {HASHES})")
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return RunState(**state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises CheckpointError if it is none."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: expected weights in safetensors, but {error}") from error


def load_weights(folder: Path, network: nn.Module) -> None:
    """Fill a network with a checkpoint's weights."""
    network.load_state_dict(safetensors.torch.load_file(folder / MODEL))


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
    """Fill an optimizer made for the same network with a checkpoint's state."""
    saved = safetensors.torch.load_file(folder / OPTIMIZER)
    names = {id(p): name for name, p in network.named_parameters()}
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        name, _, slot = key.rpartition("|")
        by_parameter.setdefault(name, {})[slot] = tensor
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            slots = by_parameter.get(names[id(parameter)], {})
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in slots.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Every state tensor as `parameter name|slot`."""
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        f"{names[id(parameter)]}|{slot}": tensor.detach().contiguous()
        for parameter, slots in optimizer.state.items()
        for slot, tensor in slots.items()
        if isinstance(tensor, Tensor)
    }


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after so many steps lies."""
    return run / "checkpoints" / f"step-{step:08d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The newest whole checkpoint of a run, if any, and why newer ones were refused."""

    folder: Path | None
    state: RunState | None
    refused: tuple[str, ...]


def newest_checkpoint(run: Path) -> Found:
    """Look through a run's checkpoints from the newest on; the first whole one is taken."""
    refused: list[str] = []
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        try:
            return Found(folder=folder, state=verify(folder), refused=tuple(refused))
        except CheckpointError as error:
            refused.append(str(error))
    return Found(folder=None, state=None, refused=tuple(refused))


def prune_checkpoints(run: Path, keep: int, best_step: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    kept = {*folders[-keep:], checkpoint_folder(run, best_step)}
    for folder in folders:
        if folder not in kept:
            (folder / HASHES).unlink(missing_ok=True)  # half-deleted counts as incomplete
            shutil.rmtree(folder, ignore_errors=True)


def _hash(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            hasher.update(chunk)
    return hasher.hexdigest()
