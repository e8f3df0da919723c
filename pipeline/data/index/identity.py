"""What of a recipe decides the tokens of its data: names of cached indexes and decoded values are made of it."""

from pathlib import Path
from typing import Any

import xxhash

from interlace.recipe.fields import AnyField
from interlace.recipe.recipe import Recipe


def target_settings(recipe: Recipe) -> dict[str, Any]:
    """What of the tasks' settings decides their targets."""
    return {n: t.model_dump(mode="json", include=set(t.target_keys)) for n, t in recipe.tasks.items() if t.columns}


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
    return settings
