"""Fitting: what fields and targets learn from the training rows, as a job over row groups. Torch-free.

    row group -> columns that something learns from, read once -> a partial of each learner -> merged in order -> state

The units of work are row groups, done by the same `mapper` as those of measuring. Partials are small and are merged as
they come, so memory holds one row group where it is read and the totals (counts, statistics) where they are merged. The
state is the same wherever the row groups were read. A field that starts from another run or a pretrained model learns
nothing: its state comes from there.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from interlace import modalities
from interlace.contract.errors import DataError, StartError
from interlace.data.index.identity import reading, target_settings
from interlace.data.index.targets import target_learner
from interlace.data.sources import Mapper, RowGroup, ShardFormat, open_source, usable_rows
from interlace.modalities.base import FixedLearner, Learner
from interlace.recipe.base import PretrainedEncoder
from interlace.recipe.data import Source
from interlace.recipe.fields import AnyField, TextField
from interlace.recipe.reads import Reads
from interlace.recipe.start import fitted_from
from interlace.recipe.tasks import AnyTask, GenerationTask

Fitted = Mapping[str, Mapping[str, Any]]
"""`{"fields": {name: state}, "targets": {name: state}}`, plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLearner:
    """Something to learn, and the columns of each field (or of the target) that it is learned from."""

    learner: Learner
    columns: tuple[tuple[str, ...], ...]


def column_learners(reads: Reads) -> dict[str, ColumnLearner]:
    """All that a recipe learns, by setting: one learner a field, shared vocabulary and task; nothing learned yet.

    A field that starts from elsewhere brings its state, which then is that of all fields of its vocabulary.

    Raises:
        DataError: settings of a field that can't be followed.
        StartError: the recipe (pinned) has a field that can't start from what its `init` names, or two fields of one
            vocabulary bring unequal ones.
    """
    made: dict[str, ColumnLearner] = {}
    known = _known(reads)
    for name, field in reads.fields.items():
        key = _key_of_field(name, field)
        before = made[key].columns if key in made else ()
        learner = FixedLearner(known[key]) if key in known else modalities.learner(field)
        made[key] = ColumnLearner(learner=learner, columns=(*before, field.columns))
    for name, task in reads.tasks.items():
        if task.columns:
            key = _key_of_task(name, task)
            before = made[key].columns if key in made else ()
            learner = FixedLearner(known[key]) if key in known else target_learner(task)
            made[key] = ColumnLearner(learner=learner, columns=(*before, task.columns))
    return made


def learning(reads: Reads) -> dict[str, list[Any]]:
    """What of the settings decides the partials of each learner that reads rows."""
    asked = {n for n, one in column_learners(reads).items() if not isinstance(one.learner, FixedLearner)}
    targets = target_settings(reads)
    found: dict[str, list[Any]] = {name: [] for name in sorted(asked)}
    for name, field in reads.fields.items():
        if (key := _key_of_field(name, field)) in asked:
            found[key].append(reading(field))
    for name, task in reads.tasks.items():
        if task.columns and (key := _key_of_task(name, task)) in asked:
            found[key].append(targets[name])
    return found


def _key_of_field(name: str, field: AnyField) -> str:
    shared = isinstance(field, TextField) and field.vocabulary
    return f"vocabulary.{shared}" if shared else f"fields.{name}"


def _key_of_task(name: str, task: AnyTask) -> str:
    shared = isinstance(task, GenerationTask) and task.vocabulary
    return f"vocabulary.{shared}" if shared else f"tasks.{name}"


def _known(reads: Reads) -> dict[str, Mapping[str, Any]]:
    """The states that fields bring, by the learner they stand for."""
    known: dict[str, Mapping[str, Any]] = {}
    first: dict[str, str] = {}
    for name, field in reads.fields.items():
        state = _started(reads, name, field)
        if state is None:
            continue
        key = _key_of_field(name, field)
        if known.setdefault(key, state) != state:
            raise StartError(
                f"fields.{name}.init",
                (f"shares the vocabulary of `fields.{first[key]}`, which starts with another",),
            )
        first.setdefault(key, name)
    return known


def _started(reads: Reads, name: str, field: AnyField) -> Mapping[str, Any] | None:
    """The state that comes with the run or the pretrained model that a field starts from, None without one."""
    home = reads.starts
    encoder: PretrainedEncoder | None = getattr(field, "encoder", None)
    if field.init is None and encoder is not None:
        assert encoder.digest is not None, "not pinned"
        return modalities.fit_from_folder(field, home / encoder.digest)
    return fitted_from(home, name, field)


def fit(reads: Reads, sources: Sequence[Source], groups: Sequence[RowGroup], mapper: Mapper) -> Fitted:
    """Fit every field and target on the training rows; a row group is read once for all of them.

    Args:
        reads: fields and tasks.
        sources: of the training rows.
        groups: the row groups of the training shards.
        mapper: where they are read.

    Raises:
        DataError: settings that can't be followed, or a column from which nothing can be learned.
        StartError: as `column_learners`.
    """
    totals = column_learners(reads)
    asked = {n: one for n, one in column_learners(reads).items() if not isinstance(one.learner, FixedLearner)}
    readers = tuple(open_source(source) for source in sources)
    for table in mapper(FitGroup(readers, asked), groups) if asked else ():
        for partials in table.to_pylist():
            for name, partial in partials.items():
                if partial is not None:
                    totals[name].learner.merge(json.loads(partial))
    states = {n: one.learner.finish() for n, one in totals.items()}
    return {
        "fields": {n: states[_key_of_field(n, f)] for n, f in reads.fields.items()},
        "targets": {n: states[_key_of_task(n, t)] for n, t in reads.tasks.items() if t.columns},
    }


@dataclass(frozen=True, slots=True)
class FitGroup:
    """Reads the columns of a row group that something learns from, and makes the partial of each."""

    readers: tuple[ShardFormat, ...]
    learners: Mapping[str, ColumnLearner]

    def __call__(self, group: RowGroup) -> pa.Table:
        """One row: by learner its partial as JSON, null where the row group can't be read."""
        columns = dict.fromkeys(c for one in self.learners.values() for own in one.columns for c in own)
        partials: dict[str, str | None] = dict.fromkeys(self.learners)
        try:
            table = usable_rows(self.readers[group.source].read(group, list(columns)))
        except DataError:
            pass  # the index lists the rows of a damaged row group, one by one
        else:
            for name, one in self.learners.items():
                values = chain.from_iterable(_values(table, own) for own in one.columns)
                partials[name] = json.dumps(one.learner.partial(values))
        return pa.table({name: pa.array([partial], pa.large_string()) for name, partial in partials.items()})


def _values(table: pa.Table, columns: tuple[str, ...]) -> Iterable[tuple[Any, ...]]:
    """The values of one field; rows where all its columns are null are left out."""
    if len(columns) == 1:
        return ((v,) for v in table[columns[0]].drop_null().to_pylist())
    rows = zip(*(table[c].to_pylist() for c in columns), strict=True)
    return (row for row in rows if any(v is not None for v in row))
