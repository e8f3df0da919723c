"""What makes a recipe the same recipe: its settings as dotted paths, and a digest without those of its place."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from interlace.recipe.base import Node
from interlace.recipe.plugins import Group, package_of
from interlace.recipe.recipe import Recipe

PLACE_KEYS = (
    "storage", "tracking", "data.root", "data.cache_gb", "data.cache_folder", "data.inflight_mb", "data.labels",
    "train.workers", "train.cpus_per_worker", "train.gpus_per_worker", "train.labels", "train.threads",
    "train.resize_every_s", "train.max_failures", "train.keep_checkpoints", "train.checkpoint_every",
    "train.checkpoint_every_s", "train.trace", "train.parallel", "train.checkpoint_activations",
    "train.compile", "train.shard_over",
)  # fmt: skip
"""Settings of where a run happens, which do not decide what it computes: they are no part of its digest."""
PINNED = (".init.run", ".encoder.pretrained")
"""Ends of settings that say where something lies whose content is known by the `digest` beside them."""


def is_place(setting: str, flat: Mapping[str, Any]) -> bool:
    """Whether a setting of a flattened recipe says where something is or happens, not what is computed."""
    pinned = setting.endswith(PINNED) and flat.get(f"{setting.rpartition('.')[0]}.digest") is not None
    return pinned or setting.startswith(PLACE_KEYS)


def flatten(recipe: Node) -> dict[str, Any]:
    """The recipe as dotted paths and plain values, in the recipe's order; lists stay lists."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from walk(item, f"{path}.{key}" if path else key)
        else:
            yield path, value

    return dict(walk(recipe.model_dump(mode="json"), ""))


def digest(recipe: Recipe) -> str:
    """Hash (16 hex digits) of what decides the result of a run, without the settings of its place."""
    settings = flatten(recipe)
    flat = {k: v for k, v in settings.items() if not is_place(k, settings)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def to_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def packages(recipe: Recipe) -> tuple[str, ...]:
    """The other packages that a recipe needs for its modalities, tasks, fusion and sources, each as `name==version`."""
    sources = [source for split in recipe.data.splits().values() for source in split]
    used: list[tuple[Group, str]] = [
        *(("modalities", field.modality) for field in recipe.fields.values()),
        *(("tasks", task.task) for task in recipe.tasks.values()),
        ("fusions", recipe.model.fusion),
        *(("sources", source.format) for source in sources),
    ]
    return tuple(sorted({package for group, name in used if (package := package_of(group, name)) is not None}))
