"""What the data arm needs of a recipe to make tokens and targets of records."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interlace.recipe.fields import AnyField
from interlace.recipe.tasks import AnyTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The sections that decide tokens and targets.

    Args:
        fields: by name; what they start from is pinned.
        tasks: by name.
        starts: folder of the copies of what fields start from.
    """

    fields: Mapping[str, AnyField]
    tasks: Mapping[str, AnyTask]
    starts: Path
