"""The job: three stages over a work folder, then one rename a shard, `quarantine.parquet` and `prepared.json`.

    sources -> scatter -> buckets -> join -> splits -> shards -> out/

`mapper` decides where units run: in this process (`map`) or as a Ray Data job (`interlace.data.stream.stream_units`). A
unit is done when its mark is there, so a job that was killed goes on by the same call; what a unit writes depends on
inputs and settings only, so it may run twice, anywhere, in any order.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from interlace.contract.errors import BadShareError, DataError
from interlace.data.prepare.join import Join
from interlace.data.prepare.plan import Plan
from interlace.data.prepare.result import LOCK, REJECTED, RESULT, Prepared, finished, made_from, out_folder, remove
from interlace.data.prepare.scatter import Scatter
from interlace.data.prepare.shards import WriteShard, cut_shards
from interlace.data.prepare.work import (
    HIDDEN,
    JOIN,
    QUARANTINE,
    SCATTER,
    SHARDS,
    STAGES,
    done_units,
    marks,
    read_batches,
    whole,
    write_json,
)
from interlace.recipe.prepare import output_settings
from interlace.store.lock import held

MOST_LISTED = 5

Unit = TypeVar("Unit")


class Mapper(Protocol):
    """Does units of work; tables as they get done, in any order."""

    def __call__(self, work: Callable[[Unit], pa.Table], units: Sequence[Unit], /) -> Iterable[pa.Table]:
        """Each unit once."""


Progress = Callable[[str, int, int], None]
"""Told of a stage, units done, units in all."""


def prepare(plan: Plan, mapper: Mapper = map, *, fresh: bool = False, progress: Progress | None = None) -> Prepared:
    """Do the whole job, or what is left of it; nothing if it is done.

    Args:
        plan: from `make_plan`.
        mapper: where units run.
        fresh: remove what an earlier job wrote, and begin anew.
        progress: told how far it is.

    Raises:
        ResumeError: the folder holds, or another process writes, something else.
        BadShareError: too many rows are in quarantine; they are listed in `quarantine.parquet`.
    """
    out = out_folder(plan)
    out.mkdir(parents=True, exist_ok=True)
    with held(out / LOCK):
        if fresh:
            remove(out)
        there = finished(plan)
        if there is None:
            there = _Job(plan, mapper, progress or (lambda stage, done, of: None)).run()
        shutil.rmtree(out / HIDDEN, ignore_errors=True)
        return there


class _Job:
    """One job at its work folder."""

    def __init__(self, plan: Plan, mapper: Mapper, progress: Progress) -> None:
        self.out = out_folder(plan)
        self.mapper = mapper
        self.progress = progress
        self.plan = _begin(plan, self.out / HIDDEN / "job.json")
        self.folders = {s: self.out / HIDDEN / _key(self.plan) / s for s in STAGES}
        for folder in self.folders.values():
            folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> Prepared:
        """The stages, then the result."""
        plan = self.plan
        self._stage(SCATTER, self._scatter(), plan.units, lambda u: u.number)
        self._check_share()
        self._stage(JOIN, self._join(), range(plan.num_buckets), lambda bucket: bucket)
        self._check_share()
        joined = list(marks(self.folders[JOIN]))
        units = cut_shards(plan.recipe, joined)
        if not units:
            raise DataError(f"expected at least one row after the join, but no key is in all of {self._names()}")
        write = WriteShard(
            joined=self.folders[JOIN],
            folder=self.folders[SHARDS],
            compression=plan.recipe.compression,
            schema=plan.schema,
        )
        self._stage(SHARDS, write, units, lambda u: u.number)
        return self._finish(joined)

    def _stage(
        self, name: str, work: Callable[[Unit], pa.Table], units: Sequence[Unit], number: Callable[[Unit], int]
    ) -> None:
        """Do the units of a stage that are not done."""
        done = done_units(self.folders[name])
        left = [u for u in units if number(u) not in done]
        count = len(units) - len(left)
        self.progress(name, count, len(units))
        for table in self.mapper(work, left) if left else ():
            count += table.num_rows
            self.progress(name, count, len(units))
        assert len(done_units(self.folders[name])) == len(units)

    def _scatter(self) -> Scatter:
        plan = self.plan
        return Scatter(
            folder=self.folders[SCATTER],
            sides=plan.sides,
            key_type=plan.key_type,
            num_buckets=plan.num_buckets,
            seed=plan.recipe.split.seed,
        )

    def _join(self) -> Join:
        plan = self.plan
        return Join(
            scattered=self.folders[SCATTER],
            folder=self.folders[JOIN],
            sides=plan.sides,
            units=tuple(tuple(u.number for u in plan.units if u.side == i) for i in range(len(plan.sides))),
            key_type=plan.key_type,
            recipe=plan.recipe,
            schema=plan.schema,
        )

    def _names(self) -> str:
        return ", ".join(f"{s.name} (`{s.source.key}`)" for s in self.plan.sides)

    def _num_bad(self) -> int:
        return sum(m["bad"] for stage in (SCATTER, JOIN) for m in marks(self.folders[stage]))

    def _check_share(self) -> None:
        """Refuse to go on where too many rows are in quarantine; the work folder stays, so a higher limit goes on."""
        limit = self.plan.recipe.max_bad_share
        rows = sum(self.plan.num_rows(i) for i in range(len(self.plan.sides)))
        bad = self._num_bad()
        if bad > limit * rows:
            self._write_quarantine()
            listed = "".join(f"\n  - {r['source']}: {r['shard']} row {r['row']}: {r['reason']}" for r in self._first())
            raise BadShareError(
                f"{bad} of {rows} rows of the sources are in quarantine ({bad / rows:.2%}), but `max_bad_share` is"
                f" {limit:.2%}; all are in {self.out / REJECTED}, the first:{listed}"
            )

    def _first(self) -> list[dict[str, Any]]:
        first: list[dict[str, Any]] = []
        for batch in self._quarantined():
            first += batch.slice(0, MOST_LISTED - len(first)).to_pylist()
            if len(first) == MOST_LISTED:
                break
        return first

    def _quarantined(self) -> Iterator[pa.RecordBatch]:
        for stage in (SCATTER, JOIN):
            for path in sorted(self.folders[stage].glob("*.quarantine")):
                yield from read_batches(path)

    def _write_quarantine(self) -> int:
        rows = 0
        with (
            whole(self.out / REJECTED, sync=True) as partial,
            pq.ParquetWriter(partial, QUARANTINE, compression="zstd") as writer,
        ):
            for batch in self._quarantined():
                writer.write_batch(batch)
                rows += batch.num_rows
        return rows

    def _finish(self, joined: Sequence[Mapping[str, Any]]) -> Prepared:
        """Move the shards to their place and say what they are, last of all `prepared.json`."""
        names = [s.name for s in self.plan.sides]
        written = list(marks(self.folders[SHARDS]))
        splits: dict[str, dict[str, Any]] = {}
        for split in self.plan.recipe.split.shares:
            facts = [m["splits"][split] for m in joined]
            splits[split] = {
                "rows": sum(f["rows"] for f in facts),
                "present": {n: sum(f["present"][i] for f in facts) for i, n in enumerate(names)},
                "shards": [m["shard"] for m in written if m["split"] == split],
            }
        for mark in written:
            shard = self.folders[SHARDS] / mark["shard"]["file"]
            if shard.exists():  # else a job that was killed here has moved it
                shard.replace(self.out / shard.name)
        shards = {split: [(s["rows"], s["digest"]) for s in facts["shards"]] for split, facts in splits.items()}
        prepared = Prepared(
            name=self.plan.recipe.name,
            settings=output_settings(self.plan.recipe),
            inputs=self.plan.prints,
            splits=splits,
            quarantined=self._write_quarantine(),
            unmatched={n: sum(m["unmatched"][i] for m in joined) for i, n in enumerate(names)},
            digest=hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()[:32],
        )
        write_json(self.out / RESULT, asdict(prepared), sync=True)
        return prepared


def _begin(plan: Plan, job: Path) -> Plan:
    """The plan with the bucket size that this job began with."""
    if not job.exists():
        job.parent.mkdir(exist_ok=True)
        write_json(job, {**made_from(plan), "bucket_bytes": plan.bucket_bytes})
    return replace(plan, bucket_bytes=json.loads(job.read_text(encoding="utf-8"))["bucket_bytes"])


def _key(plan: Plan) -> str:
    """Name of the job's work folder: what its files depend on."""
    facts = json.dumps({**made_from(plan), "bucket_bytes": plan.bucket_bytes}, sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
