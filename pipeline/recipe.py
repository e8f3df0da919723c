"""The recipe: everything that decides a run, one frozen tree read from YAML.

`load_recipe` reads a file, applies `path=value` overrides, and reports every fault at once. A setting is addressed by
its dotted path everywhere (`--set optim.lr=1e-3`, search spaces, MLflow parameters, messages).
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.errors import RecipeError
from pipeline.faults import describe
from pipeline.fields import AnyField, ImageField, Node, check_vocabularies

NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Tree = TypeVar("Tree", bound=Node)


ColumnType = Literal["string", "integer", "number", "boolean", "binary", "strings", "integers", "numbers"]


class Source(Node):
    """Shards of one split. Columns are named as in the recipe, after `rename`."""

    format: Literal["parquet", "webdataset", "csv", "jsonl"] = Field("parquet", description="Format of the shards.")
    paths: tuple[str, ...] = Field(min_length=1, description="Files or globs, relative to `data.root`.")
    files: tuple[str, ...] = Field((), description="Columns of paths, relative to their table, read as those files.")
    rename: dict[str, str] = Field(
        {}, description="Name in the recipe: name in the shard; for `webdataset` extensions in order, `jpg;jpeg;png`."
    )
    types: dict[str, ColumnType] = Field(
        {}, description="Types of columns that the first rows of a shard (for `webdataset` also names) get wrong."
    )
    group_rows: int = Field(256, ge=1, description="Rows in a row group, where the format has none of its own.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="`csv`: what separates values.")

    @model_validator(mode="after")
    def _of_format(self) -> "Source":
        void = {
            "parquet": ("types", "group_rows", "delimiter"),
            "webdataset": ("files", "delimiter"),
            "csv": (),
            "jsonl": ("delimiter",),
        }[self.format]
        for name in void:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect with `format: {self.format}`")
        if self.format == "csv" and (lists := [c for c, t in self.types.items() if t.endswith("s")]):
            raise ValueError(f"`types.{lists[0]}` can't be a list with `format: csv`")
        if self.delimiter in '"\r\n' or not self.delimiter.isascii():
            raise ValueError(f"`delimiter` must be an ASCII character that is no quote or newline: {self.delimiter!r}")
        return self


class MixedSource(Source):
    """One of several sources that training mixes."""

    weight: float = Field(gt=0, description="Share of the samples drawn from this source, relative to the others'.")


class Data(Node):
    """Where samples come from and how they are read."""

    root: str = Field(".", description="Folder that relative paths start from; itself relative to the current folder.")
    train: Source | None = Field(None, description="Samples to train on; or give `mix`.")
    mix: dict[Annotated[str, Field(pattern=NAME)], MixedSource] = Field(
        {}, description="Several sources to train on, mixed by weight; or give `train`."
    )
    mix_rows: int = Field(1000, ge=1, description="`mix`: samples shuffled together, shares exact in each.")
    validation: Source | None = Field(None, description="Samples to choose settings and the best checkpoint by.")
    test: Source | None = Field(None, description="Samples to report on, never to choose by.")
    window_groups: int = Field(8, ge=1, description="Row groups read and shuffled together: the unit of reading.")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="Share of bad records above which a run stops.")
    cache_gb: float = Field(0.0, ge=0, description="Most gigabytes of decoded values kept on disk; 0 keeps none.")
    cache_folder: str | None = Field(
        None, description="Folder of decoded values, shared or local to a node; `<storage>/cache/decoded` by default."
    )

    @model_validator(mode="after")
    def _folder_of_a_cache(self) -> "Data":
        if self.cache_folder is not None and not self.cache_gb:
            raise ValueError("`cache_folder` has no effect with `cache_gb: 0`")
        return self

    @model_validator(mode="after")
    def _train_or_mix(self) -> "Data":
        if (self.train is None) == (not self.mix):
            raise ValueError("expected either `train` or `mix`")
        return self

    def splits(self) -> dict[str, tuple[Source, ...]]:
        """The sources of each split that is given."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        given: dict[str, tuple[Source, ...]] = {"train": tuple(self.mix.values())} if self.mix else {}
        return given | {name: (source,) for name, source in named.items() if source is not None}


class ClassificationTask(Node):
    """Predict one class of a label column, or any number of them."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "column", "multi_label")

    task: Literal["classification"]
    column: str = Field(description="Column of the label (string or integer), or of a list of labels.")
    multi_label: bool = Field(False, description="The column holds a list of labels, each predicted by itself.")
    class_weights: Literal["none", "balanced"] = Field("none", description="Weigh classes by inverse frequency.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    mixup: float = Field(0.0, ge=0, description="Training: fused states mixed in pairs, shares from Beta(this, this).")
    weight: float = Field(1.0, gt=0, description="Weight of this task's loss.")
    field_loss: float = Field(0.5, ge=0, description="Weight of the light loss on each field's own pooled state.")
    field_vote: float = Field(0.0, ge=0, description="Weight of the present fields' own heads in the prediction.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target, read together."""
        return (self.column,)

    @model_validator(mode="after")
    def _heads_to_vote(self) -> "ClassificationTask":
        if self.field_vote and not self.field_loss:
            raise ValueError("`field_vote` needs heads of the fields, which `field_loss: 0` leaves out")
        return self


AnyTask = Annotated[Union[ClassificationTask], Field(discriminator="task")]  # noqa: UP007 - more tasks join here


