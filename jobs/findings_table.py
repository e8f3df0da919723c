"""The table of a search's trials."""

from rich import box
from rich.measure import Measurement
from rich.table import Table

from interlace.jobs.console import console, say
from interlace.tune.report import Findings, cells, ranked
from interlace.tune.suggest import short_names


def print_findings(found: Findings) -> None:
    """The tables of trials and of importance."""
    plan = found.plan
    paths = list(plan.search.space)
    names = short_names(paths)
    shown = Table(title=f"trials by {found.metric}", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("trial", "status", "done", found.metric, *names.values()):
        shown.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    for trial in ranked(found, plan):
        mark = "*" if found.best is not None and trial.number == found.best.number else ""
        shown.add_row(f"{mark}{trial.number}", *cells(trial, plan))
    console.print(shown, width=Measurement.get(console, console.options.update(max_width=1000), shown).maximum)
    if found.importance:
        parts = ", ".join(f"{names[i.path]} {i.share:.0%}" for i in found.importance)
        say(f"variance of {found.metric} after {found.compared_at:.0%} each setting explains (eta²): {parts}")
