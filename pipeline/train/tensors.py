"""Named tensors as files, without pickle: what checkpoints are made of.

    model.safetensors                             every tensor whole
    model-00000-of-00002.safetensors, ...         each rank's rows of them, first rows in the file's metadata

`torch.distributed.checkpoint` is not used, since it reads its metadata by `pickle.load` (torch 2.13).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from interlace.contract.errors import CheckpointError
from interlace.train.parallel import is_sharded

FIRST_ROWS = "first_rows"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], rank: int = 0, num_parts: int = 1) -> Path:
    """Write tensors, or this rank's part of them; the file written.

    Args:
        path: of the file that would hold all of them.
        tensors: by name; of a sharded one its own rows are written, one that is whole only by rank 0.
        rank: which part is this rank's.
        num_parts: how many there are.
    """
    if num_parts == 1:
        safetensors.torch.save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path)
        return path
    own: dict[str, Tensor] = {}
    first_rows: dict[str, int] = {}
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            own[name] = tensor.to_local().detach().contiguous()
            first_rows[name] = min(rank * -(-tensor.shape[0] // num_parts), tensor.shape[0])
        elif rank == 0:
            own[name] = tensor.detach().contiguous()
    path = path.with_name(f"{path.stem}-{rank:05d}-of-{num_parts:05d}{path.suffix}")
    safetensors.torch.save_file(own, path, metadata={FIRST_ROWS: json.dumps(first_rows)})
    return path


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by name, whole, one at a time, from a file or from its parts.

    Raises:
        CheckpointError: neither is there, or a part is missing.
    """
    paths = [path] if path.exists() else part_files(path)
    with ExitStack() as stack:
        files = [stack.enter_context(safetensors.safe_open(p, framework="pt")) for p in paths]
        pieces: dict[str, list[tuple[int, int]]] = {}
        for number, file in enumerate(files):
            first_rows = json.loads((file.metadata() or {}).get(FIRST_ROWS, "{}"))
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                pieces.setdefault(name, []).append((first_rows.get(name, 0), number))
        for name, places in pieces.items():
            parts = [files[number].get_tensor(name) for _, number in sorted(places)]
            yield name, parts[0] if len(parts) == 1 else torch.cat(parts)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All that `read_tensors` reads. Raises CheckpointError, also where a file holds no tensors."""
    try:
        return dict(read_tensors(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: expected weights in safetensors, but {error}") from error


def part_files(path: Path) -> list[Path]:
    """The parts that were written of a file, all of them.

    Raises:
        CheckpointError: there are none, or one is missing.
    """
    found = sorted(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))
    num_parts = int(found[0].stem.rpartition("-")[2]) if found else 0
    names = [f"{path.stem}-{rank:05d}-of-{num_parts:05d}{path.suffix}" for rank in range(num_parts)]
    if not found or [p.name for p in found] != names:
        raise CheckpointError(f"{path.parent}: expected {path.name} or all its parts, but found {len(found)} parts")
    return found


def join_parts(source: Path, target: Path) -> None:
    """Copy tensors into one file, whether they lie in one or in parts. Raises CheckpointError."""
    write_tensors(target, dict(read_tensors(source)))
