"""`interlace index`: measure the data as a Ray Data job."""

import json

from interlace.jobs.console import say
from interlace.jobs.listener import Shown
from interlace.recipe.recipe import Recipe
from interlace.results.data_jobs import index_data


def run_index(recipe: Recipe, address: str | None) -> None:
    """Build the index, or find it in the cache, and say what it holds. Raises InterlaceError, DoesNotFitError."""
    index = index_data(recipe, address, Shown())
    for split, manifest in index.manifests.items():
        missing = ", ".join(f"{n} {manifest.missing_share(n):.1%}" for n in manifest.fields)
        say(
            f"{split}: {manifest.num_rows} records in {len(manifest.groups)} row groups, digest {manifest.digest},"
            f" missing: {missing}"
        )
        for bad in manifest.bad():
            say(json.dumps({"bad": bad.shard, "row": bad.row, "reason": bad.reason}, ensure_ascii=False))
