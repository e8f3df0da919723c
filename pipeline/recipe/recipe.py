"""The recipe: everything that decides a run, one frozen tree read from YAML.

`load_recipe` reads a file, applies `path=value` overrides, and reports every fault at once. A setting is addressed by
its dotted path everywhere (`--set optim.lr=1e-3`, search spaces, MLflow parameters, messages).
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.data_settings import NAME
from pipeline.data_settings import Data as Data
from pipeline.data_settings import MixedSource as MixedSource
from pipeline.data_settings import Source as Source
from pipeline.errors import RecipeError
from pipeline.faults import describe
from pipeline.fields import AnyField, ImageField, Node, Start, check_vocabularies
from pipeline.optim_settings import Optim as Optim
from pipeline.task_settings import AnyTask as AnyTask
from pipeline.task_settings import ClassificationTask as ClassificationTask
from pipeline.task_settings import GenerationTask as GenerationTask
from pipeline.task_settings import ReconstructionTask as ReconstructionTask
from pipeline.task_settings import RegressionTask as RegressionTask
from pipeline.task_settings import RetrievalTask as RetrievalTask
from pipeline.train_settings import Elastic as Elastic
from pipeline.train_settings import Train as Train

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Tree = TypeVar("Tree", bound=Node)


class Model(Node):
    """The fused Transformer."""

    fusion: Literal[
        "early", "mid", "bottleneck", "cross_attention", "weighted_sum", "product", "gated", "concat", "decision"
    ] = Field("mid", description="How the fields meet.")
    dim: int = Field(128, ge=8, description="Width of the residual stream.")
    head_dim: int = Field(64, ge=8, description="Width of an attention head; divides `dim`.")
    field_layers: int = Field(2, ge=0, description="Layers within each field (not used by `early`).")
    joint_layers: int = Field(2, ge=0, description="Layers in which fields meet (not used by fusions of states).")
    bottleneck_tokens: int = Field(4, ge=1, description="`bottleneck`: tokens of a sample that its fields share.")
    query: str | None = Field(None, description="`cross_attention`: the field that queries; each where not given.")
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of a feed-forward block over `dim`.")
    pool: Literal["mean", "max"] = Field("mean", description="How the tokens of a field or sample become one state.")
    first_weights: Literal["small", "fan_in"] = Field(
        "small",
        description="First matrices: deviation 0.02, or 1 / root of inputs, which learns faster in runs of few steps.",
    )
    first_tables: Literal["small", "unit"] = Field(
        "small",
        description="First vectors of ids: deviation 0.02, or 1 as they are read (1 / root of `dim`, times that root),"
        " which learns faster where texts are written.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of activations dropped in training.")
    modality_dropout: float = Field(0.0, ge=0, lt=1, description="Chance that training hides a field of a sample.")
    init: Start | None = Field(
        None,
        description="Another run to start from: every field of a name that it has too, as `fields.<name>.init` would,"
        " and the layers and tables of the same names; heads of tasks begin anew.",
    )

    @property
    def id_scale(self) -> float:
        """What vectors of ids are multiplied by where they are read, never where they are an output matrix."""
        return math.sqrt(self.dim) if self.first_tables == "unit" else 1.0

    @model_validator(mode="after")
    def _heads(self) -> "Model":
        if self.dim % self.head_dim:
            raise ValueError(f"`head_dim` must divide `dim`, but {self.dim} % {self.head_dim} is not 0")
        return self

    @model_validator(mode="after")
    def _of_fusion(self) -> "Model":
        for name, fusion in (("bottleneck_tokens", "bottleneck"), ("query", "cross_attention")):
            if self.fusion != fusion and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect with `fusion: {self.fusion}`; it is for `{fusion}`")
        return self


class Batch(Node):
    """How samples are packed and how many packs make a step."""

    token_budget: int = Field(2048, ge=8, description="Most tokens in a pack.")
    global_batch: int = Field(1, ge=1, description="Packs in one optimizer step, over all workers.")
    lookahead: int = Field(16, ge=1, description="Packs held open while packing; more fills them better.")


class Tracking(Node):
    """Where MLflow records."""

    uri: str | None = Field(None, description="MLflow tracking URI; sqlite in the storage folder where not given.")
    experiment: str = Field("interlace", description="MLflow experiment.")
    log_every: int = Field(1, ge=1, description="Steps between points of training metrics.")
    system_every_s: float = Field(10.0, ge=0, description="Seconds between samples of CPU, memory, GPU; 0 takes none.")


class Recipe(Node):
    """Everything that decides a run."""

    beside: ClassVar[frozenset[str]] = frozenset({"search"})
    """Sections of a recipe file that are read by others (`pipeline/search.py`) and decide nothing of a run."""

    name: str = Field(pattern=RUN_NAME, description="Name that runs start with.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, order, augmentation and dropout.")
    storage: str = Field("output", description="Folder of runs, caches and the MLflow store; seen by every node.")
    data: Data
    fields: dict[Annotated[str, Field(pattern=NAME)], AnyField] = Field(min_length=1)
    tasks: dict[Annotated[str, Field(pattern=NAME)], AnyTask] = Field(
        min_length=1, description="What is learned, by name; the first task decides which checkpoint is the best."
    )
    model: Model = Model()
    batch: Batch = Batch()
    optim: Optim = Optim()
    train: Train
    tracking: Tracking = Tracking()

    @field_validator("fields")
    @classmethod
    def _cnn_patch(cls, fields: dict[str, AnyField]) -> dict[str, AnyField]:
        for name, item in fields.items():
            if isinstance(item, ImageField) and item.stem == "cnn" and item.patch & (item.patch - 1):
                raise ValueError(f"{name}.patch must be a power of two for the `cnn` stem, but is {item.patch}")
        return fields

    @model_validator(mode="after")
    def _vocabularies(self) -> "Recipe":
        texts = {f"tasks.{n}": task.text for n, task in self.tasks.items() if isinstance(task, GenerationTask)}
        check_vocabularies({**{f"fields.{n}": field for n, field in self.fields.items()}, **texts})
        return self

    @model_validator(mode="after")
    def _ctc_fields(self) -> "Recipe":
        for name, task in self.tasks.items():
            if not isinstance(task, GenerationTask) or task.ctc_field is None:
                continue
            if self.model.fusion == "early" or not self.model.field_layers:
                raise ValueError(f"`tasks.{name}.ctc_field` needs layers within the field (`fusion: mid`)")
        return self

    @model_validator(mode="after")
    def _frozen_from_somewhere(self) -> "Recipe":
        for name, field in self.fields.items():
            if field.freeze and field.init is None and self.model.init is None:
                raise ValueError(f"fields.{name}: `freeze` needs `init` (or `model.init`): what is frozen never learns")
        return self

    @model_validator(mode="after")
    def _divides(self) -> "Recipe":
        if not self.world_sizes:
            allowed = self.train.allowed_workers
            said = f"{self.batch.global_batch} % {allowed[0]} is not 0"
            if len(allowed) > 1:
                said = f"no number from {allowed[0]} to {allowed[-1]} divides {self.batch.global_batch}"
            raise ValueError(
                "`train.workers` must divide `batch.global_batch` (workers share the packs of a step equally),"
                f" but {said}"
            )
        return self

    @model_validator(mode="after")
    def _plateau_is_seen(self) -> "Recipe":
        if self.optim.schedule == "plateau" and self.data.validation is None:
            raise ValueError("`optim.schedule: plateau` follows the evaluations, but `data.validation` is not given")
        return self

    @model_validator(mode="after")
    def _fits_fusion(self) -> "Recipe":
        if (query := self.model.query) is not None and query not in self.fields:
            raise ValueError(f"`model.query` must be one of the fields ({', '.join(self.fields)}), but is {query!r}")
        for name, task in self.tasks.items() if self.model.fusion == "decision" else ():
            if not task.decides:
                raise ValueError(
                    f"`fusion: decision` combines a prediction of each field, and `tasks.{name}` ({task.task}) makes"
                    " none; `weighted_sum` gives such tasks one state of all fields"
                )
            if fused := [s for s in ("mixup", "field_vote") if getattr(task, s, 0)]:
                raise ValueError(f"`tasks.{name}.{fused[0]}` needs a head on the fused state: `decision` has none")
        return self

    @model_validator(mode="after")
    def _tasks_fit(self) -> "Recipe":
        for name, task in self.tasks.items():
            if unknown := [f for f in task.field_names if f not in self.fields]:
                near = difflib.get_close_matches(unknown[0], self.fields, n=1) or list(self.fields)
                raise ValueError(f"`tasks.{name}` names the field `{unknown[0]}`; did you mean {' or '.join(near)}?")
            if isinstance(task, ReconstructionTask) and task.share == 1 and set(task.fields) == set(self.fields):
                raise ValueError(f"`tasks.{name}.share: 1` hides every field: nothing is left to predict from")
        if self.optim.task_weighting == "uncertainty" and len(self.tasks) < 2:
            raise ValueError("`optim.task_weighting: uncertainty` needs at least two tasks")
        return self

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """Numbers of workers that this run may have, ascending: more than one where they are elastic."""
        return tuple(n for n in self.train.allowed_workers if self.batch.global_batch % n == 0)

    def columns(self) -> tuple[str, ...]:
        """Every column that fields and tasks read, each once, in order."""
        return tuple(dict.fromkeys(c for part in (*self.fields.values(), *self.tasks.values()) for c in part.columns))


PLACE_KEYS = (
    "storage", "tracking", "data.root", "data.cache_gb", "data.cache_folder", "data.labels", "train.workers",
    "train.cpus_per_worker", "train.gpus_per_worker", "train.labels", "train.threads", "train.resize_every_s",
    "train.max_failures", "train.keep_checkpoints", "train.checkpoint_every", "train.checkpoint_every_s", "train.trace",
    "train.parallel", "train.checkpoint_activations",
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


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply overrides.

    Args:
        path: a YAML file.
        overrides: `dotted.path=value`, the value read as YAML.

    Raises:
        RecipeError: the file can't be read or has faults; all of them are named.
    """
    return load_tree(path, overrides, Recipe)


def parse_recipe(tree: Any, overrides: Sequence[str] = (), source: str = "recipe") -> Recipe:
    """Turn a plain tree (as YAML gives it) and overrides into a Recipe.

    Raises:
        RecipeError: all faults of tree and overrides.
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
    faults = [fault for override in overrides if (fault := _apply(tree, override))]
    try:
        settings = root.model_validate({k: v for k, v in tree.items() if k not in getattr(root, "beside", ())})
    except ValidationError as error:
        raise RecipeError((*faults, *(describe(e, root) for e in error.errors())), source) from error
    if faults:
        raise RecipeError(tuple(faults), source)
    return settings


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


def _apply(tree: dict[str, Any], override: str) -> str | None:
    """Set one `path=value` in the tree; the fault if it can't be set."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        return f"--set {override}: expected dotted.path=value"
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return f"--set {override}: expected a YAML value, but {error}"
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
