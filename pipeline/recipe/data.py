"""Settings of a recipe's data: the sources of each split, their formats, how they are read and kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from interlace.contract.errors import RecipeError
from interlace.recipe.base import Node
from interlace.recipe.plugins import extended, kinds

NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
"""What fields, tasks and sources of a mix may be called."""

NodeLabels = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")], Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
]
"""Labels that a node of the cluster has, by name."""


def read_labels(words: Sequence[str]) -> dict[str, str]:
    """Labels of nodes from words `NAME=VALUE`. Raises RecipeError for other words."""
    try:
        return TypeAdapter(NodeLabels).validate_python(dict(word.partition("=")[::2] for word in words))
    except ValidationError as error:
        message = f"--label: expected NAME=VALUE of letters, digits, `.`, `_` and `-`, but is {' '.join(words)}"
        raise RecipeError((message,)) from error


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
        void: dict[str, tuple[str, ...]] = {
            "parquet": ("types", "group_rows", "delimiter"),
            "webdataset": ("files", "delimiter"),
            "csv": (),
            "jsonl": ("delimiter",),
        }
        if (other := kinds("sources").found.get(self.format)) is not None:
            void[self.format] = tuple(n for n in ("types", "group_rows", "delimiter") if n not in other.plugin.reads)
        for name in void[self.format]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect with `format: {self.format}`")
        if self.format == "csv" and (lists := [c for c, t in self.types.items() if t.endswith("s")]):
            raise ValueError(f"`types.{lists[0]}` can't be a list with `format: csv`")
        if self.delimiter in '"\r\n' or not self.delimiter.isascii():
            raise ValueError(f"`delimiter` must be an ASCII character that is no quote or newline: {self.delimiter!r}")
        return self


if not TYPE_CHECKING:
    Source = extended("sources", Source)


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
    window_packs: int = Field(
        128,
        ge=1,
        description="Packs, about, whose row groups are read and shuffled together; at least `batch.global_batch`. More"
        " mix samples better and fill packs better, and a data task holds as many.",
    )
    inflight_mb: float | None = Field(
        None,
        gt=0,
        description="Most megabytes of records that data tasks hold at a time, on all nodes together: as many windows"
        " are read at once, but one always. A quarter of the memory of the nodes that read where not given.",
    )
    labels: NodeLabels = Field({}, description="Labels of the nodes that read and decode; any node where not given.")
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