class Model(Node):
    """The fused Transformer."""

    fusion: Literal["early", "mid", "weighted_sum"] = Field("mid", description="How the fields meet.")
    dim: int = Field(128, ge=8, description="Width of the residual stream.")
    head_dim: int = Field(64, ge=8, description="Width of an attention head; divides `dim`.")
    field_layers: int = Field(2, ge=0, description="Layers within each field (not used by `early`).")
    joint_layers: int = Field(2, ge=0, description="Layers within the sample (not used by `weighted_sum`).")
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of a feed-forward block over `dim`.")
    pool: Literal["mean", "max"] = Field("mean", description="How the tokens of a field or sample become one state.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of activations dropped in training.")
    modality_dropout: float = Field(0.0, ge=0, lt=1, description="Chance that training hides a field of a sample.")

    @model_validator(mode="after")
    def _heads(self) -> "Model":
        if self.dim % self.head_dim:
            raise ValueError(f"`head_dim` must divide `dim`, but {self.dim} % {self.head_dim} is not 0")
        return self


class Batch(Node):
    """How samples are packed and how many packs make a step."""

    token_budget: int = Field(2048, ge=8, description="Most tokens in a pack.")
    global_batch: int = Field(1, ge=1, description="Packs in one optimizer step, over all workers.")
    lookahead: int = Field(16, ge=1, description="Packs held open while packing; more fills them better.")


class Optim(Node):
    """Optimizer and schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Decoupled decay of matrices; gains and biases have none.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first beta; SGD's momentum.")
    beta2: float = Field(0.98, ge=0, lt=1, description="AdamW's second beta.")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which the rate rises from 0.")
    final_share: float = Field(0.01, ge=0, le=1, description="The rate at the end over the peak.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the whole gradient.")


class Train(Node):
    """How long and on what."""

    epochs: float | None = Field(None, gt=0, description="Passes over the training samples; or give `steps`.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps; or give `epochs`.")
    workers: int = Field(1, ge=1, description="Training processes; must divide `batch.global_batch`.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a worker.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a worker.")
    threads: int | None = Field(None, ge=1, description="Threads of a worker; all its CPUs where not given.")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Autocast type; weights stay fp32.")
    eval_every: int | None = Field(None, ge=1, description="Steps between evaluations; an epoch where not given.")
    patience: int | None = Field(None, ge=1, description="Stop after this many evaluations without improvement.")
    model_from: Literal["best", "last"] = Field(
        "best",
        description="Checkpoint whose model is kept: of the best evaluation, or the last (small validation sets).",
    )
    checkpoint_every: int | None = Field(None, ge=1, description="Steps between checkpoints; by time where not given.")
    checkpoint_every_s: float = Field(60.0, gt=0, description="Seconds between checkpoints.")
    keep_checkpoints: int = Field(2, ge=2, description="Newest checkpoints kept, besides the best.")
    max_failures: int = Field(3, ge=0, description="Restarts of the worker group before the run fails.")
    trace: bool = Field(False, description="Write step, position, sample ids and loss of every pack to the run folder.")

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("expected either `epochs` or `steps`")
        return self


class Tracking(Node):
    """Where MLflow records."""

    uri: str | None = Field(None, description="MLflow tracking URI; sqlite in the storage folder where not given.")
    experiment: str = Field("interlace", description="MLflow experiment.")
    log_every: int = Field(1, ge=1, description="Steps between points of training metrics.")


class Recipe(Node):
    """Everything that decides a run."""

    beside: ClassVar[frozenset[str]] = frozenset({"search"})
    """Sections of a recipe file that are read by others (`pipeline/search.py`) and decide nothing of a run."""

    name: str = Field(pattern=RUN_NAME, description="Name that runs start with.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of weights, order, augmentation and dropout.")
    storage: str = Field("output", description="Folder of runs, caches and the MLflow store; seen by every node.")
    data: Data
    fields: dict[Annotated[str, Field(pattern=NAME)], AnyField] = Field(min_length=1)
    tasks: dict[Annotated[str, Field(pattern=NAME)], AnyTask] = Field(min_length=1)
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

    @field_validator("fields")
    @classmethod
    def _vocabularies(cls, fields: dict[str, AnyField]) -> dict[str, AnyField]:
        check_vocabularies(fields)
        return fields

    @model_validator(mode="after")
    def _divides(self) -> "Recipe":
        if self.batch.global_batch % self.train.workers:
            raise ValueError(
                f"`train.workers` must divide `batch.global_batch` (workers share the packs of a step equally),"
                f" but {self.batch.global_batch} % {self.train.workers} is not 0"
            )
        return self

    def columns(self) -> tuple[str, ...]:
        """Every column that fields and tasks read, each once, in order."""
        return tuple(dict.fromkeys(c for part in (*self.fields.values(), *self.tasks.values()) for c in part.columns))


PLACE_KEYS = (
    "storage", "tracking", "data.root", "data.cache_gb", "data.cache_folder", "train.workers", "train.cpus_per_worker",
    "train.gpus_per_worker", "train.threads", "train.max_failures", "train.keep_checkpoints",
    "train.checkpoint_every", "train.checkpoint_every_s", "train.trace",
)  # fmt: skip
"""Settings of where a run happens, which do not decide what it computes: they are no part of its digest."""


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
    flat = {k: v for k, v in flatten(recipe).items() if not k.startswith(PLACE_KEYS)}
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
