"""Laws of the cache's files and of their bound, without a reader."""

import os
from pathlib import Path

import numpy as np
import pytest

from interlace.contract.errors import RecordError
from interlace.data.read import cache_room
from interlace.data.read.cache import Cache, Decoded


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process remembers of folders is forgotten between tests."""
    monkeypatch.setattr(cache_room, "_unseen", {})


def values(seed: int, size: int = 1000) -> Decoded:
    rng = np.random.default_rng(seed)
    return Decoded(values={"a": rng.integers(0, 255, size, np.uint8)}, targets={"t": np.array([seed])})


def write(cache: Cache, name: bytes, rows: int = 4, size: int = 1000) -> None:
    writer = cache.writer(name, np.arange(rows))
    assert writer is not None
    for row in range(rows):
        writer.add(row, values(row, size))


def test_the_bound_holds_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    write(Cache(folder=str(tmp_path / "probe"), limit_bytes=10**9, reads=""), b"probe")
    (probe,) = (tmp_path / "probe").iterdir()
    size = probe.stat().st_size
    cache = Cache(folder=str(tmp_path / "kept"), limit_bytes=5 * size + size // 2, reads="")
    alien = tmp_path / "kept" / "alien.decoded"
    names = [b"%d" % i for i in range(9)]
    for i, name in enumerate(names):
        write(cache, name)
        if i == 0:
            alien.write_bytes(bytes(10 * size))
        ours = [f for f in (tmp_path / "kept").iterdir() if f != alien]
        assert sum(f.stat().st_size for f in ours) <= cache.limit_bytes
        os.utime(cache._path(name), (1000 + i, 1000 + i))
        if i == 3:
            used = cache.open(names[0])
            assert used is not None
            assert cache._path(names[0]).stat().st_mtime > 10**6, "a hit counts as use"
    there = [name for name in names if cache.open(name)]
    assert names[0] in there
    assert names[1] not in there
    assert there[-1] == names[-1]
    assert len(there) == 5
    assert alien.exists()
    kept = used.row(0)
    np.testing.assert_array_equal(kept.values["a"], values(0).values["a"])


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(folder=str(tmp_path / "kept"), limit_bytes=3000, reads="")
    write(cache, b"small", rows=1)
    write(cache, b"large", rows=5)
    write(cache, b"huge", rows=5, size=1 << 20)
    assert cache.open(b"small") is not None
    assert cache.open(b"large") is None
    assert cache.open(b"huge") is None
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_reasons_empty_arrays_and_shapes_come_back(tmp_path: Path) -> None:
    cache = Cache(folder=str(tmp_path), limit_bytes=10**6, reads="r")
    writer = cache.writer(b"rows", np.array([7, 2, 3]))
    assert writer is not None
    picture = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    writer.add(3, Decoded(values={}, targets={"t": np.zeros(0, np.int64)}))
    writer.add(3, values(0))
    writer.add(9, values(0))
    writer.add(7, RecordError("field `a`: żółw"))
    assert cache.open(b"rows") is None
    writer.add(2, Decoded(values={"a": picture}, targets={}))
    stored = cache.open(b"rows")
    assert stored is not None
    assert stored.covers(np.array([2, 3, 7, 7]))
    assert not stored.covers(np.array([2, 9]))
    assert stored.row(3).values == {}
    assert stored.row(3).targets["t"].shape == (0,)
    np.testing.assert_array_equal(stored.row(2).values["a"], picture)
    assert stored.row(2).values["a"].dtype == np.float16
    assert stored.row(2).targets == {}
    with pytest.raises(RecordError, match="field `a`: żółw"):
        stored.row(7)
    mixed = cache.writer(b"mixed", np.array([0, 1]))
    assert mixed is not None
    mixed.add(0, values(0))
    mixed.add(1, Decoded(values={"a": picture}, targets={}))
    assert cache.open(b"mixed") is None
