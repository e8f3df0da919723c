"""`interlace index`: measure the data as a Ray Data job."""

import json

from interlace.cluster.connect import connect
from interlace.data.index.build import build_index
from interlace.data.stream import map_units, run_data_on
from interlace.jobs.console import say
from interlace.jobs.silence import spoken
from interlace.recipe.recipe import Recipe
from interlace.train.placement import readers


def run_index(recipe: Recipe, address: str | None) -> None:
    """Build the index, or find it in the cache, and say what it holds. Raises InterlaceError, DoesNotFitError."""
    readers(connect(address), "data.labels", recipe.data.labels)
    run_data_on(recipe.data.labels)
    index = build_index(recipe, spoken(map_units))
    for split, manifest in index.manifests.items():
        missing = ", ".join(f"{n} {manifest.missing(n).mean():.1%}" for n in manifest.extents)
        say(
            f"{split}: {manifest.num_rows} records in {len(manifest.groups)} row groups, digest {manifest.digest},"
            f" missing: {missing}"
        )
        for bad in manifest.bad:
            say(json.dumps({"bad": bad.shard, "row": bad.row, "reason": bad.reason}, ensure_ascii=False))
