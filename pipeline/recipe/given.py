"""Settings as a caller in Python gives them: a file, a plain tree, or settings that were read before; and changes.

In: what was given. Out: the plain tree that YAML would give, and overrides `dotted.path=value` as the command line has.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

from interlace.contract.errors import RecipeError
from interlace.recipe.base import Node
from interlace.recipe.load import Tree, parse_tree, read_yaml

Given: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Node
"""A YAML file, its content, or settings."""
Changes: TypeAlias = Mapping[str, Any] | Iterable[str] | None
"""Value by dotted path, or `path=value` texts as of the flag `--set`."""
PLAIN_PATH = re.compile(r'"/[\w./@+-]*"')
"""A text that needs no quotes to be read as one: shown commands are easier to read without."""


def tree_of(given: Given) -> tuple[Any, str]:
    """The plain tree, the caller's own left as it is, and a name for where it is from. Raises RecipeError."""
    if isinstance(given, Node):
        return given.model_dump(mode="json"), type(given).__name__
    if isinstance(given, Mapping):
        return deepcopy(dict(given)), "recipe"
    return read_yaml(Path(given)), os.fspath(given)


def settings_of(given: Given, changes: Iterable[str], root: type[Tree]) -> Tree:
    """Settings of a class with changes applied. Raises RecipeError with all errors."""
    tree, source = tree_of(given)
    return parse_tree(tree, list(changes), source, root)


def changes_of(given: Changes, places: Mapping[str, Any] | None = None) -> list[str]:
    """Changes as overrides `dotted.path=value`.

    Args:
        given: a mapping with values, or texts that are overrides already.
        places: further values by path, which win; those that are None change nothing.

    Raises:
        RecipeError: a value is none that YAML can hold.
    """
    last = {path: value for path, value in (places or {}).items() if value is not None}
    if isinstance(given, Mapping):
        return [f"{path}={_text(path, value)}" for path, value in {**given, **last}.items()]
    texts = [given] if isinstance(given, str) else list(given or ())
    return [*texts, *(f"{path}={_text(path, value)}" for path, value in last.items())]


def _text(path: str, value: Any) -> str:
    """A value as YAML on one line; JSON is that."""

    def plain(part: Any) -> Any:
        if isinstance(part, os.PathLike):
            return os.fspath(part)
        if hasattr(part, "tolist"):  # a number or array of numpy
            return part.tolist()
        raise RecipeError((f"{path}: expected a value of text, numbers, lists and mappings, but is {value!r}",), "set")

    text = json.dumps(value, default=plain, ensure_ascii=False)
    return text[1:-1] if PLAIN_PATH.fullmatch(text) else text
