"""The worst errors of a model over a split, as a sheet of samples: what was true, what the model said, what it saw.

rows of the split -> predictions -> how wrong each is -> the worst of each task -> cards of HTML as those of `inspect`
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np

from interlace.contract.errors import DataError
from interlace.data.index.manifest import Manifest
from interlace.data.index.records import Record
from interlace.data.index.targets import label_of
from interlace.data.read.reader import Reader
from interlace.data.sources import row_errors
from interlace.recipe.tasks import ClassificationTask, GenerationTask, RegressionTask
from interlace.results.inspection import html
from interlace.results.inspection.cards import render_cards
from interlace.results.inspection.views import FieldView, SampleView, view_sample
from interlace.results.predictor import Predictor
from interlace.tasks.text_metrics import character_errors

WORST = 24
"""Samples of a sheet."""
MOST_ROWS = 2000
"""Rows that are looked at, so that a large split costs no more than a small one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A sample that a task is wrong about: how wrong (larger is worse), in words, and the record."""

    badness: float
    true: str
    said: str
    place: str
    record: Record


Judge = Callable[[Record, Mapping[str, Any]], tuple[float, str, str] | None]
"""From a record and its predictions to how wrong they are, what is true and what was said; None where all is well."""


def worst_mistakes(predictor: Predictor, manifest: Manifest) -> dict[str, list[Mistake]]:
    """By task its worst errors, the worst first; tasks whose predictions have no single truth are left out."""
    recipe = predictor.recipe
    wanted = tuple(dict.fromkeys((*predictor.codec.columns, *(c for t in recipe.tasks.values() for c in t.columns))))
    records = list(_records(manifest, wanted))
    said = predictor.predict([record for _, record in records])
    found: dict[str, list[Mistake]] = {}
    for name, task in recipe.tasks.items():
        judge = _judge(name, task, [record for _, record in records])
        if judge is None:
            continue
        mistakes = []
        for (place, record), one in zip(records, said, strict=True):
            verdict = judge(record, one) if one["error"] is None else None
            if verdict is not None:
                bad, true, wrong = verdict
                mistakes.append(Mistake(badness=bad, true=true, said=wrong, place=place, record=record))
        found[name] = nlargest(WORST, mistakes, key=lambda m: m.badness)
    return found


def _records(manifest: Manifest, columns: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """Usable records with their places, at most `MOST_ROWS`."""
    left = MOST_ROWS
    readers = manifest.readers()
    for number, group in enumerate(manifest.groups):
        if left <= 0:
            return
        try:
            table = readers[group.source].read(group, columns)
        except DataError:
            continue  # told by the evaluation already
        usable = manifest.rows(number).usable
        for i, (record, row_error) in enumerate(zip(table.to_pylist(), row_errors(table), strict=True)):
            if usable[i] and not row_error:
                left -= 1
                yield f"{group.shard} row {group.first_row + i}", record


def _judge(name: str, task: Any, records: Sequence[Record]) -> Judge | None:
    if isinstance(task, ClassificationTask):
        return _judge_labels(name, task) if task.multi_label else _judge_label(name, task)
    if isinstance(task, RegressionTask):
        return _judge_numbers(name, task, records)
    return _judge_text(name, task) if isinstance(task, GenerationTask) else None


def _judge_label(name: str, task: ClassificationTask) -> Judge:
    """Wrong labels, by how sure the model was."""

    def judge(record: Record, said: Mapping[str, Any]) -> tuple[float, str, str] | None:
        true = record.get(task.column)
        if true is None or label_of(task, true) == said[name]:
            return None
        sure = said[f"{name}_probability"]
        return sure, str(true), f"{said[name]} ({sure:.0%})"

    return judge


def _judge_labels(name: str, task: ClassificationTask) -> Judge:
    """Sets of labels, by the share of both sets together that is not in both."""

    def judge(record: Record, said: Mapping[str, Any]) -> tuple[float, str, str] | None:
        true = record.get(task.column)
        if true is None:
            return None
        wanted, given = ({str(label_of(task, label)) for label in found} for found in (true, json.loads(said[name])))
        if wanted == given:
            return None
        badness = len(wanted ^ given) / len(wanted | given)
        return badness, ", ".join(sorted(wanted)) or "none", ", ".join(sorted(given)) or "none"

    return judge


def _judge_numbers(name: str, task: RegressionTask, records: Sequence[Record]) -> Judge:
    """Numbers, by the largest error over the standard deviation of its column."""
    keys = {c: f"{name}_{c}" if len(task.columns) > 1 else name for c in task.columns}
    spreads = {c: float(np.std([r[c] for r in records if _is_number(r.get(c))] or [0.0])) or 1.0 for c in task.columns}

    def judge(record: Record, said: Mapping[str, Any]) -> tuple[float, str, str] | None:
        known = [c for c in task.columns if _is_number(record.get(c))]
        if not known:
            return None
        badness = max(abs(said[keys[c]] - float(record[c])) / spreads[c] for c in known)
        true = ", ".join(f"{c} {record[c]:.4g}" for c in known)
        return badness, true, ", ".join(f"{c} {said[keys[c]]:.4g}" for c in known)

    return judge


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _judge_text(name: str, task: GenerationTask) -> Judge:
    """Written texts, by errors in characters over the characters that are true."""

    def judge(record: Record, said: Mapping[str, Any]) -> tuple[float, str, str] | None:
        true = record.get(task.column)
        if true is None or true == said[name]:
            return None
        errors, count = character_errors(true, said[name])
        return errors / max(count, 1), true, said[name]

    return judge


def write_mistakes(predictor: Predictor, reader: Reader, split: str, folder: Path) -> None:
    """Write `worst-<task>.html` for each task that has a truth to differ from."""
    for name, mistakes in worst_mistakes(predictor, reader.manifest).items():
        title = f"{predictor.recipe.name}: worst errors of {name} ({split})"
        views = [_view(mistake, predictor) for mistake in mistakes]
        note = "Where the model is most wrong, the worst first, with what it was given."
        if not views:
            note = f"No error among the first {MOST_ROWS:,} samples."
        (folder / f"worst-{name}.html").write_text(html.page(title, note, render_cards(views)), encoding="utf-8")


def _view(mistake: Mistake, predictor: Predictor) -> SampleView:
    """The sample as the model got it, without augmentation."""
    seen = view_sample(mistake.record, predictor.codec, np.random.default_rng(0), mistake.place)
    labels = {"true": mistake.true, "said": mistake.said, "wrong by": f"{mistake.badness:.3g}"}
    return replace(seen, labels=labels, fields=tuple(_plain(field) for field in seen.fields))


def _plain(field: FieldView) -> FieldView:
    return replace(
        field, pictures=field.pictures[:1], spectra=field.spectra[:1], plots=field.plots[:1], cells=field.cells[:1],
        variant_words=None,
    )  # fmt: skip
