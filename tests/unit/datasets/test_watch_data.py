"""Laws of the smartwatch set."""

import importlib.util
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from interlace.contract.errors import DataError
from interlace.jobs.datasets.watch import CHANNELS, MEMBER, SCHEMA, SUBJECTS, build, read_arrays

LABELS = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]


def recordings(subjects=10):
    """Generated recordings in the form of seglearn's."""
    rng = np.random.default_rng(0)
    whole = [(s, a, y) for s in range(1, subjects + 1) for a in (0.0, 1.0) for y in range(7)]
    return {
        "X": [rng.normal(size=(int(rng.integers(600, 1400)), 6)) for _ in whole],
        "y": np.array([y for _, _, y in whole]),
        "side": np.array([a for _, a, _ in whole]),
        "subject": np.array([s for s, _, _ in whole]),
        "X_labels": list(CHANNELS),
        "y_labels": LABELS,
    }


def npy(value):
    """An `.npy` file of one object, as numpy pickles it."""
    out = io.BytesIO()
    np.save(out, np.array(value, dtype=object), allow_pickle=True)
    return out.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A generated source and what is built from it."""
    folder = tmp_path_factory.mktemp("watch")
    found = recordings()
    with zipfile.ZipFile(folder / "seglearn.whl", "w") as wheel:
        wheel.writestr(MEMBER, npy(found))
    return found, build(folder / "set", source=folder / "seglearn.whl")


def rows(report):
    """Rows by split."""
    tables = {s: [pq.read_table(f) for f in report.files if f.name.startswith(f"{s}-")] for s in SUBJECTS}
    return {split: [row for table in found for row in table.to_pylist()] for split, found in tables.items()}


def whole(report):
    """Each recording put together again from its parts: readings float32 `[n, 6]`, and its other values."""
    parts = sorted((r for found in rows(report).values() for r in found), key=lambda r: (r["recording"], r["part"]))
    found = {}
    for part in parts:
        readings = np.stack([np.array(part[c], np.float32) for c in CHANNELS], axis=1)
        before, _ = found.get(part["recording"], (readings[:0], None))
        found[part["recording"]] = (np.concatenate([before, readings]), part)
    return found


def test_parts_are_even_and_make_up_the_recordings(made):
    source, report = made
    found = whole(report)
    assert sorted(found) == list(range(140))
    for i, (readings, part) in found.items():
        np.testing.assert_array_equal(readings, source["X"][i].astype(np.float32))
        assert (part["label"], part["side"]) == (LABELS[source["y"][i]], source["side"][i])
    lengths = [len(row["ax"]) for found in rows(report).values() for row in found]
    assert min(lengths) >= 200
    assert max(lengths) <= 312


def test_no_subject_is_in_two_splits_and_every_class_in_each(made):
    subjects = {split: {row["subject"] for row in found} for split, found in rows(made[1]).items()}
    assert {split: len(found) for split, found in subjects.items()} == SUBJECTS
    assert len(set.union(*subjects.values())) == 10
    assert all({row["label"] for row in found} == set(LABELS) for found in rows(made[1]).values())
    assert pq.read_schema(made[1].files[0]).names == SCHEMA.names


def test_the_same_source_gives_the_same_bytes(made, tmp_path):
    (tmp_path / "watch_dataset.npy").write_bytes(npy(made[0]))
    again = build(tmp_path / "set", source=tmp_path / "watch_dataset.npy")
    assert [f.read_bytes() for f in again.files] == [f.read_bytes() for f in made[1].files]
    other = build(tmp_path / "other", seed=1, source=tmp_path / "watch_dataset.npy")
    assert rows(other) != rows(again)


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


@pytest.mark.parametrize("value", [Planted(), [np.zeros(2), {"X": Planted()}]])
def test_code_in_the_file_does_not_run(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"mkdir"):
        read_arrays(npy(value))
    assert not Path("planted").exists()


def test_other_ways_to_make_an_array_are_refused():
    class Huge:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (10**12,), b"b")

    with pytest.raises(DataError, match="empty array"):
        read_arrays(npy(Huge()))


@pytest.mark.parametrize("content", [b"", b"no array", npy({"X": []})[:-3], pickle.dumps({}), npy([1])[:90]])
def test_a_damaged_file_is_refused(content):
    with pytest.raises(DataError, match=r"watch_dataset\.npy"):
        read_arrays(content)


@pytest.mark.parametrize("value", [{}, {**recordings(1), "y": np.full(14, 9)}, {**recordings(1), "X": [1] * 14}])
def test_a_file_of_something_else_is_refused(value, tmp_path):
    (tmp_path / "x.npy").write_bytes(npy(value))
    with pytest.raises(DataError, match="recordings of seglearn"):
        build(tmp_path / "set", source=tmp_path / "x.npy")
    assert not (tmp_path / "set").exists()


def test_a_missing_package_and_a_missing_file_are_named_with_the_remedy(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"absent\.whl.*pip download seglearn"):
        build(tmp_path / "set", source=tmp_path / "absent.whl")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"`seglearn`, which is not installed: pip install 'interlace\[demo\]'"):
        build(tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_the_package_holds_the_recordings_of_the_real_data(real_data, tmp_path):
    if importlib.util.find_spec("seglearn") is None:
        pytest.skip("the package seglearn is not installed")
    found = whole(build(tmp_path))
    expected = pq.read_table(real_data / "watch_exercises" / "sensors.parquet").to_pylist()
    assert sorted(found) == list(range(len(expected))) == list(range(140))
    for i, row in enumerate(expected):
        readings, part = found[i]
        np.testing.assert_array_equal(readings, np.stack([np.array(row[c], np.float32) for c in CHANNELS], axis=1))
        assert {n: part[n] for n in ("label", "subject", "side")} == {n: row[n] for n in ("label", "subject", "side")}
