"""`interlace prepare`: join sources by key into shards as a Ray Data job, and show what came of it."""

from dataclasses import dataclass

from rich.table import Table

from interlace.data.prepare import Plan, Prepared, make_plan, out_folder
from interlace.jobs.console import console, say
from interlace.jobs.listener import Shown
from interlace.recipe.prepare import PrepareRecipe
from interlace.results.data_jobs import prepare_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Where and how to prepare: address of a Ray cluster, begin anew, only show the plan."""

    address: str | None = None
    fresh: bool = False
    dry_run: bool = False


def run_prepare(recipe: PrepareRecipe, launch: Launch) -> None:
    """Show the plan, do the job or what is left of it, and show the result.

    Raises:
        InterlaceError: the data has errors.
        DoesNotFitError: no node can do the work.
    """
    plan = make_plan(recipe)
    _show_plan(plan)
    if launch.dry_run:
        return
    listener = Shown()
    prepared = prepare_shards(plan, launch.address, listener, fresh=launch.fresh)
    if not listener.stages:
        say("nothing to do: the folder is finished")
    _show(plan, prepared)


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
