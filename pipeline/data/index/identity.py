"""What of a recipe decides the tokens of its data: names of cached indexes and decoded values are made of it."""

from pathlib import Path
from typing import Any

import xxhash

from interlace.recipe.data import Source
from interlace.recipe.fields import AnyField
from interlace.recipe.plugins import package_of
from interlace.recipe.reads import Reads


def target_settings(reads: Reads) -> dict[str, Any]:
    """What of the tasks' settings decides their targets; of other packages also the version."""
    return {
        n: t.model_dump(mode="json", include=set(t.target_keys)) | _brought_by(package_of("tasks", t.task))
        for n, t in reads.tasks.items()
        if t.columns
    }


def source_settings(source: Source) -> dict[str, Any]:
    """What decides how a source's shards are read, wherever they are."""
    return source.model_dump(mode="json", exclude={"paths", "weight"}) | _brought_by(
        package_of("sources", source.format)
    )


def _brought_by(package: str | None) -> dict[str, str]:
    return {} if package is None else {"package": package}


def reading(field: AnyField) -> dict[str, Any]:
    """What of a field's settings decides its tokens, a tokenizer file by its content."""
    settings: dict[str, Any] = field.model_dump(mode="json", exclude=set(field.training_only))
    file = settings.get("tokenizer_file")
    if file is not None and Path(file).exists():
        settings["tokenizer_file"] = xxhash.xxh3_64(Path(file).read_bytes()).hexdigest()
    if field.init is not None:
        settings["init"] = [field.init.digest, field.init.field]
    if (encoder := settings.pop("encoder", None)) is not None:
        settings["encoder"] = encoder["digest"]
    return settings | _brought_by(package_of("modalities", field.modality))
