"""The benchmark of scale streams: first packs and simulated ranks on a small synthetic index."""

from pathlib import Path

import pytest

from tests.benchmarks.synthetic.index import IndexSize, write_index
from tests.benchmarks.synthetic.streams import first_pack, simulated

pytestmark = pytest.mark.ray


def test_a_synthetic_stream_gives_its_figures(tmp_path: Path) -> None:
    write_index(tmp_path, IndexSize(rows=10_000, groups=10))
    first = first_pack(tmp_path, 4, 3, 0.4)
    assert first["rows"] == 10_000
    assert float(first["task_mb"]) > float(first["task_own_mb"]) > 0
    ranks = simulated(tmp_path, 4, 120)
    assert float(ranks["packs"]) > 100
    assert float(ranks["coordinator_ms_a_pack"]) > 0
