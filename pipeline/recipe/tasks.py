"""Settings of tasks, one class a kind: which columns are predicted, from what, by which loss."""

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from interlace.recipe.base import ColumnKind, TaskSettings
from interlace.recipe.fields import TextField
from interlace.recipe.plugins import union

ClassificationMetric = Literal[
    "loss", "accuracy", "macro_precision", "macro_recall", "macro_f1", "auroc", "auprc", "min_recall_precision"
]


class ClassificationTask(TaskSettings):
    """Predict one class of a label column, or any number of them."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "column", "multi_label")
    decides: ClassVar[bool] = True

    task: Literal["classification"]
    column: str = Field(description="Column of the label (string or integer), or of a list of labels.")
    multi_label: bool = Field(False, description="The column holds a list of labels, each predicted by itself.")
    class_weights: Literal["none", "balanced"] = Field("none", description="Weigh classes by inverse frequency.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    mixup: float = Field(0.0, ge=0, description="Training: fused states mixed in pairs, shares from Beta(this, this).")
    field_loss: float = Field(0.5, ge=0, description="Weight of the light loss on each field's own pooled state.")
    field_vote: float = Field(0.0, ge=0, description="Weight of the present fields' own heads in the prediction.")
    best_by: ClassificationMetric | None = Field(
        None,
        description="Metric of the best checkpoint; `accuracy` where not given (`macro_f1` with `multi_label`)."
        " `auprc` and `min_recall_precision` of two classes look for the second one of the sorted labels.",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target, read together."""
        return (self.column,)

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "labels" if self.multi_label else "category"

    @model_validator(mode="after")
    def _heads_to_vote(self) -> "ClassificationTask":
        if self.field_vote and not self.field_loss:
            raise ValueError("`field_vote` needs heads of the fields, which `field_loss: 0` leaves out")
        return self


class RegressionTask(TaskSettings):
    """Predict one or several numbers, each standardised by the training rows and reported in its own unit."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "columns")

    task: Literal["regression"]
    columns: tuple[str, ...] = Field(min_length=1, description="Columns of numbers; any may be missing in any row.")
    loss: Literal["huber", "mse"] = Field("huber", description="Huber's loss, or the squared error.")
    delta: float = Field(1.0, gt=0, description="`huber`: standard deviations from which on errors count linearly.")
    field_loss: float = Field(0.5, ge=0, description="Weight of the light loss on each field's own pooled state.")

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "number"

    @model_validator(mode="after")
    def _delta_of_huber(self) -> "RegressionTask":
        if self.loss != "huber" and self.delta != type(self).model_fields["delta"].default:
            raise ValueError("`delta` has no effect with `loss: mse`")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"`columns` names a column twice: {', '.join(self.columns)}")
        return self


class RetrievalTask(TaskSettings):
    """Bring two groups of fields of a sample together and those of other samples apart: each side finds the other."""

    target_keys: ClassVar[tuple[str, ...]] = ("task", "group")

    task: Literal["retrieval"]
    left: tuple[str, ...] = Field(min_length=1, description="Fields of one side.")
    right: tuple[str, ...] = Field(min_length=1, description="Fields of the other side.")
    embedding_dim: int = Field(128, ge=1, description="Width of the embeddings that are compared.")
    temperature: float = Field(
        0.07, ge=0.01, le=1, description="Where the learned temperature starts; never under 0.01."
    )
    negatives: Literal["pack", "ranks"] = Field(
        "pack", description="Which samples a pair is told from: those of its pack, or also those of all ranks' packs."
    )
    group: str | None = Field(
        None, description="Column of strings or integers; samples of equal value are never negatives of each other."
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target, read together."""
        return () if self.group is None else (self.group,)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Both sides."""
        return self.left + self.right

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "category"

    @model_validator(mode="after")
    def _apart(self) -> "RetrievalTask":
        if len(set(self.field_names)) < len(self.field_names):
            raise ValueError("`left` and `right` must name each field once")
        return self


class ReconstructionTask(TaskSettings):
    """Predict hidden tokens of fields from all that is left: needs no label."""

    task: Literal["reconstruction"]
    fields: tuple[str, ...] = Field(min_length=1, description="Fields of which tokens are hidden and predicted.")
    share: float = Field(0.3, gt=0, le=1, description="Share of their tokens hidden; 1 hides these fields as a whole.")
    normalise: bool = Field(False, description="Each patch is predicted relative to its own mean and deviation.")

    @property
    def columns(self) -> tuple[str, ...]:
        """It has no target column."""
        return ()

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields it hides tokens of."""
        return self.fields

    @model_validator(mode="after")
    def _once(self) -> "ReconstructionTask":
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("`fields` must name each field once")
        return self


