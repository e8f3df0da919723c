"""Checkpoints: weights, optimizer and state of a run in one folder, hashes of its files written last.

    checkpoints/step-00000120/  model.safetensors  optimizer.safetensors  state.json  hashes.json

With a running average of the weights (`optim.ema`) the averages are the model, and `trained.safetensors` holds the
weights that training goes on with.

Where weights are sharded, `model` and `optimizer` are a file for each rank (see `tensors`), which any number of workers
reads.

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

import torch
import torch.distributed as dist
from torch import Tensor, nn

from interlace.contract.errors import CheckpointError
from interlace.contract.ranks import gather_objects
from interlace.store.hashes import hash_file
from interlace.train.average import WeightAverage
from interlace.train.parallel import holds_shards, place, rows_like
from interlace.train.tensors import read_tensors, write_tensors

MODEL, OPTIMIZER, STATE, HASHES = "model.safetensors", "optimizer.safetensors", "state.json", "hashes.json"
TRAINED = "trained.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands.

    Args:
        step: optimizer steps done; the next pack is at position `step * global_batch`.
        best_step, best_value: the best evaluation so far; step -1 before the first.
        evaluations_since_best: evaluations without improvement, for early stopping.
        finished: whether the run had come to its end; see `is_over`.
        recipe_digest, data_digest: what the run computes, on which data.
        rate_scale, rate_waited: what evaluations made of the learning rate; see `optim.after_evaluation`.
    """

    step: int
    best_step: int
    best_value: float
    evaluations_since_best: int
    finished: bool
    recipe_digest: str
    data_digest: str
    rate_scale: float = 1.0
    rate_waited: int = 0

    def is_over(self, num_steps: int, patience: int | None) -> bool:
        """Whether a run of so many steps has come to its end: it may have been shorter when it was written."""
        early = patience is not None and self.evaluations_since_best >= patience
        return self.finished and (early or self.step >= num_steps)


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: RunState,
    average: WeightAverage | None = None,
) -> None:
    """Write a checkpoint folder; until its last file is there it does not count.

    Called by rank 0 alone, or by all ranks where the network is sharded: then each writes its own rows, and the hashes
    are written when all have.
    """
    sharded = holds_shards(network)
    rank = dist.get_rank() if sharded else 0
    part, num_parts, writes = place(network) if sharded else (0, 1, True)
    if rank == 0:
        if folder.exists():
            shutil.rmtree(folder)  # a partial one from before a crash
        folder.mkdir(parents=True)
    if sharded:
        dist.barrier()
    weights = network.state_dict()
    files = {MODEL: weights | (average.tensors() if average else {}), OPTIMIZER: optimizer_tensors(optimizer, network)}
    if average:
        files[TRAINED] = weights
    written = [write_tensors(folder / name, x, part, num_parts) for name, x in files.items() if writes]
    if rank == 0:
        (folder / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        written.append(folder / STATE)
    hashes = {path.name: hash_file(path) for path in written}
    if sharded:
        hashes = {name: value for one in gather_objects(hashes) for name, value in one.items()}
    if rank == 0:
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
    for name, value in hashes.items():
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{folder}: {name} is missing")
        if hash_file(path) != value:
            raise CheckpointError(f"{folder}: {name} is damaged (its hash differs from {HASHES})")
    if STATE not in hashes:
        raise CheckpointError(f"{folder}: {HASHES} does not name {STATE}")
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return RunState(**state)


def load_weights(folder: Path, network: nn.Module, file: str = MODEL) -> None:
    """Fill a network, or this rank's rows of it, with a checkpoint's model, or the weights in another file of it."""
    own = network.state_dict()
    saved = read_tensors(folder / file)
    network.load_state_dict({name: rows_like(tensor, own[name]) if name in own else tensor for name, tensor in saved})


def load_training(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
) -> None:
    """Fill all that training goes on with: weights, their average where there is one, and the optimizer's state."""
    load_weights(folder, network)
    if average:
        average.load(network.state_dict())
        load_weights(folder, network, TRAINED)
    load_optimizer(folder, optimizer, network)


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
    """Fill an optimizer made for the same network with a checkpoint's state."""
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for parameter in parameters.values():
        optimizer.state[parameter] = {}
    for key, tensor in read_tensors(folder / OPTIMIZER):
        name, _, slot = key.rpartition("|")
        if name in parameters:
            owner = parameters[name]
            like = owner if tensor.shape == owner.shape else tensor
            optimizer.state[owner][slot] = rows_like(tensor, like).to(owner.device)


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Every state tensor as `parameter name|slot`."""
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        f"{names[id(parameter)]}|{slot}": tensor
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


def chosen_checkpoint(run: Path, model_from: str) -> tuple[Path, str | None]:
    """The checkpoint that a run's model is made of.

    Args:
        run: its folder.
        model_from: as `train.model_from`: the best, or the last, which is also taken where no evaluation was.

    Returns:
        Its folder, and why it is not the best where that is damaged.

    Raises:
        CheckpointError: there is none.
    """
    newest = newest_checkpoint(run)
    if newest.folder is None or newest.state is None:
        raise CheckpointError(f"{run}: expected a whole checkpoint, but found none ({'; '.join(newest.refused)})")
    if newest.state.best_step < 0 or model_from == "last":
        return newest.folder, None
    best = checkpoint_folder(run, newest.state.best_step)
    try:
        verify(best)
    except CheckpointError as error:
        return newest.folder, f"best checkpoint refused, the last one is taken: {error}"
    return best, None
