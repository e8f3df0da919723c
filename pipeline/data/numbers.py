"""Numbers as the input of a Ray dataset, a task each, handed on a few ahead of the tasks: a stream begins at once.

Ray Data takes the input of a dataset as a list, an object for each block, and hands all of it to the first operator
before that starts a task: 40 us and 1 kB a block, so 10 epochs of 100 million samples in 200,000 windows gave their
first pack 11 s late. Here the input is one block, slices of it are made as tasks take them, and a stream costs the same
wherever in the run it begins.

Made of classes inside Ray Data, whose version `pyproject.toml` pins. Numbers made by a task of their own would need
none of them, but such a stream has two operators, and Ray Data may keep its CPUs from the second for long.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext, Dataset, ExecutionOptions
from ray.data._internal.execution.block_ref_counter import BlockRefCounter
from ray.data._internal.execution.interfaces import BlockEntry, BlockSlice, PhysicalOperator, RefBundle
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data._internal.logical.interfaces import LogicalOperator, LogicalPlan, SourceOperator
from ray.data._internal.planner.planner import Planner
from ray.data._internal.stats import DatasetStats
from ray.data.block import BlockMetadata

AHEAD = 1_000
"""Numbers that wait for tasks: more than a cluster starts between two looks of Ray Data's loop, 0.1 s at most."""


def numbers(count: int, context: DataContext) -> Dataset:
    """The numbers from 0 to `count - 1` as rows `id`, each the whole input of a task of its own.

    Args:
        count: how many.
        context: of the dataset.
    """
    block = pa.table({"id": np.arange(count)})
    source = _Numbers(block=ray.put(block), schema=block.schema, count=count, size_bytes=block.nbytes)
    return Dataset(LogicalPlan(source, context), context, DatasetStats(metadata={}, parent=None))


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class _Numbers(LogicalOperator, SourceOperator):  # type: ignore[misc]  # Ray's classes are untyped
    """The source of a plan: one block of so many rows."""

    block: "ray.ObjectRef[pa.Table]"
    schema: pa.Schema
    count: int
    size_bytes: int

    def output_data(self) -> list[RefBundle] | None:
        """Nothing that is known before it runs."""
        return None

    @property
    def num_outputs(self) -> int:
        """As many blocks as numbers."""
        return self.count

    def infer_schema(self) -> pa.Schema:
        """Of the block."""
        return self.schema

    def infer_metadata(self) -> BlockMetadata:
        """Of the block."""
        return BlockMetadata(num_rows=self.count, size_bytes=self.size_bytes, exec_stats=None, input_files=None)

    def is_lineage_serializable(self) -> bool:
        """No: it holds a reference to an object of this cluster."""
        return False


class _Ahead(InputDataBuffer):  # type: ignore[misc]  # Ray's classes are untyped
    """Hands a slice on while fewer than `AHEAD` wait before the operator that takes them.

    It is complete when the last slice is handed on, and not whenever there is none to hand on just now: what comes
    after it would take that for the end of the stream.
    """

    def __init__(self, source: _Numbers, data_context: DataContext) -> None:
        PhysicalOperator.__init__(self, "Input", [], data_context)  # InputDataBuffer's own wants all bundles
        self._entry = (BlockEntry(source.block, source.infer_metadata()),)  # holds the block while the stream runs
        self._schema, self._count, self._given = source.schema, source.count, 0
        self._estimated_num_output_bundles = self._estimated_output_num_rows = source.count

    def start(self, options: ExecutionOptions, block_ref_counter: BlockRefCounter) -> None:
        """Make nothing beforehand."""
        PhysicalOperator.start(self, options, block_ref_counter)

    def has_next(self) -> bool:
        """Whether a slice is there and there is room for it."""
        return self._given < self._count and self._given - self._taken < AHEAD

    @property
    def _taken(self) -> int:
        """Slices that the next operator took, the last one to take any where there are several."""
        return min((op.metrics.num_inputs_received for op in self.output_dependencies), default=self._given)

    def _get_next_inner(self) -> RefBundle:
        at = self._given
        self._given += 1
        bundle = RefBundle(self._entry, schema=self._schema, owns_blocks=False, slices=(BlockSlice(at, at + 1),))
        self._metrics.on_input_received(bundle)
        return bundle

    def has_execution_finished(self) -> bool:
        """Whether all was handed on, or nobody wants more."""
        return self._is_execution_marked_finished or self._given == self._count


def _plan(source: _Numbers, _: list[PhysicalOperator], context: DataContext) -> PhysicalOperator:
    return _Ahead(source, context)


# Processes that plan a stream have this module: its source is a class of it.
Planner._DEFAULT_PLAN_FNS[_Numbers] = _plan
