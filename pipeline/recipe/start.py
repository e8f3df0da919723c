"""What a run starts from: other runs' models and pretrained folders, found, named by content, and kept in storage.

    `init.run`, `encoder.pretrained` -> files there -> hash -> <storage>/cache/starts/<hash>/ -> fitted state, weights

`pin` writes the hash into the recipe, so a run's identity holds what it began with, wherever that lay. All later
reading is from the kept copy: the other run may go on, be deleted, or lie on another machine.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlace.contract.errors import StartError
from interlace.recipe.base import FieldStart, PretrainedEncoder
from interlace.recipe.fields import AnyField
from interlace.recipe.identity import digest, flatten
from interlace.recipe.load import load_kept
from interlace.recipe.recipe import Recipe
from interlace.store.hashes import hash_file
from interlace.store.places import starts_of

RECIPE, FITTED, MODEL = "recipe.yaml", "fitted.json", "model.safetensors"
WEIGHTS = "model*.safetensors"
"""The weights: one file, or a part of each worker of a run with `train.parallel: fsdp`."""
PRETRAINED = ("*.json", WEIGHTS)
"""What is kept of a pretrained folder; nothing else of it is ever read."""

Files = dict[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A recipe of which nothing is open any more: pinned, with its settings by dotted path and the digest of it."""

    recipe: Recipe
    settings: Mapping[str, Any]
    digest: str


def resolve(recipe: Recipe) -> Resolved:
    """Settle what a run is, once: see `pin`. Raises StartError."""
    recipe = pin(recipe)
    return Resolved(recipe=recipe, settings=flatten(recipe), digest=digest(recipe))


def pin(recipe: Recipe) -> Recipe:
    """The recipe with the hash of everything that it starts from, kept in its storage from now on.

    `model.init` becomes an `init` of each field of a name that the other run has too, unless the field has its own or a
    pretrained encoder that the other has not.

    Raises:
        StartError: it is neither there nor kept, or has another content than the recipe says.
    """
    home = starts_of(recipe.storage)
    whole = recipe.model.init
    if whole is not None:
        found = keep(home, whole.run, whole.digest, files_of_run, "model.init")
        recipe = _with(recipe, "model", init=whole.model_copy(update={"digest": found}))
        whole = recipe.model.init
    known = load_kept(home / whole.digest / RECIPE).fields if whole is not None and whole.digest else {}
    fields = {}
    for name, field in recipe.fields.items():
        init = field.init
        if init is None and whole is not None and name in known:
            init = FieldStart(run=whole.run, digest=whole.digest)
        if init is not None:
            found = keep(home, init.run, init.digest, files_of_run, f"fields.{name}.init")
            init = init.model_copy(update={"digest": found, "field": init.field or name})
        fields[name] = field.model_copy(update={"init": init, **_pinned_encoder(home, name, field)})
    return recipe.model_copy(update={"fields": fields})


def _pinned_encoder(home: Path, name: str, field: AnyField) -> dict[str, PretrainedEncoder]:
    encoder: PretrainedEncoder | None = getattr(field, "encoder", None)
    if encoder is None:
        return {}
    found = keep(home, encoder.pretrained, encoder.digest, files_of_pretrained, f"fields.{name}.encoder")
    return {"encoder": encoder.model_copy(update={"digest": found})}


def _with(recipe: Recipe, section: str, **settings: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=settings)})


def keep(home: Path, place: str, digest: str | None, find: Callable[[Path], Files], setting: str) -> str:
    """The hash of what lies at a place, of which `home` then has a copy.

    Args:
        home: the folder of copies.
        place: as the recipe says it.
        digest: as the recipe says it; a copy of that hash is enough.
        find: the files to keep of that place; raises OSError where it is not one.
        setting: the part of the recipe, for messages.

    Raises:
        StartError: as `pin`.
    """
    if digest is not None and (home / digest).is_dir():
        return digest
    pointer = home / f"{hashlib.sha256(str(Path(place).absolute()).encode()).hexdigest()[:24]}.txt"
    if digest is None and not Path(place).exists() and pointer.exists():
        return pointer.read_text(encoding="utf-8")  # gone, but kept
    try:
        files = find(Path(place))
        found = _hash(files)
    except OSError as error:
        raise StartError(setting, (f"{error}",)) from error
    if digest not in (None, found):
        raise StartError(setting, (f"expected content of hash {digest} in {place}, but it has {found}",))
    if not (home / found).is_dir():
        partial = home / f"{uuid.uuid4().hex}.tmp"
        partial.mkdir(parents=True)
        for name, path in files.items():
            shutil.copyfile(path, partial / name)
        try:
            partial.rename(home / found)
        except OSError:  # another process kept it meanwhile
            shutil.rmtree(partial)
    pointer.write_text(found, encoding="utf-8")
    return found


