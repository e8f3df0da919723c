"""Settings of `interlace prepare`: which sources are joined by which key, how rows are split, how shards are cut.

Read, overridden and checked as a training recipe is (`interlace.recipe.recipe`): dotted paths, all errors at once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from interlace.recipe.base import Node
from interlace.recipe.data import NAME, NodeLabels, Source
from interlace.recipe.identity import flatten
from interlace.recipe.load import load_tree
from interlace.store.places import RUN_NAME

SplitName = Literal["train", "validation", "test"]
Positive = Annotated[float, Field(gt=0)]


class JoinedSource(Source):
    """A source of the join: shards as a training recipe names them, their key, and what is taken from them."""

    key: str = Field(description="Column whose value is equal in all sources for one record: integers or strings.")
    columns: dict[str, str] | None = Field(
        None, description="Columns taken, `name in the output: column` or a list; all but the key where not given."
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        return {str(c): c for c in given} if isinstance(given, list | tuple) else given


class Split(Node):
    """Which rows go to which side: decided by a hash, so a row's side never depends on the other rows."""

    by: str | None = Field(None, description="Column whose equal values stay on one side; the key where not given.")
    shares: dict[SplitName, Positive] = Field(
        {"train": 0.8, "validation": 0.1, "test": 0.1}, min_length=1, description="Share of each side; they sum to 1."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sides and of the order of rows.")

    @field_validator("shares")
    @classmethod
    def _sum(cls, shares: dict[SplitName, float]) -> dict[SplitName, float]:
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares must sum to 1, but sum to {sum(shares.values()):g}")
        return shares


class PrepareRecipe(Node):
    """Everything that decides a prepared data set."""

    name: str = Field(pattern=RUN_NAME, description="Name of the data set.")
    root: str = Field(".", description="Folder that relative paths start from; itself relative to the current folder.")
    out: str = Field(min_length=1, description="Folder of the prepared shards, relative to the current folder.")
    sources: dict[Annotated[str, Field(pattern=NAME)], JoinedSource] = Field(min_length=1)
    join: Literal["inner", "outer"] = Field(
        "outer", description="`outer`: an absent partner is a missing modality; `inner`: only keys that all have."
    )
    split: Split = Split()
    keep_key: str = Field("key", min_length=1, description="Name of the key's column in the output.")
    shard_mb: float = Field(256.0, gt=0, description="Size of an output shard in MiB, before compression.")
    group_rows: int = Field(64, ge=1, description="Most rows in a row group: what training reads at once.")
    group_mb: float | None = Field(None, gt=0, description="Fewer rows a group where the mean one would be larger.")
    compression: Literal["zstd", "snappy", "none"] = Field("zstd", description="Compression of the output.")
    labels: NodeLabels = Field({}, description="Labels of the nodes that do the work; any node where not given.")
    bucket_mb: float = Field(64.0, gt=0, description="Bytes one task joins at once, in MiB: its memory is a few times.")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="Share of quarantined rows above which the job fails.")

    @model_validator(mode="after")
    def _no_name_twice(self) -> "PrepareRecipe":
        seen = {self.keep_key: "`keep_key`"}
        for name, source in self.sources.items():
            for column in source.columns or ():
                if column in seen:
                    raise ValueError(f"output column `{column}` comes from both {seen[column]} and `sources.{name}`")
                seen[column] = f"`sources.{name}`"
        return self


NOT_OUTPUT = ("name", "root", "out", "labels", "bucket_mb", "max_bad_share")
"""Settings that decide where and how the job runs, not what it writes."""


def output_settings(recipe: PrepareRecipe) -> dict[str, Any]:
    """The settings that decide the output, by dotted path. Columns and shares are lists: their order counts too."""

    def ordered() -> Iterator[tuple[str, Any]]:
        yield "sources", list(recipe.sources)
        yield "split.shares", [[name, share] for name, share in recipe.split.shares.items()]
        for name, source in recipe.sources.items():
            if source.columns is not None:
                yield f"sources.{name}.columns", [[out, column] for out, column in source.columns.items()]

    whole = dict(ordered())
    flat = {k: v for k, v in flatten(recipe).items() if k.split(".")[0] not in NOT_OUTPUT}
    return whole | {k: v for k, v in flat.items() if not any(k.startswith(f"{w}.") for w in whole if w != "sources")}


def load_preparation(path: str | Path, overrides: Sequence[str] = ()) -> PrepareRecipe:
    """Read a file of these settings and apply overrides `dotted.path=value`.

    Raises:
        RecipeError: the file can't be read or has errors; all of them are named.
    """
    return load_tree(path, overrides, PrepareRecipe)
