"""The reader: turns a window of the plan into packs, in plan order. Pure, without Ray and torch.

    fetch row groups ahead -> verify record hash -> decode -> augment -> encode -> join into packs
    open cached row groups ------------------------------/

Ray tasks and in-process callers run this same code, so they give the same bytes. A record that turns out bad leaves an
empty slot at its place and an entry in `Pack.bad`; it never shifts the stream.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interlace.contract.errors import DataError, RecordError
from interlace.contract.flops import Flops
from interlace.contract.sample import BadRecord, FieldPack, Pack, TargetPack, Tokens
from interlace.data.index.manifest import GroupRows, Manifest
from interlace.data.index.records import Record, RecordCodec, field_value, record_hash
from interlace.data.plan.mix import Mix, MixSettings
from interlace.data.plan.plan import Plan, PlanSettings, Rows, Window, Work, all_work, plan_of_rows
from interlace.data.read.ahead import Ahead
from interlace.data.read.cache import Cache, Decoded, GroupWriter, StoredGroup
from interlace.data.sources import ROW_ERROR

Entry = Callable[[], Decoded]
"""A record that waits for its pack: gives its decoded values, or raises RecordError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One sample of a pack: tokens of the fields it has, values of the targets it has."""

    tokens: Mapping[str, Tokens]
    targets: Mapping[str, NDArray[Any]]


EMPTY = Slot(tokens={}, targets={})


class Place(NamedTuple):
    """Where a pack stands in the run."""

    position: int
    epoch: int


def read_slot(record: Record, codec: RecordCodec, rng: np.random.Generator | None) -> Slot:
    """Decode, augment (if `rng` is given) and encode one record. Raises RecordError."""
    return encode_slot(decode_record(record, codec), codec, rng)


def decode_record(record: Record, codec: RecordCodec) -> Decoded:
    """Values and targets of one record: arrays in C order, read-only as those from the cache. Raises RecordError."""
    values: dict[str, NDArray[Any]] = {}
    for name, (modality, columns) in codec.fields.items():
        value = field_value(record, columns)
        if value is None:
            continue
        try:
            values[name] = np.ascontiguousarray(modality.decode(value))
        except RecordError as error:
            raise RecordError(f"field `{name}`: {error}") from error
        values[name].setflags(write=False)
    targets = {
        name: target.encode(value)
        for name, (target, columns) in codec.targets.items()
        if (value := field_value(record, columns)) is not None
    }
    return Decoded(values=values, targets=targets)


def encode_slot(decoded: Decoded, codec: RecordCodec, rng: np.random.Generator | None) -> Slot:
    """Augment (if `rng` is given) and encode one record. Raises RecordError."""
    tokens: dict[str, Tokens] = {}
    for name, (modality, _) in codec.fields.items():
        value = decoded.values.get(name)
        if value is None:
            continue
        try:
            tokens[name] = modality.encode(value if rng is None else modality.augment(value, rng))
        except RecordError as error:
            raise RecordError(f"field `{name}`: {error}") from error
    return Slot(tokens=tokens, targets=decoded.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads the packs of one split.

    Args:
        manifest: what the split holds.
        plan_settings: how it is packed.
        codec: how records become tokens.
        flops: what samples cost in the model, by their tokens: packs are equal in it.
        training: whether to augment.
        mix: weights of the manifest's sources, where they are mixed.
        cache: keeps decoded values on disk; the packs are the same with and without.
    """

    manifest: Manifest
    plan_settings: PlanSettings
    codec: RecordCodec
    flops: Flops
    training: bool
    mix: MixSettings | None = None
    cache: Cache | None = None

    def plan(self) -> Plan:
        """The plan of this split."""
        starts = self.manifest.starts
        if self.mix is None:
            sizes = self.manifest.groups.sizes
            return Plan(group_starts=starts, sizes=sizes, look=self.work, settings=self.plan_settings)
        work = all_work(self.work, len(self.manifest.groups))  # any row may be drawn: all are looked at
        bounds, source_of = np.stack([starts[:-1], starts[1:]], axis=1), self.manifest.groups.source
        mix = Mix(
            settings=self.mix,
            groups=tuple(bounds[source_of == s] for s in range(len(self.mix.weights))),
            usable=work.tokens > 0,
            seed=self.plan_settings.seed,
        )
        return plan_of_rows(work, starts, self.plan_settings, mix)

    def work(self, group: int) -> Work:
        """Tokens and FLOPs of the rows of a row group."""
        rows = self.manifest.rows(group)
        return Work(tokens=rows.num_tokens.astype(np.int64), cost=self.flops.of_rows(rows.tokens))

    def read(self, window: Window, *, first: int, stop: int, plan: Plan | None = None) -> Iterator[Pack]:
        """The packs of a window at positions `first <= p < stop`, in order."""
        return self.stream([window], first=first, stop=stop, plan=plan)

    def stream(self, windows: Iterable[Window], *, first: int, stop: int, plan: Plan | None = None) -> Iterator[Pack]:
        """The packs of windows at positions `first <= p < stop`, in order; row groups are fetched ahead of decoding.

        While a window is decoded, the first row groups of the next one are fetched, up to `AHEAD_BYTES`; not where
        there is a cache, as what this window adds to it need not be read again.
        """
        plan = plan or self.plan()
        needs = (self._need(plan, window, first, stop) for window in windows)
        with Ahead(self._fetch, lambda part: int(self.manifest.groups.num_bytes[part.number])) as fetched:

            def look() -> _Need | None:
                need = next(needs, None)
                fetched.offer(part for part in (need.parts if need else ()) if part.stored is None)
                return need

            need = look()
            while need is not None:
                with ExitStack() as unfinished:
                    records = self._records(need, fetched, unfinished)
                    following = look() if self.cache is None else None
                    yield from self._packs(plan, need, records)
                need = look() if self.cache is not None else following

    def _need(self, plan: Plan, window: Window, first: int, stop: int) -> "_Need":
        """What the packs of a window at these positions need."""
        packs = plan.packs(window.epoch, window.index, window.num_packs)
        assert len(packs) == window.num_packs, (len(packs), window)
        wanted = range(max(first - window.start, 0), min(stop - window.start, len(packs)))
        draws = np.concatenate([packs[i] for i in wanted]) if wanted else np.zeros(0, np.int64)
        rows, uses = np.unique(plan.rows_of(draws), return_counts=True)
        group_of = np.searchsorted(plan.group_starts, rows, side="right") - 1
        parts = [self._part(plan, number, rows[group_of == number]) for number in np.unique(group_of).tolist()]
        uses_of = dict(zip(rows.tolist(), uses.tolist(), strict=True))
        return _Need(window=window, packs={i: packs[i] for i in wanted}, uses=uses_of, parts=parts)

    def _part(self, plan: Plan, number: int, rows: Rows) -> "_Part":
        """Rows of a row group, with what the cache holds of them."""
        measured, start = self.manifest.rows(number), int(plan.group_starts[number])
        stored = self.cache.open(measured.content) if self.cache else None
        if stored is not None and not stored.covers(rows - start):
            stored = None
        return _Part(number=number, start=start, inside=rows - start, measured=measured, stored=stored)

    def _packs(self, plan: Plan, need: "_Need", records: dict[int, Entry]) -> Iterator[Pack]:
        """The packs of a window; a record lives until its last use in the window."""
        window, left = need.window, need.uses
        for i, draws in need.packs.items():
            rows = plan.rows_of(draws)
            epochs = window.epoch + draws // plan.num_rows
            yield self._pack(Place(window.start + i, window.epoch), rows, epochs, records)
            for row in rows.tolist():
                left[row] -= 1
                if not left[row]:
                    del records[row]

    def is_stored(self, number: int) -> bool:
        """Whether the cache holds the usable rows of a row group."""
        rows = self.manifest.rows(number)
        stored = self.cache.open(rows.content) if self.cache else None
        return stored is not None and stored.covers(np.flatnonzero(rows.usable))

    def store(self, number: int) -> tuple[int, int]:
        """Decode the usable rows of a row group into the cache; how many records, and bytes of their values."""
        measured = self.manifest.rows(number)
        rows = np.flatnonzero(measured.usable)
        writer = self.cache.writer(measured.content, rows) if self.cache else None
        size = 0
        with ExitStack() as unfinished:
            if writer is not None:
                unfinished.callback(writer.discard)
            start = int(self.manifest.starts[number])
            part = _Part(number=number, start=start, inside=rows, measured=measured, stored=None)
            for entry in self._entries(part, self._fetch(part), writer).values():
                try:
                    size += sum(v.nbytes for v in entry().values.values())
                except RecordError:  # the cache knows it now
                    continue
        return len(rows), size

    def _records(
        self, need: "_Need", fetched: "Ahead[_Part, pa.Table | str]", unfinished: ExitStack
    ) -> dict[int, Entry]:
        """The records of a window, from the cache or as they are fetched, row group by row group.

        Args:
            need: of the window.
            fetched: gives those row groups that the cache does not hold, in order.
            unfinished: takes what gives up cache files that did not become whole.
        """
        records: dict[int, Entry] = {}
        for part in need.parts:
            if part.stored is not None:
                records |= {part.start + i: partial(part.stored.row, i) for i in part.inside.tolist()}
                continue
            writer = None
            usable = np.flatnonzero(part.measured.usable)
            if self.cache and np.isin(usable, part.inside).all():
                writer = self.cache.writer(part.measured.content, usable)
            if writer is not None:
                unfinished.callback(writer.discard)
            records |= self._entries(part, fetched.take(), writer)
        return records

    def _fetch(self, part: "_Part") -> pa.Table | str:
        """The table of a row group, or why there is none. Storage that failed for good costs this row group alone."""
        group = self.manifest.group(part.number)
        try:
            table = self.manifest.readers()[group.source].read(group, self.codec.columns)
        except (DataError, OSError) as error:
            return str(error)
        if table.num_rows != group.num_rows:
            return f"{group.shard}: row group {group.index} now has {table.num_rows} rows"
        return table

    def _entries(self, part: "_Part", table: pa.Table | str, writer: GroupWriter | None) -> dict[int, Entry]:
        """The records of some rows of a row group; nothing holds its table afterwards."""
        inside, hashes = part.inside.tolist(), part.measured.hashes
        if isinstance(table, str):
            return {part.start + i: partial(_refuse, table) for i in inside}
        records: dict[int, Entry] = {}
        for i, record in zip(inside, _records_of(table, part.inside), strict=True):
            reason = record.pop(ROW_ERROR, None)
            decode = partial(self._decode, int(hashes[i]), record, writer, i)
            records[part.start + i] = partial(_refuse, reason) if reason else decode
        return records

    def _decode(self, expected: int, record: Record, writer: GroupWriter | None, place: int) -> Decoded:
        """Verify and decode a record; the cache gets what its bytes give, also that they can't be decoded."""
        if record_hash(record, self.codec.columns) != expected:
            raise RecordError("record hash differs from the manifest: the shard changed after it was indexed")
        try:
            decoded = decode_record(record, self.codec)
        except RecordError as error:
            if writer is not None:
                writer.add(place, error)
            raise
        if writer is not None:
            writer.add(place, decoded)
        return decoded

    def _pack(self, place: Place, rows: Rows, epochs: Rows, records: Mapping[int, Entry]) -> Pack:
        slots: list[Slot] = []
        bad: list[BadRecord] = []
        varies = self.training and any(modality.varies for modality, _ in self.codec.fields.values())
        for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True):
            rng = np.random.default_rng((self.plan_settings.seed, epoch, row)) if varies else None
            try:
                slots.append(encode_slot(records[row](), self.codec, rng))
            except RecordError as error:
                shard, number = self.manifest.locate(row)
                bad.append(BadRecord(shard=shard, row=number, reason=str(error)))
                slots.append(EMPTY)
        return join(place.position, place.epoch, rows, slots, self.codec, tuple(bad))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Rows of row group `number`, which begins at row `start`: `inside` counts from there."""

    number: int
    start: int
    inside: Rows
    measured: GroupRows
    stored: StoredGroup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """What a window's packs need: `packs` by number in the window, how often each row is used, parts in order."""

    window: Window
    packs: Mapping[int, Rows]
    uses: dict[int, int]
    parts: Sequence[_Part]


