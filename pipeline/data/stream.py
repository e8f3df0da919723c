"""The Ray side of the data arm: streams of packs to train on and to evaluate, and the index as a job.

The home of `ray.data`.

`dataset(reader, schedule, start)` gives a Ray dataset whose row number n is the pack at position `start + n`, one row a
block. Order rests on `preserve_order` (set by `data_config`) and on `streaming_split(equal=True)`, which hands blocks
out in turn: position p arrives at rank p mod W. The consumer checks that on every pack.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, ExecutionOptions, TaskPoolStrategy

from interlace.contract.sample import Pack
from interlace.contract.tables import pack_to_table, table_to_pack
from interlace.data.numbers import numbers
from interlace.data.plan.plan import Plan, Schedule, Window
from interlace.data.read.reader import Reader, join
from interlace.data.read.share import Part, parts, read_share
from interlace.recipe.data import Data

if TYPE_CHECKING:
    from ray.train import DataConfig

GROUPS_PER_TASK = 4
"""Row groups that one indexing task does: enough to pay for the 20 ms that a task costs."""

NODE_ID = "ray.io/node-id"
"""The label that Ray gives each node."""

MEMORY_SHARE = 0.25
"""Of the memory that Ray gives to tasks, for records of windows; the rest is for decoding and for other tasks."""

CPU_SECONDS = "cpu_s"
"""Column of a pack on its way to a worker: CPU seconds of the data task since its last pack."""

Unit = TypeVar("Unit")


def run_data_on(labels: Mapping[str, str]) -> None:
    """Run the Ray Data jobs that this process starts on the nodes with these labels only; anywhere where empty."""
    DataContext.get_current().execution_options.label_selector = dict(labels) or None


def connected() -> bool:
    """Whether this process may start data tasks."""
    return bool(ray.is_initialized())


def data_config(labels: Mapping[str, str]) -> "DataConfig":
    """The `DataConfig` of a trainer; the only place where Ray Train keeps `preserve_order`.

    Args:
        labels: of the nodes that data tasks may run on; any node where empty.
    """
    from ray.train import DataConfig  # only drivers and controllers need ray.train

    return DataConfig(execution_options=ExecutionOptions(preserve_order=True, label_selector=dict(labels) or None))


def inflight_bytes(data: Data) -> int | None:
    """Most bytes of records that data tasks may hold at a time, None where no node that reads is up yet.

    Args:
        data: `inflight_mb`, or else `labels` of the nodes whose memory is shared.
    """
    if data.inflight_mb is not None:
        return int(data.inflight_mb * 1e6)
    nodes = [node for node in ray.nodes() if node["Alive"] and data.labels.items() <= node["Labels"].items()]
    return int(MEMORY_SHARE * sum(node["Resources"].get("memory", 0.0) for node in nodes)) or None


def tasks_within(limit_bytes: int | None, window_bytes: int) -> int | None:
    """How many windows of so many bytes may be read at once: one always, or nothing would be read; None for any."""
    return None if limit_bytes is None else max(1, limit_bytes // max(1, window_bytes))


def dataset(
    reader: Reader,
    schedule: Schedule,
    start: int,
    each_pack: Callable[[int], None] | None = None,
    *,
    tasks: int | None = None,
) -> "ray.data.Dataset":
    """The packs at positions `start .. schedule.stop - 1`, in order, one row a block.

    Args:
        reader: reads the windows.
        schedule: the windows of the run.
        start: first position; only its window and those after it are read.
        each_pack: called with each position before its pack is handed on (tests delay packs by it).
        tasks: most of them at once, each of which holds a window; as many as CPUs allow where not given.
    """
    units = _Since(schedule.since(start), start, schedule.stop)
    read = _reading(reader, units, each_pack)
    return numbers(len(units), _a_pack_a_block()).map_batches(
        read, batch_format="pyarrow", batch_size=None, concurrency=tasks
    )


class _Since(Sequence[Part]):
    """The parts of a stream: its windows from a position on, made when they are asked for."""

    def __init__(self, windows: Sequence[Window], first: int, stop: int) -> None:
        self._windows, self._first, self._stop = windows, first, stop

    def __len__(self) -> int:
        return len(self._windows)

    @overload
    def __getitem__(self, at: int) -> Part: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Part]: ...

    def __getitem__(self, at: int | slice) -> Part | Sequence[Part]:
        """A part, or several by a slice."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return Part(self._windows[at], self._first, self._stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """How data tasks run beside those of a training stream, of which some may hold each CPU for data.

    A task of a stream that nobody takes packs from keeps its CPU until somebody does. A worker that evaluates takes
    none, so tasks that wait for a CPU before they give it what it evaluates would wait for ever. These ask for none.

    Args:
        tasks: that run at a time; the CPUs for data.
        nodes: ids of the nodes they may run on, any where empty: a task that asks for no CPU would else go to nodes
            that have none.
    """

    tasks: int
    nodes: tuple[str, ...]


def dataset_beside(
    reader: Reader, schedule: Schedule, most_ranks: int, beside: Beside, each_pack: Callable[[int], None] | None = None
) -> "ray.data.Dataset":
    """The packs of one pass over a split, in order, one row a block, read while training waits for them.

    At the end are `most_ranks - 1` packs without samples at the positions from `schedule.stop` on. Ray deals each rank
    as many rows as any other and drops what is left, which then is none of the split's.

    Args:
        reader: reads the split.
        schedule: of one epoch.
        most_ranks: that the packs may be dealt to.
        beside: how its tasks run.
        each_pack: called with each position before its pack is handed on.
    """
    units = parts(reader, schedule)
    read = _reading(reader, units, each_pack, fill=range(schedule.stop, schedule.stop + most_ranks - 1))
    where = {NODE_ID: f"in({','.join(beside.nodes)})"} if beside.nodes else None
    return numbers(len(units) + 1, _a_pack_a_block()).map_batches(
        read,
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0,
        label_selector=where,
        compute=TaskPoolStrategy(size=beside.tasks),
    )


def read_split(reader: Reader) -> Iterator[Pack]:
    """The packs of one pass over a split, in order, made by data tasks; a single part is read here.

    See `read_share` for a pass without Ray.
    """
    units = parts(reader, reader.plan().schedule(epochs=1))
    if len(units) < 2:
        yield from read_share(reader)  # nothing runs beside it, and a job takes half a second to start
        return
    data = numbers(len(units), _a_pack_a_block()).map_batches(
        _reading(reader, units), batch_format="pyarrow", batch_size=None
    )
    data.context.execution_options.preserve_order = True
    for position, table in enumerate(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)):
        pack = table_to_pack(table)
        assert pack.position == position, "Ray Data gave blocks out of order"
        yield pack


def _a_pack_a_block() -> DataContext:
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # one pack a block, so that whole packs are dealt out
    context.enable_fallback_to_arrow_object_ext_type = False
    context.enable_progress_bars = False
    return context


def _reading(
    reader: Reader, units: Sequence[Part], each_pack: Callable[[int], None] | None = None, fill: range = range(0)
) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """What a data task does with numbers of parts; the number after the last gives packs without samples at `fill`."""
    shared = ray.put((reader, units))

    def read(rows: pa.Table) -> Iterator[pa.Table]:
        spent = time.process_time()
        for number in rows["id"].to_pylist():
            own, plan, every = _load(shared)
            for pack in _read(own, plan, every[number]) if number < len(every) else _fill(own, fill):
                if each_pack is not None:
                    each_pack(pack.position)
                table, now = pack_to_table(pack), time.process_time()
                yield table.append_column(CPU_SECONDS, pa.array([now - spent]))
                spent = now

    return read


def _read(reader: Reader, plan: Plan, part: Part) -> Iterator[Pack]:
    return reader.read(part.window, first=part.first, stop=part.stop, plan=plan)


def _fill(reader: Reader, positions: range) -> Iterator[Pack]:
    return (join(position, 0, np.zeros(0, np.int64), (), reader.codec) for position in positions)


@lru_cache(maxsize=2)
def _load(shared: "ray.ObjectRef[tuple[Reader, Sequence[Part]]]") -> tuple[Reader, Plan, Sequence[Part]]:
    """The reader, its plan and the parts, made once a process; arrays stay in the object store."""
    found: tuple[Reader, Sequence[Part]] = ray.get(shared)
    reader, units = found
    return reader, reader.plan(), units


def map_units(work: Callable[[Unit], pa.Table], units: Sequence[Unit]) -> Iterator[pa.Table]:
    """Do units of work (row groups to fit on or to measure) as a Ray Data job; tables in the order of the units.

    They come while the job runs: those that get done early wait in the object store, where Ray bounds them.
    """
    reached = -1
    for table in stream_units(work, units, GROUPS_PER_TASK, ordered=True):
        numbers = np.diff(table["unit"].to_numpy(), prepend=reached)
        assert (numbers >= 0).all(), "Ray Data gave blocks out of order"
        reached = table["unit"][-1].as_py()
        yield table.drop_columns("unit")


def stream_units(
    work: Callable[[Unit], pa.Table], units: Sequence[Unit], units_per_task: int = 1, *, ordered: bool = False
) -> Iterator[pa.Table]:
    """Do units of work as a Ray Data job; tables as they get done, with a column `unit` added.

    Args:
        work: what to do with a unit.
        units: anything that can be pickled.
        units_per_task: how many one task does; a task costs about 20 ms.
        ordered: tables in the order of the units; else in any order.
    """

    def run(rows: pa.Table) -> Iterator[pa.Table]:
        for row in rows.to_pylist():
            table = work(pickle.loads(row["pickled"]))
            yield table.append_column("unit", pa.array([row["unit"]] * table.num_rows, pa.int64()))

    pickled = pa.table({"unit": range(len(units)), "pickled": pa.array(map(pickle.dumps, units), pa.binary())})
    blocks = max(1, len(units) // units_per_task)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = ordered
    with DataContext.current(context):
        ds = ray.data.from_arrow(pickled).repartition(blocks).map_batches(run, batch_format="pyarrow", batch_size=None)
        yield from (t for t in ds.iter_batches(batch_size=None, batch_format="pyarrow") if t.num_rows)
