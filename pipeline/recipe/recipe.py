"""The recipe: everything that decides a run, one frozen tree read from YAML.

`load_recipe` reads a file, applies `path=value` overrides, and reports every error at once. A setting is addressed by
its dotted path everywhere (`--set optim.lr=1e-3`, search spaces, MLflow parameters, messages).
"""

import difflib
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from interlace.recipe.base import Node
from interlace.recipe.batch import Batch
from interlace.recipe.data import NAME, Data
from interlace.recipe.fields import AnyField, ImageField, check_vocabularies
from interlace.recipe.model import Model
from interlace.recipe.optim import Optim
from interlace.recipe.reads import Reads
from interlace.recipe.tasks import (
    AnyTask,
    GenerationTask,
    ReconstructionTask,
)
from interlace.recipe.tracking import Tracking
from interlace.recipe.train import Train
from interlace.store.places import RUN_NAME, starts_of, storage_error


class Recipe(Node):
    """Everything that decides a run."""

    beside: ClassVar[frozenset[str]] = frozenset({"search"})
    """Sections of a recipe file that are read by others (`pipeline/tune/search.py`) and decide nothing of a run."""

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

    @field_validator("storage")
    @classmethod
    def _a_folder(cls, storage: str) -> str:
        if (error := storage_error(storage)) is not None:
            raise ValueError(error)
        return storage

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
        if not any(self.batch.global_batch % n == 0 for n in self.train.allowed_workers):
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
    def _shards_divide(self) -> "Recipe":
        if not self.world_sizes:
            allowed = self.train.allowed_workers
            raise ValueError(
                f"`train.shard_over` must divide `train.workers`, but {self.train.shard_over} divides none of the"
                f" numbers {allowed[0]} to {allowed[-1]} that also divide `batch.global_batch`"
            )
        return self

    @model_validator(mode="after")
    def _plateau_is_seen(self) -> "Recipe":
        if self.optim.schedule == "plateau" and self.data.validation is None:
            raise ValueError("`optim.schedule: plateau` follows the evaluations, but `data.validation` is not given")
        return self

    @model_validator(mode="after")
    def _patience_sees(self) -> "Recipe":
        if self.train.patience is not None and self.data.validation is None:
            raise ValueError("`train.patience` counts evaluations, but `data.validation` is not given")
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
        allowed, shards = self.train.allowed_workers, self.train.shard_over or 1
        return tuple(n for n in allowed if self.batch.global_batch % n == 0 and n % shards == 0)

    @property
    def num_shards(self) -> int:
        """Parts of the weights and of the optimizer's state, each on a worker of its own; with the fewest workers."""
        if self.train.parallel != "fsdp":
            return 1
        return self.train.shard_over or self.world_sizes[0]

    @property
    def reads(self) -> Reads:
        """What the data arm needs to make tokens and targets of records."""
        return Reads(fields=self.fields, tasks=self.tasks, starts=starts_of(self.storage))

    def columns(self) -> tuple[str, ...]:
        """Every column that fields and tasks read, each once, in order."""
        parts = [*(field.columns for field in self.fields.values()), *(task.columns for task in self.tasks.values())]
        return tuple(dict.fromkeys(column for columns in parts for column in columns))