def _records_of(table: pa.Table, inside: Rows) -> Iterator[dict[str, Any]]:
    """Rows of a table as records, each of them made of Python's objects and free to go when it has been used."""
    if len(inside) < table.num_rows:
        table = table.take(pa.array(inside))
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _refuse(reason: str) -> Decoded:
    """The entry of a record that was not read."""
    raise RecordError(reason)


def join(
    position: int,
    epoch: int,
    rows: Rows,
    slots: Sequence[Slot],
    codec: RecordCodec,
    bad: tuple[BadRecord, ...] = (),
) -> Pack:
    """Samples end to end as one pack."""
    fields: dict[str, FieldPack] = {}
    for name, (modality, _) in codec.fields.items():
        found = [s.tokens.get(name) for s in slots]
        spec = modality.spec
        empty = np.zeros((0, spec.patch_dim), spec.patch_dtype) if spec.kind == "patches" else np.zeros(0, np.int32)
        fields[name] = FieldPack(
            values=_concatenate((t.values for t in found if t is not None), empty),
            lengths=np.array([0 if t is None else t.values.shape[0] for t in found], np.int32),
            grids=np.array([(0, 0) if t is None else t.grid for t in found], np.int32).reshape(-1, 2),
            times=_times(found) if spec.clocked else None,
        )
    targets: dict[str, TargetPack] = {}
    for name, (target, _) in codec.targets.items():
        values = [s.targets.get(name) for s in slots]
        targets[name] = TargetPack(
            values=_concatenate((v for v in values if v is not None), np.zeros(0, target.dtype)),
            lengths=np.array([0 if v is None else v.shape[0] for v in values], np.int32),
            present=np.array([v is not None for v in values], np.bool_),
        )
    return Pack(position=position, epoch=epoch, sample_ids=np.asarray(rows), fields=fields, targets=targets, bad=bad)


def _times(found: Iterable[Tokens | None]) -> NDArray[np.float32]:
    """The times of clocked tokens end to end."""
    return _concatenate((t.times for t in found if t is not None and t.times is not None), np.zeros(0, np.float32))


def _concatenate(arrays: Iterable[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    """The arrays end to end; `empty` gives dtype and width where there are none."""
    return np.concatenate([empty, *arrays])