class GenerationTask(TaskSettings):
    """Write a text: captioning, speech recognition, translation."""

    target_keys: ClassVar[tuple[str, ...]] = (
        "task", "column", "tokenizer", "vocab_size", "max_tokens", "vocabulary", "ctc_field",
    )  # fmt: skip
    _of_decoder: ClassVar[tuple[str, ...]] = ("layers", "tied", "label_smoothing", "beam", "length_penalty")

    task: Literal["generation"]
    column: str = Field(description="Column of the text to write.")
    tokenizer: Literal["bytes", "bpe", "characters"] = Field(
        "bytes", description="How the text becomes tokens; as of a text field."
    )
    vocab_size: int = Field(1000, ge=260, le=200_000, description="Ids of a fitted vocabulary.")
    vocabulary: str | None = Field(
        None, min_length=1, description="Name of a vocabulary shared with the text fields that give this name."
    )
    max_tokens: int = Field(256, ge=1, description="Longer texts are cut to this many tokens, also when generating.")
    layers: int = Field(2, ge=1, description="Layers of the decoder.")
    tied: bool = Field(
        True, description="The output matrix is the table of input vectors, and that of a field with this `vocabulary`."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all tokens.")
    ctc_field: str | None = Field(None, description="Field whose own tokens spell the text by CTC, such as speech.")
    ctc_weight: float = Field(0.0, ge=0, le=1, description="Share of CTC in the loss; at 1 there is no decoder.")
    beam: int = Field(1, ge=1, le=64, description="Texts kept at each step of the search; 1 is greedy.")
    length_penalty: float = Field(
        0.0, ge=0, le=2, description="Beam search: log-probabilities are divided by ((5 + length) / 6) to this power."
    )
    eval_samples: int = Field(
        200, ge=0, description="Texts written by an evaluation while training (of its first rows); at the end all are."
    )
    metric: Literal["loss", "wer", "cer", "bleu", "chrf"] = Field(
        "loss", description="What the best checkpoint is chosen by."
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target, read together."""
        return (self.column,)

    @property
    def field_names(self) -> tuple[str, ...]:
        """The field that CTC reads, if any."""
        return () if self.ctc_field is None else (self.ctc_field,)

    @property
    def text(self) -> TextField:
        """The text field that reads the target as this task does."""
        names = ("column", "tokenizer", "vocab_size", "vocabulary", "max_tokens")
        return TextField(modality="text", **{name: getattr(self, name) for name in names})

    def holds(self, column: str) -> ColumnKind:
        """What one of its columns must hold."""
        return "string"

    @model_validator(mode="after")
    def _no_void_settings(self) -> "GenerationTask":
        if (self.ctc_field is None) != (self.ctc_weight == 0):
            raise ValueError("`ctc_field` and a `ctc_weight` above 0 go together")
        if self.vocabulary is not None and self.tokenizer == "bytes":
            raise ValueError("`vocabulary` has no effect with `tokenizer: bytes`, which fits none")
        if self.ctc_weight == 1:
            for name in self._of_decoder:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"`{name}` has no effect with `ctc_weight: 1`, which has no decoder")
        if self.length_penalty and self.beam == 1:
            raise ValueError("`length_penalty` has no effect with `beam: 1`")
        if self.metric != "loss" and not self.eval_samples:
            raise ValueError(f"`metric: {self.metric}` needs texts, but `eval_samples` is 0")
        return self


if TYPE_CHECKING:
    AnyTask: TypeAlias = TaskSettings
else:
    AnyTask = union("tasks", (ClassificationTask, RegressionTask, RetrievalTask, ReconstructionTask, GenerationTask))
"""Settings of a task of any kind, those of other packages included."""
