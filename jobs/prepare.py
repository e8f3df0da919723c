"""`interlace prepare`: join sources by key into shards as a Ray Data job, and show what came of it."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from interlace.cluster.connect import connect
from interlace.data.prepare import Plan, Prepared, make_plan, out_folder, prepare
from interlace.data.stream import run_data_on, stream_units
from interlace.jobs.console import console, say
from interlace.jobs.silence import spoken
from interlace.recipe.prepare import PrepareRecipe
from interlace.train.placement import readers

EVERY_S = 5.0
"""Seconds between lines of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Where and how to prepare: address of a Ray cluster, begin anew, only show the plan."""

    address: str | None = None
    fresh: bool = False
    dry_run: bool = False


def run_prepare(recipe: PrepareRecipe, launch: Launch) -> None:
    """Show the plan, do the job or what is left of it, and show the result.

    Raises:
        InterlaceError: the data has faults.
        DoesNotFitError: no node can do the work.
    """
    plan = make_plan(recipe)
    _show_plan(plan)
    if launch.dry_run:
        return

    def on_ray(work: Callable[[Any], Any], units: Sequence[Any]) -> Iterable[Any]:
        readers(connect(launch.address), "labels", recipe.labels)  # only now: a job that is done needs no cluster
        run_data_on(recipe.labels)
        return spoken(stream_units)(work, units)

    told = _Lines()
    prepared = prepare(plan, on_ray, fresh=launch.fresh, progress=told)
    if not told.stages:
        say("nothing to do: the folder is finished")
    _show(plan, prepared)


class _Lines:
    """Progress as lines: where a stage begins, every few seconds, and at its end."""

    def __init__(self) -> None:
        self.stages: set[str] = set()
        self.told = 0.0

    def __call__(self, stage: str, done: int, of: int) -> None:
        now = time.monotonic()
        if stage not in self.stages or done == of or now - self.told > EVERY_S:
            self.stages.add(stage)
            self.told = now
            say(f"{stage}: {done} of {of} units")


def _show_plan(plan: Plan) -> None:
    table = Table("source", "format", "shards", "rows", "MiB", "key")
    for i, side in enumerate(plan.sides):
        size = f"{plan.num_bytes(i) / 2**20:.1f}"
        table.add_row(
            side.name, side.source.format, str(len(side.shards)), str(plan.num_rows(i)), size, side.source.key
        )
    console.print(table)
    shares = ", ".join(f"{name} {share:g}" for name, share in plan.recipe.split.shares.items())
    say(
        f"{plan.recipe.join} join by key in {plan.num_buckets} buckets of {plan.recipe.bucket_mb:g} MiB;"
        f" {shares} by {plan.recipe.split.by or plan.recipe.keep_key}; to {out_folder(plan)}"
    )


def _show(plan: Plan, prepared: Prepared) -> None:
    names = [side.name for side in plan.sides]
    table = Table("split", "rows", "shards", "MiB", *(f"without {n}" for n in names))
    for split, facts in prepared.splits.items():
        rows = facts["rows"]
        missing = [f"{1 - facts['present'][n] / rows:.1%}" if rows else "" for n in names]
        size = sum(s["bytes"] for s in facts["shards"]) / 2**20
        table.add_row(split, str(rows), str(len(facts["shards"])), f"{size:.1f}", *missing)
    console.print(table)
    left_out = ", ".join(f"{n} {count}" for n, count in prepared.unmatched.items() if count)
    say(f"quarantined {prepared.quarantined} rows" + (f"; without a partner: {left_out}" if left_out else ""))
    say(f"digest {prepared.digest}")
    say("for a recipe (then `interlace index` measures its tokens):\n")
    say(f"data:\n  root: {out_folder(plan)}")
    for split, facts in prepared.splits.items():
        if facts["shards"]:
            say(f'  {split}: {{paths: ["{split}-*.parquet"]}}')
