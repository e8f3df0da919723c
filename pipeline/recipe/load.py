"""Reading settings from YAML: overrides applied, every error reported at once."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from interlace.contract.errors import RecipeError
from interlace.recipe.base import Node
from interlace.recipe.messages import describe
from interlace.recipe.recipe import Recipe

Tree = TypeVar("Tree", bound=Node)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply overrides.

    Args:
        path: a YAML file.
        overrides: `dotted.path=value`, the value read as YAML, but as it stands where the setting is a text.

    Raises:
        RecipeError: the file can't be read or has errors; all of them are named.
    """
    return load_tree(path, overrides, Recipe)


RETIRED = {
    "batch.lookahead": "packs are dealt a window at a time",
    "data.window_groups": "windows are cut by their packs: `data.window_packs`",
}
"""Settings that older versions had, and why they are gone."""


def load_kept(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe that a run or a model keeps; settings that are retired since are left out. Raises RecipeError."""
    tree = read_yaml(path)
    for setting in RETIRED:
        section, _, name = setting.partition(".")
        if isinstance(tree, dict) and isinstance(tree.get(section), dict):
            tree[section].pop(name, None)
    return parse_recipe(tree, overrides, str(path))


def parse_recipe(tree: Any, overrides: Sequence[str] = (), source: str = "recipe") -> Recipe:
    """Turn a plain tree (as YAML gives it) and overrides into a Recipe.

    Raises:
        RecipeError: all errors of tree and overrides.
    """
    return parse_tree(tree, overrides, source, Recipe)


def load_tree(path: str | Path, overrides: Sequence[str], root: type[Tree]) -> Tree:
    """Read settings of any class from a YAML file, as `load_recipe` reads a Recipe."""
    return parse_tree(read_yaml(path), overrides, str(path), root)


def read_yaml(path: str | Path) -> Any:
    """The plain tree of a YAML file. Raises RecipeError."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise RecipeError((f"expected a readable YAML file, but {error.strerror}: {path}",), str(path)) from error
    except yaml.YAMLError as error:
        raise RecipeError((f"expected YAML, but {error}",), str(path)) from error


def parse_tree(tree: Any, overrides: Sequence[str], source: str, root: type[Tree]) -> Tree:
    """Turn a plain tree and overrides into settings of any class, as `parse_recipe` does for a Recipe."""
    if not isinstance(tree, dict):
        raise RecipeError((f"expected a mapping of settings, but it is {type(tree).__name__}",), source)
    errors = [found for override in overrides if (found := _apply(tree, override))]
    own = {k: v for k, v in tree.items() if k not in getattr(root, "beside", ())}
    try:
        try:
            settings = root.model_validate(own)
        except ValidationError as error:
            if not _as_texts(own, overrides, error):
                raise
            settings = root.model_validate(own)
    except ValidationError as error:
        told = (_retired(e) or describe(e, root) for e in error.errors())
        raise RecipeError((*errors, *told), source) from error
    if errors:
        raise RecipeError(tuple(errors), source)
    return settings


def _retired(error: Mapping[str, Any]) -> str | None:
    """The line for a setting that older versions had."""
    setting = ".".join(map(str, error["loc"]))
    return f"{setting}: is no setting any more: {RETIRED[setting]}" if setting in RETIRED else None


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with `1e-3` read as a number, as everyone means it, and doubled keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        doubled = {str(k) for k in keys if keys.count(k) > 1}
        if doubled:
            raise yaml.YAMLError(f"key given twice: {', '.join(sorted(doubled))} (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _as_texts(tree: dict[str, Any], overrides: Sequence[str], error: ValidationError) -> bool:
    """Where settings are texts, make overrides that YAML takes for something else the texts that they are.

    Args:
        tree: with the overrides in it.
        overrides: `path=value`, the last of a path counts.
        error: what is wrong with the tree.

    Returns:
        Whether there was one.
    """
    texts = {path: text for path, equals, text in (o.partition("=") for o in overrides) if equals}
    wrong = [e for e in error.errors() if e["type"] == "string_type"]
    wanted = [tuple(map(str, e["loc"])) for e in wrong if not isinstance(e["input"], list | dict | None)]
    found = False
    for path, text in texts.items():
        keys = path.split(".")
        if any(loc[-1] == keys[-1] and _follows(keys, loc) for loc in wanted):
            node = tree
            for key in keys[:-1]:
                node = node[key]
            node[keys[-1]], found = text.strip(), True
    return found


def _follows(keys: Sequence[str], place: Sequence[str]) -> bool:
    """Whether all keys stand in a place, in order: a place also names the classes that settings may be of."""
    rest = iter(place)
    return all(key in rest for key in keys)


def _apply(tree: dict[str, Any], override: str) -> str | None:
    """Set one `path=value` in the tree; the error if it can't be set. A text without quotes is taken as it is."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        return f"--set {override}: expected dotted.path=value"
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return f"--set {override}: expected a YAML value, but {error}"
    if isinstance(value, str) and not text.lstrip().startswith(("'", '"', "|", ">", "!", "&", "*")):
        value = text.strip()  # YAML would drop what follows ` #`
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            return f"--set {path}: `{key}` is a value, not a section"
    node[last] = value
    return None
