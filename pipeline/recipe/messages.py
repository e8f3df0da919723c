"""Errors of a recipe as lines for people: where, what was expected, what it is, and the nearest known name."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel


def describe(error: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One pydantic error of a tree of `root` as one line, with the nearest known name for an unknown key."""
    location = [str(part) for part in error["loc"]]
    kinds = {"image", "text", "table", "audio", "series", "classification"}
    shown = ".".join(part for i, part in enumerate(location) if not (part in kinds and i == 2)) or "recipe"
    if error["type"] == "extra_forbidden":
        known = _known_names(error["loc"][:-1], root)
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{shown}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{shown}: required, but not given"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    return f"{shown}: {message}" + ("" if isinstance(given, dict | BaseModel) else f", but is {given!r}")


def _known_names(path: Sequence[Any], root: type[BaseModel]) -> list[str]:
    """Keys allowed in the section at a pydantic error location."""
    here: Any = root
    for part in path:
        options = _nodes(here)
        tagged = [o for o in options if str(part) in _tags(o)]
        if tagged:
            here = tagged[0]
            continue
        found = [o.model_fields[part].annotation for o in options if part in o.model_fields]
        here = found[0] if found else here
    return [name for node in _nodes(here) for name in node.model_fields]


def _tags(node: type[BaseModel]) -> tuple[str, ...]:
    tag = node.model_fields.get("modality") or node.model_fields.get("task")
    return tuple(get_args(tag.annotation)) if tag is not None and get_origin(tag.annotation) is Literal else ()


def _nodes(annotation: Any) -> list[type[BaseModel]]:
    """Every model class inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [node for inner in get_args(annotation) for node in _nodes(inner)]
