"""Kinds of things that other installed packages bring: modalities, fusions, tasks, sources and searchers.

A package names each in an entry point, `interlace.modalities: bits = bits.plugin:BITS`. What it names is one of the
classes below: the settings, which become part of the recipe's, and where the parts are, as `module:name`. Parts are
imported where they are needed, so the data arm never meets a plug-in's torch. The module that an entry point names may
import of Interlace only this file and `interlace.recipe.base`: it is imported while the recipe's classes are made.

What can't be used (a name claimed twice, a package that can't be imported or was made for another interface) is told
when a recipe asks for it, and is no trouble to others.
"""

import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, final, get_args

from pydantic import Field, create_model, model_serializer, model_validator

from interlace.contract.errors import PluginError
from interlace.recipe.base import FieldSettings, Node, TaskSettings

INTERFACE = 1
"""Number of the interface that plug-ins are made for; raised when what they rely on changes."""

Group: TypeAlias = Literal["modalities", "fusions", "tasks", "sources", "searchers"]
"""An entry point group is `interlace.` and one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityPlugin:
    """A modality.

    Args:
        interface: `INTERFACE` of the Interlace that it was made for.
        settings: of a field; its `modality` is the literal name of the entry point.
        make: where `(name, field, fitted) -> Modality` is.
        learner: where `(field) -> Learner` is; empty where nothing is learned of the training rows.
    """

    interface: int
    settings: type[FieldSettings]
    make: str
    learner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlugin:
    """A task.

    Args:
        interface: as of a modality.
        settings: of a task; its `task` is the literal name of the entry point.
        make: where `(settings, context) -> Task` is.
        target: where `(settings, fitted) -> Target` is; empty where the settings never have `columns`.
        target_learner: where `(settings) -> Learner` is; empty where a target needs nothing of the training rows.
    """

    interface: int
    settings: type[TaskSettings]
    make: str
    target: str = ""
    target_learner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionPlugin:
    """A fusion.

    Args:
        interface: as of a modality.
        make: where `(model, names) -> Fusion` is.
        settings: read from the section `model.<name>` and found there (`model.<name>` of the argument); none if None.
    """

    interface: int
    make: str
    settings: type[Node] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlugin:
    """A format of shards.

    Args:
        interface: as of a modality.
        make: where `(source) -> ShardFormat` is.
        settings: read from the section `<name>` beside `format: <name>`, and found there; none if None.
        reads: which of the settings `types`, `group_rows` and `delimiter` the format follows; the others are refused.
        sparse: whether a shard need not have every column.
        endings: of file names that `interlace predict --data` takes for this format, such as `.npz`.
    """

    interface: int
    make: str
    settings: type[Node] | None = None
    reads: frozenset[str] = frozenset()
    sparse: bool = False
    endings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearcherPlugin:
    """What a search asks for the settings of its next trial.

    Args:
        interface: as of a modality.
        make: where `(search, recipe, trials, goal, number) -> overrides` is, as `interlace.tune.tpe.suggest`.
        settings: read from the section `search.<name>` and found there; none if None.
    """

    interface: int
    make: str
    settings: type[Node] | None = None


Plugin: TypeAlias = ModalityPlugin | TaskPlugin | FusionPlugin | SourcePlugin | SearcherPlugin


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """A group: which class its entry points name, which setting holds the name, and the names that are built in."""

    plugin: type[Plugin]
    setting: str
    built_in: tuple[str, ...]


GROUPS: Mapping[Group, GroupInfo] = {
    "modalities": GroupInfo(
        plugin=ModalityPlugin, setting="modality", built_in=("image", "text", "table", "audio", "series")
    ),
    "tasks": GroupInfo(
        plugin=TaskPlugin,
        setting="task",
        built_in=("classification", "regression", "retrieval", "reconstruction", "generation"),
    ),
    "fusions": GroupInfo(
        plugin=FusionPlugin,
        setting="fusion",
        built_in=(
            "early", "mid", "bottleneck", "cross_attention", "weighted_sum", "product", "gated", "concat", "decision",
        ),
    ),
    "sources": GroupInfo(plugin=SourcePlugin, setting="format", built_in=("parquet", "webdataset", "csv", "jsonl")),
    "searchers": GroupInfo(plugin=SearcherPlugin, setting="searcher", built_in=("random", "tpe")),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plug-in that can be used, the package that brings it, and the package's version."""

    package: str
    version: str
    plugin: Any

    def part(self, path: str) -> Any:
        """The object at `module:name`. Raises PluginError if it is not there or its module can't be imported."""
        try:
            return pkgutil.resolve_name(path)
        except Exception as error:  # foreign code may raise anything when it is imported
            raise PluginError(
                f"package {self.package} {self.version}: expected `{path}`, but {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """What other packages bring of one group: what can be used by name, and why a name can't be."""

    found: dict[str, Found]
    faults: dict[str, str]


@cache
def installed() -> tuple[EntryPoint, ...]:
    """The entry points of all groups; looked up once in a process (6 ms with 180 packages installed)."""
    everything = entry_points()
    return tuple(entry for group in GROUPS for entry in everything.select(group=f"interlace.{group}"))


@cache
def kinds(group: Group) -> Kinds:
    """The plug-ins of a group among the installed packages, imported once in a process."""
    claims: dict[str, list[EntryPoint]] = {}
    for entry in installed():
        if entry.group == f"interlace.{group}":
            claims.setdefault(entry.name, []).append(entry)
    found: dict[str, Found] = {}
    faults: dict[str, str] = {}
    for name, entries in sorted(claims.items()):
        packages = sorted(" ".join(_package(entry)) for entry in entries)
        if name in GROUPS[group].built_in:
            packages.insert(0, "interlace itself")
        if len(packages) > 1:
            faults[name] = f"`{name}` is brought by {' and by '.join(packages)}: one of them must go"
            continue
        try:
            found[name] = _load(group, entries[0])
        except PluginError as error:
            faults[name] = f"`{name}` of the package {packages[0]} can't be used: {error}"
    return Kinds(found=found, faults=faults)


def _package(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("(unknown)", "")


def _load(group: Group, entry: EntryPoint) -> Found:
    """What an entry point names. Raises PluginError with the reason why it can't be used."""
    info = GROUPS[group]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", entry.name):
        raise PluginError("expected a name of small letters, digits and `_`")
    try:
        plugin = entry.load()
    except Exception as error:  # foreign code may raise anything when it is imported
        raise PluginError(f"importing `{entry.value}` raised {type(error).__name__}: {error}") from error
    if not isinstance(plugin, info.plugin):
        raise PluginError(f"expected `{entry.value}` to be a {info.plugin.__name__}, but is {type(plugin).__name__}")
    if plugin.interface != INTERFACE:
        raise PluginError(f"it was made for interface {plugin.interface}, but this Interlace has {INTERFACE}")
    if isinstance(plugin, ModalityPlugin | TaskPlugin):
        _check_tagged(plugin.settings, FieldSettings if group == "modalities" else TaskSettings, entry.name, info)
    elif plugin.settings is not None and not _is_kind_of(plugin.settings, Node):
        raise PluginError("expected `settings` to be a class of `interlace.recipe.base.Node`")
    package, version = _package(entry)
    return Found(package=package, version=version, plugin=plugin)


def _is_kind_of(settings: Any, base: type[Node]) -> bool:
    return isinstance(settings, type) and issubclass(settings, base)


def _check_tagged(settings: Any, base: type[Node], name: str, info: GroupInfo) -> None:
    if not _is_kind_of(settings, base):
        raise PluginError(f"expected `settings` to be a class of `interlace.recipe.base.{base.__name__}`")
    tag = settings.model_fields.get(info.setting)
    if tag is None or get_args(tag.annotation) != (name,):
        raise PluginError(f'expected its settings to have `{info.setting}: Literal["{name}"]`')
    if not hasattr(settings, "columns") and "columns" not in settings.model_fields:
        raise PluginError("expected its settings to have `columns`, what is read of a row")


def fault_of(setting: str, name: Any) -> str | None:
    """Why a name that some package brings can't be used as this setting (`modality`, `fusion`, ...), if that is so."""
    faults = [kinds(group).faults.get(name) for group, info in GROUPS.items() if info.setting == setting]
    return next((fault for fault in faults if fault is not None), None)


def names(group: Group) -> tuple[str, ...]:
    """Every name of a group that a recipe may use, those that are built in first."""
    there = kinds(group)
    return (*(n for n in GROUPS[group].built_in if n not in there.faults), *there.found)


def package_of(group: Group, name: str) -> str | None:
    """The package that brings a kind, as `name==version`; None for what is built in."""
    found = kinds(group).found.get(name)
    return None if found is None else f"{found.package}=={found.version}"


P = TypeVar("P")


@final
class Joined(Mapping[str, P]):
    """Parts by name: those that are built in, and those of plug-ins, imported when they are asked for."""

    def __init__(self, group: Group, built_in: Mapping[str, P], part: Callable[[Found], P]) -> None:
        self._group, self._built_in, self._part = group, built_in, part

    def __getitem__(self, name: str) -> P:
        if name in self._built_in:
            return self._built_in[name]
        return self._part(kinds(self._group).found[name])

    def __iter__(self) -> Iterator[str]:
        return iter((*self._built_in, *(n for n in kinds(self._group).found if n not in self._built_in)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def union(group: Group, built_in: tuple[type[Node], ...]) -> Any:
    """The type of settings of any kind of a group: of those that are built in, in the order of `GROUPS`, and plug-ins.

    A name that can't be used is not among them, so that a recipe with it is refused.
    """
    info, there = GROUPS[group], kinds(group)
    own = [kind for name, kind in zip(info.built_in, built_in, strict=True) if name not in there.faults]
    classes = [*own, *(item.plugin.settings for item in there.found.values())]
    return Annotated[reduce(or_, classes), Field(discriminator=info.setting)]


class _Sections(Node):
    """A node whose setting of a group may name a plug-in, with a section of the plug-in's own settings beside it."""

    chosen_by: ClassVar[str]
    sections: ClassVar[frozenset[str]]

    @model_validator(mode="before")
    @classmethod
    def _given_or_defaults(cls, values: Any) -> Any:
        chosen = values.get(cls.chosen_by) if isinstance(values, dict) else None
        return {chosen: {}, **values} if chosen in cls.sections else values

    @model_validator(mode="after")
    def _of_what_is_chosen(self) -> "_Sections":
        chosen = getattr(self, self.chosen_by)
        if void := [n for n in sorted(self.sections) if n != chosen and getattr(self, n) is not None]:
            raise ValueError(
                f"`{void[0]}` has no effect with `{self.chosen_by}: {chosen}`; it is for `{self.chosen_by}: {void[0]}`"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_other_sections(self, handler: Any) -> Any:
        """A plug-in that is installed and not used changes no recipe's text, digest or index."""
        chosen = getattr(self, self.chosen_by)
        return {k: v for k, v in handler(self).items() if k not in self.sections or k == chosen}


def extended(group: Group, base: type[Node]) -> Any:
    """A class of settings whose setting for a group takes the names of plug-ins too, with a section for each.

    A plug-in that is called as a setting of the class is can't be used.
    """
    there, info = kinds(group), GROUPS[group]
    if not there.found and not there.faults:
        return base
    for name in base.model_fields.keys() & there.found.keys():
        item = there.found.pop(name)
        there.faults[name] = f"`{name}` of the package {item.package} {item.version} is the name of a setting beside it"
    own = base.model_fields[info.setting]
    fields: dict[str, Any] = {}
    for name, item in there.found.items():
        if item.plugin.settings is not None:
            told = f"Settings of `{info.setting}: {name}` ({item.package} {item.version})."
            fields[name] = (item.plugin.settings | None, Field(None, description=told))
    fields[info.setting] = (
        Literal[names(group)],
        Field(own.default, description=own.description, validate_default=bool(there.faults)),
    )
    make: Any = create_model  # mypy takes the class that it gives for one of its own
    made = make(base.__name__, __base__=(_Sections, base), __module__=base.__module__, __doc__=base.__doc__, **fields)
    made.chosen_by, made.sections = info.setting, frozenset(fields) - {info.setting}
    return made
