"""Laws of measuring by columns: extents, reasons and hashes are those of the values one by one."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlace import modalities
from interlace.contract.errors import RecordError
from interlace.data.index.hashing import JOINED_BYTES, record_hashes
from interlace.data.index.records import record_hash
from interlace.data.index.targets import make_target
from interlace.modalities.base import Modality
from interlace.modalities.columns import MISSING
from interlace.recipe.fields import SeriesField, TableField, TextField
from interlace.recipe.tasks import ClassificationTask, GenerationTask, RegressionTask, RetrievalTask
from tests.fitting import fit

TEXTS = st.text(st.sampled_from("ab'sé\u0301e狗 \t\n\u00a0,.") | st.characters(codec="utf-8"), max_size=12)
FLOATS = st.floats(width=64) | st.sampled_from((0.0, -0.0, 1e39, -1e39, 1e16, 2.0**53, float("nan"), float("inf")))
SMALL = st.integers(-3, 3)
LARGE = st.integers(-(2**63), 2**63 - 1)
DAYS = st.dates()
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXTS,
    pa.large_string(): TEXTS,
    pa.binary(): st.binary(max_size=6),
    pa.large_binary(): st.binary(max_size=6),
    pa.int64(): SMALL | LARGE,
    pa.int8(): SMALL,
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): FLOATS,
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.null(): st.none(),
    pa.date32(): DAYS,
    pa.timestamp("us"): TIMES,
    pa.timestamp("ms", "Europe/Berlin"): st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(
        lambda t: t.replace(microsecond=0, tzinfo=UTC)
    ),
    pa.decimal128(10, 2): st.decimals(-999, 999, places=2).map(Decimal),
    pa.list_(pa.float64()): st.lists(FLOATS | st.none(), max_size=4),
    pa.list_(pa.float32()): st.lists(st.floats(width=32) | st.none(), max_size=4),
    pa.large_list(pa.int64()): st.lists(SMALL | LARGE | st.none(), max_size=4),
    pa.list_(pa.int32()): st.lists(SMALL, max_size=4),
    pa.list_(pa.string()): st.lists(TEXTS | st.none(), max_size=3),
    pa.list_(pa.bool_()): st.lists(st.booleans() | st.none(), max_size=3),
    pa.list_(pa.list_(pa.float64())): st.lists(st.lists(FLOATS | st.none(), max_size=3) | st.none(), max_size=3),
    pa.list_(pa.list_(pa.int64())): st.lists(st.lists(LARGE, max_size=3) | st.none(), max_size=3),
    pa.list_(pa.float64(), 2): st.lists(FLOATS, min_size=2, max_size=2),
}
"""Every type that a column may have, and its values."""


@st.composite
def tables(draw: st.DrawFn, types: Sequence[pa.DataType] = tuple(VALUES)) -> pa.Table:
    """A few columns of these types with nulls, in chunks of any offset."""
    kinds = draw(st.lists(st.sampled_from(types), min_size=1, max_size=4))
    rows = draw(st.integers(0, 6))
    columns = {}
    for i, kind in enumerate(kinds):
        values = draw(st.lists(VALUES[kind] | st.none(), min_size=rows + 2, max_size=rows + 2))
        array = pa.array(values, kind)
        at = draw(st.integers(0, rows))
        columns[f"c{i}"] = pa.chunked_array([array.slice(1, at), array.slice(1 + at, rows - at)], kind)
    return pa.table(columns)


@settings(deadline=None, max_examples=400)
@given(tables())
def test_hashes_of_columns_are_those_of_records(table: pa.Table) -> None:
    expected = [record_hash(record, table.column_names) for record in table.to_pylist()]
    assert record_hashes(table).tolist() == expected


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_every_type_is_hashed_as_its_records(kind: pa.DataType) -> None:
    seen = 0

    @settings(deadline=None, max_examples=40)
    @given(tables((kind,)))
    def check(table: pa.Table) -> None:
        nonlocal seen
        expected = [record_hash(record, table.column_names) for record in table.to_pylist()]
        assert record_hashes(table).tolist() == expected
        seen += table.num_rows

    check()
    assert seen > 20


def test_rows_larger_than_what_is_joined_are_hashed_alike() -> None:
    large = [bytes(JOINED_BYTES), b"x", None, bytes(3), bytes(JOINED_BYTES // 2)]
    table = pa.table({"a": pa.array(large), "b": pa.array(range(len(large)))})
    assert record_hashes(table).tolist() == [record_hash(r, ("a", "b")) for r in table.to_pylist()]
    assert len(set(record_hashes(table).tolist())) == len(large)


def check_measured(modality: Modality, columns: Sequence[pa.Array]) -> tuple[int, int]:
    """Compare with values one by one; how many were there, and how many were refused."""
    extents, reasons = modality.measure_column(columns)
    there = refused = 0
    for row, value in enumerate(zip(*(c.to_pylist() for c in columns), strict=True)):
        expected, reason = (MISSING, MISSING), None
        if any(v is not None for v in value):
            there += 1
            try:
                expected = modality.measure(value)
            except RecordError as error:
                reason, refused = str(error), refused + 1
        assert reasons.get(row) == reason
        assert tuple(extents[row].tolist()) == expected
    assert extents.dtype == np.int32
    assert extents.shape == (len(columns[0]), 2)
    return there, refused


def made(field: Any, *values: tuple[Any, ...]) -> Modality:
    return modalities.make("f", field, fit(field, values))


TEXT = {"modality": "text", "column": "a"}
SEEN = [("The red fox",), ("A red dog, and a fox",), ("e\u0301é狗",)]
STRINGS = (pa.string(), pa.large_string(), pa.int64())
SERIES = {"modality": "series", "window_s": 2.0, "rate_hz": 1.0, "max_seconds": 3.0}
CASES: list[tuple[str, Modality, tuple[pa.DataType, ...]]] = [
    *(
        (name, made(TextField(**TEXT, tokenizer=name, vocab_size=280), *SEEN), STRINGS)
        for name in ("bytes", "characters", "ngrams", "bpe")
    ),
    (
        "numbers",
        made(TableField(modality="table", numbers=("a", "b")), (1.0, 2.0)),
        (pa.float64(), pa.float32(), pa.int64(), pa.uint64(), pa.bool_(), pa.null(), pa.decimal128(10, 2), pa.string()),
    ),
    (
        "categories",
        made(TableField(modality="table", categories=("a", "b")), ("x", 1)),
        (pa.string(), pa.int64(), pa.bool_(), pa.float64(), pa.null(), pa.date32(), pa.binary()),
    ),
    (
        "dates",
        made(TableField(modality="table", dates=("a", "b")), (date(2020, 1, 1), None)),
        (pa.date32(), pa.timestamp("us"), pa.timestamp("ms", "Europe/Berlin"), pa.string(), pa.null()),
    ),
    (
        "channels",
        made(SeriesField(**SERIES, channels=("a", "b")), ([1.0], [2.0])),
        (pa.list_(pa.float64()), pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.string())),
    ),
    (
        "rows",
        made(SeriesField(**SERIES, column="a"), ([[1.0, 2.0]],)),
        (pa.list_(pa.list_(pa.float64())), pa.list_(pa.list_(pa.int64())), pa.list_(pa.float64())),
    ),
    (
        "irregular",
        made(SeriesField(modality="series", time="a", channel="b", value="c"), ([1.0], ["x"], [2.0])),
        (pa.list_(pa.float64()), pa.list_(pa.string())),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "modality", "types"), CASES, ids=[c[0] for c in CASES])
def test_extents_of_columns_are_those_of_values(name: str, modality: Modality, types: tuple[pa.DataType, ...]) -> None:
    width = {"numbers": 2, "categories": 2, "dates": 2, "channels": 2, "irregular": 3}.get(name, 1)
    there = refused = 0

    @settings(deadline=None, max_examples=120)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal there, refused
        kinds = [data.draw(st.sampled_from(types)) for _ in range(width)]
        if name == "irregular":
            kinds = [types[0], types[1], types[0]]
        rows = data.draw(st.integers(0, 6))
        values = [data.draw(st.lists(VALUES[k] | st.none(), min_size=rows + 1, max_size=rows + 1)) for k in kinds]
        columns = [pa.array(v, k).slice(1) for v, k in zip(values, kinds, strict=True)]
        found = check_measured(modality, columns)
        there, refused = there + found[0], refused + found[1]

    check()
    assert there > 30
    assert refused or name in ("dates",)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from((0.0, 1.5, float("nan"))), max_size=5), max_size=5))
def test_series_without_gaps_are_measured_by_their_lengths(lists: list[list[float]]) -> None:
    modality = next(m for n, m, _ in CASES if n == "channels")
    check_measured(modality, [pa.array(lists, pa.list_(pa.float64()))] * 2)
    rows = next(m for n, m, _ in CASES if n == "rows")
    pairs = [[[v, v] for v in one] for one in lists]
    check_measured(rows, [pa.array(pairs, pa.list_(pa.list_(pa.float64())))])


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, max_size=8))
def test_byte_pairs_of_a_file_are_counted_in_batches(texts: list[str]) -> None:
    modality = next(m for n, m, _ in CASES if n == "bpe")
    by_chunks = modality.measure_column([pa.array(texts, pa.string())])
    tokenizer = modality._tokenizer  # type: ignore[attr-defined]
    assert tokenizer._by_chunks
    tokenizer._by_chunks = False
    try:
        whole = modality.measure_column([pa.array(texts, pa.string())])
    finally:
        tokenizer._by_chunks = True
    assert by_chunks[0].tolist() == whole[0].tolist() == [list(modality.measure((t,))) for t in texts]


TARGETS: list[tuple[Any, dict[str, Any], tuple[pa.DataType, ...]]] = [
    (
        ClassificationTask(task="classification", column="a"),
        {"classes": ["a", "b"]},
        (pa.string(), pa.int64(), pa.bool_(), pa.float64()),
    ),
    (ClassificationTask(task="classification", column="a"), {"classes": [0, 1]}, (pa.string(), pa.int64(), pa.bool_())),
    (
        ClassificationTask(task="classification", column="a", multi_label=True),
        {"classes": ["a", "b"]},
        (pa.list_(pa.string()), pa.string()),
    ),
    (
        RegressionTask(task="regression", columns=("a", "b")),
        {"means": [0.0, 0.0], "stds": [1.0, 1.0]},
        (pa.float64(), pa.int64(), pa.bool_(), pa.string(), pa.decimal128(10, 2)),
    ),
    (RetrievalTask(task="retrieval", left=("x",), right=("y",), group="a"), {}, (pa.string(), pa.float64())),
    (GenerationTask(task="generation", column="a", tokenizer="bytes"), {}, (pa.string(), pa.int64())),
]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_refusals_of_target_columns_are_those_of_values(data: st.DataObject) -> None:
    task, fitted, types = data.draw(st.sampled_from(TARGETS))
    target = make_target(task, fitted)
    rows = data.draw(st.integers(0, 6))
    columns = []
    for _ in task.columns:
        kind = data.draw(st.sampled_from(types))
        few = st.sampled_from(("a", "b")) if kind == pa.string() else VALUES[kind]
        values = data.draw(st.lists(few | VALUES[kind] | st.none(), min_size=rows, max_size=rows))
        columns.append(pa.array(values, kind))
    expected = {}
    for row, value in enumerate(zip(*(c.to_pylist() for c in columns), strict=True)):
        if all(v is None for v in value):
            continue
        try:
            target.encode(value)
        except RecordError as error:
            expected[row] = str(error)
    assert target.refused(columns) == expected
