"""The input of a stream is made as tasks take it: as dear with a million numbers left as with a hundred."""

from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray.data
from ray.data import DataContext, ExecutionOptions
from ray.data._internal.execution.interfaces import RefBundle

from interlace.data import numbers
from interlace.data.numbers import AHEAD
from interlace.data.numbers import numbers as numbers_of

pytestmark = pytest.mark.ray

MANY = 300_000


@pytest.fixture(name="made")
def fixture_made(monkeypatch: pytest.MonkeyPatch) -> list[RefBundle]:
    """The slices that this process makes."""
    made: list[RefBundle] = []
    inner = numbers._Ahead._get_next_inner

    def noted(self: numbers._Ahead) -> RefBundle:
        made.append(inner(self))
        return made[-1]

    monkeypatch.setattr(numbers._Ahead, "_get_next_inner", noted)
    return made


def squares(count: int) -> "ray.data.Dataset":
    """Of all numbers, two blocks a task."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    data = numbers_of(count, context).map_batches(square, batch_format="pyarrow", batch_size=None)
    data.context.execution_options = ExecutionOptions(preserve_order=True)
    return data


def square(rows: pa.Table) -> Iterator[pa.Table]:
    """One block of the number, one of its square; a task has one number."""
    (number,) = rows["id"].to_pylist()
    yield pa.table({"n": [number]})
    yield pa.table({"n": [number**2]})


def values(data: "ray.data.Dataset") -> Iterator[int]:
    """What comes, in order."""
    return (table["n"][0].as_py() for table in data.iter_batches(batch_size=None, batch_format="pyarrow"))


def test_input_is_made_ahead_of_tasks_and_no_more(made: list[RefBundle]) -> None:
    found = values(squares(MANY))
    first = [next(found) for _ in range(10)]
    assert first == [0, 0, 1, 1, 2, 4, 3, 9, 4, 16]
    assert AHEAD <= len(made) < 2 * AHEAD < MANY


def test_a_pause_of_the_input_is_not_its_end(made: list[RefBundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks wait for input most of the time here, and nothing is lost."""
    monkeypatch.setattr(numbers, "AHEAD", 1)
    assert list(values(squares(40))) == [n for number in range(40) for n in (number, number**2)]
    assert len(made) == 40


def test_as_many_as_are_asked_for() -> None:
    """A single number, and a stream that is given up in the middle and leaves nothing that waits."""
    assert list(values(squares(1))) == [0, 0]
    assert [row["n"] for row in squares(MANY).limit(3).take_all()] == [0, 0, 1]
    data = squares(40)
    assert data.count() == 80
