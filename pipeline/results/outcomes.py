"""What calls on data give back in Python: an index, prepared shards, predictions in files; a notebook shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from interlace.contract.errors import InterlaceError
from interlace.contract.sample import BadRecord
from interlace.data.index.build import Index
from interlace.data.prepare import Plan, Prepared, out_folder
from interlace.results.bulk import Predicted
from interlace.results.frames import frame_of, parquet_frame
from interlace.results.listener import Listener
from interlace.results.notebook import card, facts
from interlace.results.prediction import PredictLaunch, predict_shards

if TYPE_CHECKING:
    import pandas as pd


def _table(frame: "pd.DataFrame") -> str:
    made: str = frame.to_html(border=0, escape=True, index_names=False, float_format=lambda value: f"{value:.4g}")
    return made


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """The index of a recipe's data: its name in the recipe, and what was measured."""

    name: str
    index: Index

    def counts(self) -> "pd.DataFrame":
        """Of each split: records, bad records, row groups, digest; the share of usable records without each field."""
        manifests = self.index.manifests
        rows = [
            {"records": m.num_rows, "bad": m.num_bad, "row groups": len(m.groups), "digest": m.digest}
            | {f"{name} missing": m.missing_share(name) for name in m.fields}
            for m in manifests.values()
        ]
        return frame_of(rows, list(rows[0]), list(manifests)).rename_axis("split")

    def bad(self) -> Sequence[BadRecord]:
        """Records that can't be read, with shard, row and reason."""
        return [bad for m in self.index.manifests.values() for bad in m.bad()]

    def __repr__(self) -> str:
        told = ", ".join(f"{split} {m.num_rows:,} records" for split, m in self.index.manifests.items())
        return f"Indexed({self.name}: {told}; {sum(m.num_bad for m in self.index.manifests.values())} bad)"

    def _repr_html_(self) -> str:
        return card(
            f"Index of {self.name}",
            f"{sum(m.num_bad for m in self.index.manifests.values())} records can't be read",
            _table(self.counts()),
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedShards:
    """Shards that were joined from sources: the plan, and what came of it."""

    plan: Plan
    prepared: Prepared

    @property
    def folder(self) -> Path:
        """Where the shards are."""
        return out_folder(self.plan)

    @property
    def data(self) -> dict[str, Any]:
        """The section `data` of a recipe over these shards."""
        splits = [split for split, found in self.prepared.splits.items() if found["shards"]]
        return {"root": str(self.folder), **{split: {"paths": [f"{split}-*.parquet"]} for split in splits}}

    def splits(self) -> "pd.DataFrame":
        """Of each split its rows, shards, bytes, and the share of rows that lack each source."""
        names = [side.name for side in self.plan.sides]
        rows = [
            {"rows": found["rows"], "shards": len(found["shards"]), "bytes": sum(s["bytes"] for s in found["shards"])}
            | {f"without {name}": _without(found, name) for name in names}
            for found in self.prepared.splits.values()
        ]
        return frame_of(rows, list(rows[0]), list(self.prepared.splits)).rename_axis("split")

    def __repr__(self) -> str:
        told = ", ".join(f"{split} {found['rows']:,} rows" for split, found in self.prepared.splits.items())
        return f"PreparedShards({told}; {self.prepared.quarantined} quarantined; {self.folder})"

    def _repr_html_(self) -> str:
        note = f"{self.prepared.quarantined} rows quarantined; {self.folder}"
        return card(self.prepared.name, note, _table(self.splits()))


def _without(found: Mapping[str, Any], source: str) -> float:
    return 1 - found["present"][source] / found["rows"] if found["rows"] else 0.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedShards:
    """Predictions in files: their folder, and how many there are."""

    folder: Path
    predicted: Predicted

    def frame(self) -> "pd.DataFrame":
        """All of them, by `shard` and `row`."""
        return parquet_frame(self.folder, ["shard", "row"])

    def __repr__(self) -> str:
        done = self.predicted
        return f"PredictedShards({done.num_rows:,} rows, {done.num_bad:,} with an error; {self.folder})"

    def _repr_html_(self) -> str:
        done = self.predicted
        reasons = [(f"{done.num_bad:,} with an error", "; ".join(done.reasons))] if done.num_bad else []
        return card("Predictions", str(self.folder), facts([("rows", f"{done.num_rows:,}"), *reasons]))


def predict_to(
    model: str, data: Any, output: str | PathLike[str], launch: PredictLaunch, listener: Listener
) -> PredictedShards:
    """Predict shards into files; see `results.prediction.predict_shards`.

    Raises:
        InterlaceError: the data are no paths, or the job can't be done.
    """
    shards = [data] if isinstance(data, str | PathLike) else data
    if not isinstance(shards, list | tuple) or not all(isinstance(part, str | PathLike) for part in shards):
        raise InterlaceError("predict: `output` is for shards, so `data` must be paths; of rows the table comes back")
    done = predict_shards(model, [fspath(part) for part in shards], Path(output), launch, listener)
    return PredictedShards(folder=Path(output).absolute(), predicted=done)
