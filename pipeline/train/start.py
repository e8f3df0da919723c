"""Weights that a fresh network starts from: those of another run's fields, of its other layers, of pretrained models.

Fitted state comes from there too (`recipe.start.fitted_from`); a run that goes on from a checkpoint needs neither.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from interlace.contract.errors import StartError
from interlace.model.embedding import encoder_of
from interlace.model.fusion import key
from interlace.model.network import FIELD_PARTS, Network
from interlace.model.pretrained import read_pretrained
from interlace.recipe.base import FieldStart
from interlace.recipe.fields import AnyField
from interlace.recipe.load import load_kept
from interlace.recipe.model import Model
from interlace.recipe.start import MODEL, RECIPE
from interlace.train.tensors import read_weights

HEADS = "heads."
UNPAIRED = ".mask_D"
"""End of the one tensor of a field that may be on one side only: what stands for masked tokens, if a task masks any."""


def start(network: Network, model: Model, fields: Mapping[str, AnyField], home: Path) -> list[str]:
    """Fill a network with all that a pinned recipe starts from; one line for each source.

    Args:
        network: of the recipe, on any device.
        model: the section, with `init` or without.
        fields: with `init` or a pretrained encoder, or without.
        home: the folder of kept copies (`interlace.store.places.starts_of`).

    Raises:
        StartError: shapes or layers differ; all errors of a field are named, and nothing has been changed.
    """
    state = network.state_dict()
    found: dict[str, Tensor] = {}
    said = []
    if model.init is not None:
        shared = _shared(state, model, fields, home)
        found |= shared
        said.append(f"model: {len(shared)} shared tensors from {model.init.run}")
    for name, field in fields.items():
        if field.init is not None:
            own = _field(state, model, field.init, name, home)
            found |= own
            said.append(f"field `{name}`: {len(own)} tensors from `{field.init.field}` of {field.init.run}")
        elif (encoder := encoder_of(field)) is not None:
            assert encoder.digest is not None, "not pinned"
            within = f"embeddings.{key(name)}.content.model."
            own = {within + n: t for n, t in read_pretrained(home / encoder.digest).items()}
            found |= {n: t for n, t in own.items() if n in state}
            said.append(f"field `{name}`: {len(own)} tensors from {encoder.pretrained}")
    with torch.no_grad():
        for name, tensor in found.items():
            state[name].copy_(tensor)
    return said


def prefixes(field: str) -> tuple[str, ...]:
    """How the names of all tensors begin that a field has to itself."""
    return tuple(f"{part}.{key(field)}." for part in FIELD_PARTS)


def _shared(state: Mapping[str, Tensor], model: Model, fields: Mapping[str, AnyField], home: Path) -> dict[str, Tensor]:
    """What is no field's own and no head, under the same name on both sides."""
    init = model.init
    assert init is not None
    assert init.digest is not None, "not pinned"
    there = read_weights(home / init.digest / MODEL)
    own = tuple(p for name in fields for p in prefixes(name))
    found = {n: there[n] for n in state if n in there and not n.startswith((HEADS, *own))}
    errors = [_shapes(n, state[n], t) for n, t in found.items() if t.shape != state[n].shape]
    errors += _heads(model, home / init.digest) if found else []
    if errors:
        raise StartError(f"model.init ({init.run})", tuple(errors))
    return found


def _field(state: Mapping[str, Tensor], model: Model, init: FieldStart, name: str, home: Path) -> dict[str, Tensor]:
    """A field's own tensors, each of which must be there in its shape, and no others."""
    assert init.digest is not None, "not pinned"
    there = read_weights(home / init.digest / MODEL)
    source = init.field or name
    left = {n for n in there if n.startswith(prefixes(source)) and not n.endswith(UNPAIRED)}
    found, errors = {}, []
    for mine, theirs in _pairs(state, name, source, there):
        left.discard(theirs)
        if theirs not in there:
            errors += [] if mine.endswith(UNPAIRED) else [f"{mine}: is {_shape(state[mine])}, but is not there"]
        elif there[theirs].shape != state[mine].shape:
            errors.append(_shapes(mine, state[mine], there[theirs]))
        else:
            found[mine] = there[theirs]
    errors += [f"{n}: is {_shape(there[n])} there, but this recipe has no place for it" for n in sorted(left)]
    if any(n.startswith("fusion.") for n in found):
        errors += _heads(model, home / init.digest)
    if errors:
        raise StartError(f"fields.{name}.init (`{source}` of {init.run})", tuple(errors))
    return found


def _pairs(
    state: Mapping[str, Tensor], name: str, source: str, there: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    """A field's own tensors here and there; its own clock may be the one that all fields share there."""
    for mine in state:
        for ours, theirs in zip(prefixes(name), prefixes(source), strict=True):
            if mine.startswith(ours):
                rest = mine.removeprefix(ours)
                shared = rest.startswith("clock.") and theirs + rest not in there
                yield mine, rest if shared else theirs + rest


def _heads(model: Model, folder: Path) -> list[str]:
    """The number of attention heads, which no shape shows."""
    here, there = model.head_dim, load_kept(folder / RECIPE).model.head_dim
    return [] if here == there else [f"model.head_dim: is {here}, but {there} there"]


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _shapes(name: str, here: Tensor, there: Tensor) -> str:
    return f"{name}: is {_shape(here)}, but {_shape(there)} there"
