"""The benchmark of scale works, and what it makes is what it says: seconds, without Ray."""

from pathlib import Path

import numpy as np
import pytest

from interlace.data.index.groups import load_groups
from tests.benchmarks.scale import main
from tests.benchmarks.synthetic.index import TABLE, IndexSize, load_manifest, write_index
from tests.benchmarks.synthetic.planning import plan_figures
from tests.benchmarks.synthetic.reading import open_synthetic
from tests.benchmarks.synthetic.shapes import BUDGET, SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_packs_of_a_synthetic_index_hold_each_usable_row_once_within_the_budget(shape: str, tmp_path: Path) -> None:
    write_index(tmp_path, IndexSize(rows=2000, groups=8, fields=3, shape=shape))
    reader = open_synthetic(tmp_path, ranks=2)
    plan = reader.plan()
    schedule = plan.schedule(epochs=1)
    first = [w for w in schedule.windows if w.epoch == 0]
    packs = [p for w in first for p in reader.read(w, first=0, stop=10**9, plan=plan)]
    tokens = np.concatenate([reader.manifest.rows(g).num_tokens for g in range(8)])
    assert sorted(np.concatenate([p.sample_ids for p in packs]).tolist()) == np.flatnonzero(tokens).tolist()
    assert [p.num_tokens for p in packs] == [int(tokens[p.sample_ids].sum()) for p in packs]
    assert 0 < max(p.num_tokens for p in packs) <= BUDGET
    assert len(packs) > 10


def test_a_table_drawn_by_row_groups_is_as_one_of_rows(tmp_path: Path) -> None:
    size = ["--rows", "200000", "--groups", "100"]
    main(["index", str(tmp_path / "rows"), *size])
    main(["index", str(tmp_path / "table"), *size, "--table-only"])
    rows, table = load_manifest(tmp_path / "rows").groups, load_groups(tmp_path / "table" / TABLE)
    assert len(rows) == len(table) == 100
    assert table.sizes.rows.sum() == pytest.approx(rows.sizes.rows.sum(), rel=0.01)
    assert table.sizes.tokens.sum() == pytest.approx(rows.sizes.tokens.sum(), rel=0.01)
    counts, drawn = rows.sizes.counts.sum(axis=0), table.sizes.counts.sum(axis=0)
    assert np.abs(counts[: len(drawn)] / counts.sum() - drawn[: len(counts)] / drawn.sum()).max() < 0.002
    for name, sums in rows.fields.items():
        assert table.fields[name].squares.sum() == pytest.approx(sums.squares.sum(), rel=0.05)
        assert table.fields[name].present.sum() == pytest.approx(sums.present.sum(), rel=0.01)


def test_figures_of_a_plan_and_of_stragglers(tmp_path: Path) -> None:
    write_index(tmp_path, IndexSize(rows=20_000, groups=20))
    figures = plan_figures(tmp_path, 4, 10, parts=True)
    assert figures["rows"] == 20_000
    assert figures["fill"] > 0.98
    assert {"resume_1%_s", "resume_50%_s", "resume_99%_s", "plan_cpu_s", "peak_mb"} < set(figures)
    (line,) = main(["straggler", "--models", "early", "--sets", "--ranks", "16", "--rows", "120000"])
    assert line["ranks"] == 16
    assert float(line["fill"]) > 0.985
    assert 1 < float(line["straggler"]) < 1.01
