"""The table of a workload, in Markdown."""

from collections.abc import Sequence
from statistics import median

from tests.benchmarks.peers.compare import Row

HEAD = (
    "",
    "CPU s / 1,000",
    "ratio",
    "(range)",
    "first s",
    "memory MiB",
    "resume s",
    "same",
    "once",
    "prepare s",
    "notes",
)


def table_of(rows: Sequence[Row]) -> str:
    """The raw limit, then contestants from the least CPU to the most."""
    raw, others = rows[0], sorted(rows[1:], key=lambda r: r.ratio)
    lines = [HEAD, ("---",) * len(HEAD), _cells(raw), *map(_cells, others)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    notes = [n for n in (row.version, row.contestant.note) if n]
    if row.tasks:
        notes.append(f"data tasks alone {median(row.tasks):.2f}")
    return (
        row.name if row.ratio != 1 else "raw limit",
        f"{median(row.cpu_s):.3f}",
        f"{row.ratio:.2f}",
        f"{min(row.ratios):.2f}-{max(row.ratios):.2f}",
        f"{median(row.first_s):.1f}",
        f"{max(row.peaks) / 2**20:.0f}",
        "" if row.same is None else f"{row.resume_s:.1f}",
        "" if row.same is None else "yes" if row.same else "no",
        "yes" if row.distinct else "no",
        f"{row.prepare_s:.1f}" if row.prepare_s else "",
        "; ".join(notes),
    )
