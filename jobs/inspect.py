"""`interlace inspect`: what a recipe's data holds, as one HTML page and a short summary. In this process, without Ray.

index (from the cache or made now) -> facts of each split, a sheet of decoded samples -> page, summary
"""

from pathlib import Path

from rich.table import Table

from interlace.jobs.console import console, say
from interlace.recipe.recipe import Recipe
from interlace.results.inspection.facts import Facts
from interlace.results.inspection.inspect import inspect
from interlace.results.inspection.inspected import Inspected


def run_inspect(recipe: Recipe, out: Path) -> None:
    """Index the recipe's data, write the page to `out`, and print a summary.

    Bad records and overlong samples are shown, not refused. Raises DataError where shards can't be read at all.
    """
    facts = inspect(recipe)
    Inspected(facts).write(out)
    _print_summary(facts)
    say(f"page {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _print_summary(facts: Facts) -> None:
    table = Table(title=f"{facts.name}: {facts.root}")
    names = list(facts.splits)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    splits = list(facts.splits.values())
    table.add_row("records", *(f"{s.manifest.num_rows:,}" for s in splits))
    table.add_row("row groups", *(f"{len(s.manifest.groups):,}" for s in splits))
    table.add_row("bad records", *(f"{s.manifest.num_bad:,}" for s in splits))
    for name in facts.fields:
        table.add_row(f"{name} missing", *(f"{s.missing_share(name):.1%}" for s in splits))
    table.add_row("tokens a sample", *(f"{s.total.mean:.1f}" for s in splits))
    table.add_row("longest sample", *(f"{s.total.most}" for s in splits))
    table.add_row("repeats of a record", *(f"{s.num_repeats:,}" for s in splits))
    for name, split in facts.splits.items():
        shared = ["-" if other is split else f"{other.shared_with(split):,}" for other in splits]
        if set(shared) > {"-", "0"}:
            table.add_row(f"records also in {name}", *shared)
    console.print(table)
    for warning in facts.warnings():
        say(f"warning: {warning}")