def files_of_run(place: Path) -> Files:
    """Recipe, fitted state and weights of an exported model, a checkpoint, or a run: its model, else newest checkpoint.

    Raises:
        FileNotFoundError: the place is none of these.
        OSError: the checkpoint is damaged.
    """
    checkpoints = sorted((place / "checkpoints").glob("step-*/hashes.json"))
    if not (place / MODEL).exists() and (place / "model" / MODEL).exists():
        place = place / "model"
    elif checkpoints:
        place = checkpoints[-1].parent
    hashes = place / "hashes.json"
    beside = place.parent.parent if hashes.exists() else place
    known: dict[str, str] = json.loads(hashes.read_text(encoding="utf-8")) if hashes.exists() else {}
    weights = [name for name in known if Path(name).match(WEIGHTS)] or [MODEL]
    files = {RECIPE: beside / RECIPE, FITTED: beside / FITTED, **{name: place / name for name in weights}}
    if missing := [str(path) for path in files.values() if not path.exists()]:
        raise FileNotFoundError(
            f"expected the folder of a run, an exported model or a checkpoint, but there is no {', '.join(missing)}"
        )
    for name in weights if known else ():
        if known.get(name) != hash_file(place / name):
            raise OSError(f"{place}: {name} is damaged (its hash differs from hashes.json)")
    return files


def files_of_pretrained(place: Path) -> Files:
    """Settings and weights of a folder of the `transformers` library. Raises FileNotFoundError."""
    files = {path.name: path for pattern in PRETRAINED for path in place.glob(pattern)}
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        there = ", ".join(sorted(path.name for path in place.glob("*"))) or "nothing"
        raise FileNotFoundError(
            f"expected a folder with config.json and model.safetensors (nothing pickled is read), but {place}: {there}"
        )
    return files


def _hash(files: Files) -> str:
    """One hash of the names and contents of files."""
    facts = sorted((name, hash_file(path)) for name, path in files.items())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def fitted_from(home: Path, name: str, field: AnyField) -> Mapping[str, Any] | None:
    """The fitted state that a pinned field starts from, so that its tokens mean what they meant; None without `init`.

    Raises:
        StartError: the other run has no such field, or its settings would give other tokens.
    """
    if field.init is None:
        return None
    init, setting = field.init, f"fields.{name}.init"
    assert init.digest is not None, "not pinned"
    folder, there = home / init.digest, init.field or name
    known = load_kept(folder / RECIPE).fields
    if there not in known:
        raise StartError(setting, (f"expected a field of {init.run} ({', '.join(known)}), but is {there!r}",))
    if errors := _differences(field, known[there]):
        raise StartError(f"{setting} (`{there}` of {init.run})", tuple(errors))
    state: Mapping[str, Any] = json.loads((folder / FITTED).read_text(encoding="utf-8"))["fields"][there]
    return state


def _differences(here: AnyField, there: AnyField) -> list[str]:
    """Settings that make other tokens of a value, or another stem; of columns only the number counts."""
    if here.modality != there.modality:
        return [f"modality: is {here.modality!r}, but {there.modality!r} there"]
    ours, theirs = (_comparable(f) for f in (here, there))
    errors = [f"{k}: is {ours[k]!r}, but {theirs[k]!r} there" for k in ours if ours[k] != theirs[k]]
    if getattr(here, "tokenizer_file", None) is not None:
        errors.append("tokenizer_file: has no effect, since the tokenizer is taken from there")
    return errors


def _comparable(field: AnyField) -> dict[str, Any]:
    unread = {*field.training_only, "tokenizer_file", "vocabulary"} - {"stem"}
    settings = field.model_dump(mode="json", exclude=unread)
    if settings.get("encoder") is not None:
        settings["encoder"] = settings["encoder"]["digest"]
    for name in field.places:
        value = settings.pop(name)
        settings[f"number of `{name}`"] = len(value) if isinstance(value, list) else int(value is not None)
    return settings
