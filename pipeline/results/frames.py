"""Tables of pandas: raw rows out of them, predictions and metrics into them."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from interlace.contract.errors import DataError
from interlace.store.journal import journal_path, read_on
from interlace.tracking.model import to_frame


def rows_of(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a table as a model reads them: a dict each, without keys for what is missing (None, NaN, NA, NaT).

    Warns of columns that are not there: the model predicts without them.

    Args:
        frame: raw values; columns that the model does not know are left out.
        columns: those of the model.

    Raises:
        DataError: none of them is there.
    """
    there = [c for c in columns if c in frame.columns]
    if not there:
        known = ", ".join(map(str, frame.columns))
        raise DataError(f"expected one of the columns {', '.join(columns)} in the table, but it has {known}")
    if absent := [c for c in columns if c not in there]:
        warnings.warn(f"columns not in the table, predicted without: {', '.join(absent)}", stacklevel=3)
    values = [frame[c].tolist() for c in there]
    present = [frame[c].notna().tolist() for c in there]
    return [
        {c: v[row] for c, v, own in zip(there, values, present, strict=True) if own[row]} for row in range(len(frame))
    ]


def frame_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str], index: Any = None) -> pd.DataFrame:
    """Rows with the same keys as a table; None stays None.

    Args:
        rows: one dict a row.
        names: of the columns, in order, also where there is no row.
        index: of the table.
    """
    made = to_frame(rows) if rows else pd.DataFrame(columns=list(names))
    made = made[list(names)]
    return made if index is None else made.set_axis(index, axis=0)


def indexed_frame(rows: Iterable[Mapping[str, Any]], index: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Rows as a table whose index is some of their keys."""
    return frame_of(list(rows), [*index, *names]).set_index(list(index))


def metrics_frame(run_folder: Path) -> pd.DataFrame:
    """What a run journaled: index `step`, a column a metric in order of first sight, NaN where it was not measured."""
    rows: dict[int, dict[str, float]] = {}
    names: dict[str, None] = {}
    for points, _ in read_on(journal_path(run_folder)):
        for point in points:
            rows.setdefault(point.step, {}).update(point.metrics)
            names |= dict.fromkeys(point.metrics)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(names), dtype=float)
    return frame.sort_index().rename_axis("step")


def results_frame(table: Path) -> pd.DataFrame:
    """The file `fields.csv` of an evaluation: index `fields`, one column a metric `task/metric`."""
    return pd.read_csv(table, index_col="fields", keep_default_na=False, na_values=[""])


def parquet_frame(folder: Path, index: Sequence[str]) -> pd.DataFrame:
    """The Parquet parts of a folder of predictions, in order, as one table whose index is some of their columns."""
    parts = [pd.read_parquet(part) for part in sorted(folder.glob("part-*.parquet"))]
    return pd.concat(parts, ignore_index=True).set_index(list(index))
