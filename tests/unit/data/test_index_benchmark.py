"""The benchmark of the index on a few rows: its figures are those of what was built."""

from pathlib import Path

from tests.benchmarks.index import SHARDS, run


def test_the_benchmark_counts_what_is_read(tmp_path: Path) -> None:
    found = run(tmp_path, 2000, "bytes", group_rows=100)
    groups = 2 * SHARDS
    assert found["new"]["groups"] == 2 * groups
    assert found["new"]["rows_read"] == 2 * found["new"]["rows"] == 4000
    assert found["found again"]["groups"] == 0
    assert found["after a kill"]["groups"] == groups // 2
    assert (found["a shard added"]["rows"], found["a shard added"]["groups"]) == (2200, 4)
    assert found["new"]["digest"] == found["found again"]["digest"] == found["after a kill"]["digest"]
    assert found["a shard added"]["digest"] != found["new"]["digest"]
