"""Settings of a recipe's training: its length, its workers and where they run, precision, evaluations, checkpoints."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from interlace.recipe.base import Node
from interlace.recipe.data import NodeLabels


class Elastic(Node):
    """A number of workers that follows the nodes of the cluster."""

    min: int = Field(ge=1, description="Fewest workers to train with; below, the run waits for nodes.")
    max: int = Field(ge=1, description="Most workers.")

    @model_validator(mode="after")
    def _ordered(self) -> "Elastic":
        if self.min > self.max:
            raise ValueError(f"`min` must not be above `max`, but {self.min} > {self.max}")
        return self


class Train(Node):
    """How long and on what."""

    epochs: float | None = Field(None, gt=0, description="Passes over the training samples; or give `steps`.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps; or give `epochs`.")
    workers: PositiveInt | Elastic = Field(
        1,
        description="Training processes; must divide `batch.global_batch`. With `{min, max}` a node that is lost makes"
        " the group smaller, and a new one makes it larger.",
    )
    resize_every_s: float = Field(
        60.0, gt=0, description="Elastic workers: seconds between looks for more of them; growing restarts the group."
    )
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a worker.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a worker.")
    labels: NodeLabels = Field({}, description="Labels of the nodes that train; any node where not given.")
    threads: int | None = Field(None, ge=1, description="Threads of a worker; all its CPUs where not given.")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="Several workers: whole weights on each (ddp), or rows of them and of optimizer state (fsdp).",
    )
    shard_over: PositiveInt | None = Field(
        None,
        description="`fsdp`: workers that hold one copy of the weights together, such as those of a node; groups of"
        " them hold equal copies and exchange gradients only. Must divide the workers; all of them where not given.",
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Autocast type; weights stay fp32.")
    checkpoint_activations: bool = Field(
        False, description="Compute layers' activations again in the backward pass: less memory, a third more time."
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="Compile what layers compute of each token (`torch.compile`): `true`, `false`, or on a GPU only.",
    )
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

    @property
    def allowed_workers(self) -> range:
        """Numbers of workers that the recipe allows."""
        if isinstance(self.workers, Elastic):
            return range(self.workers.min, self.workers.max + 1)
        return range(self.workers, self.workers + 1)

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("expected either `epochs` or `steps`")
        return self

    @model_validator(mode="after")
    def _shards(self) -> "Train":
        if self.shard_over is not None and self.parallel != "fsdp":
            raise ValueError(f"`shard_over` needs `parallel: fsdp`, but it is {self.parallel}: no weights are sharded")
        return self
