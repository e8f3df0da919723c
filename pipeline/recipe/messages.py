"""Errors of a recipe as lines for people: where, what was expected, what it is, and the nearest known name."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from interlace.recipe.plugins import GROUPS, Group, fault_of, names


def describe(error: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One pydantic error of a tree of `root` as one line, with the nearest known name for an unknown key."""
    location = [str(part) for part in error["loc"]]
    kinds = {*names("modalities"), *names("tasks")}
    shown = ".".join(part for i, part in enumerate(location) if not (part in kinds and i == 2)) or "recipe"
    if (unknown := _unknown_kind(error, location)) is not None:
        setting, told = unknown
        return f"{shown.removesuffix(f'.{setting}')}.{setting}: {told}"
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


def _unknown_kind(error: Mapping[str, Any], location: Sequence[str]) -> tuple[str, str] | None:
    """The setting that names an unknown modality, task, fusion, format or searcher, and what to say of it."""
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        setting, name = context["discriminator"].strip("'"), context["tag"]
    elif error["type"] == "literal_error":
        setting, name = location[-1], error["input"]
    else:
        return None
    group = next((g for g, info in GROUPS.items() if info.setting == setting), None)
    return None if group is None else (setting, fault_of(setting, name) or _of_known(group, setting, name))


def _of_known(group: Group, setting: str, name: Any) -> str:
    known = names(group)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return (
        f"unknown {setting} {name!r}; {hint}Known here: {', '.join(known)}; those of other packages are known where the"
        " package is installed"
    )


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
