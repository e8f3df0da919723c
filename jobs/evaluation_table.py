"""The table of an evaluation, as wide as the console."""

import math
from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from interlace.jobs.console import console, say
from interlace.results.evaluation import Evaluation


def print_evaluation(evaluation: Evaluation) -> None:
    """The table of subsets, with as many metrics as fit in the console; the files have all."""
    names = list(evaluation.results[0].metrics)
    shown = fitting(names, console.width - max(len("+".join(r.fields)) for r in evaluation.results) - 4)
    table = Table(title=f"{evaluation.split}: {evaluation.num_samples} samples, by the fields given to the model")
    table.add_column("fields", no_wrap=True)
    for name in shown:
        table.add_column(name.replace("/", "\n", 1), justify="right")
    for result in evaluation.results:
        table.add_row("+".join(result.fields), *(_shown(result.metrics[n]) for n in shown))
    console.print(table)
    if left := [n for n in names if n not in shown]:
        say(f"not in this table, but in fields.csv: {', '.join(left)}")


def fitting(names: Sequence[str], width: int) -> list[str]:
    """The metrics `task/metric` whose columns, headed by two lines, fit in so many characters: at least one.

    The first metric of every task comes before the second of any.
    """
    seen: Counter[str] = Counter()
    turns = []
    for name in names:
        task = name.partition("/")[0]
        turns.append(seen[task])
        seen[task] += 1
    kept: list[int] = []
    for place in sorted(range(len(names)), key=lambda i: turns[i]):
        width -= max(*map(len, names[place].split("/", 1)), 6) + 3
        if width < 0 and kept:
            break
        kept.append(place)
    return [names[i] for i in sorted(kept)]


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
