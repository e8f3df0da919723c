"""Jobs over data that need no model: measuring it, and joining sources into shards."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from interlace.cluster.connect import connect
from interlace.data.index.build import Index, build_index
from interlace.data.prepare import Plan, Prepared, prepare
from interlace.data.stream import map_units, run_data_on, stream_units
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import pin
from interlace.results.listener import Listener
from interlace.train.placement import readers


def index_data(recipe: Recipe, address: str | None, listener: Listener) -> Index:
    """Build the index as a Ray Data job, or find it in the cache. Raises InterlaceError, DoesNotFitError."""
    readers(connect(address), "data.labels", recipe.data.labels)
    run_data_on(recipe.data.labels)
    return build_index(pin(recipe), listener.data_job(map_units))


def prepare_shards(plan: Plan, address: str | None, listener: Listener, *, fresh: bool = False) -> Prepared:
    """Join sources into shards as a Ray Data job, or what is left of it.

    Args:
        plan: from `data.prepare.make_plan`.
        address: of a Ray cluster; a job that is done needs none.
        listener: is told how far it is.
        fresh: remove what an earlier job wrote, and begin anew.

    Raises:
        InterlaceError: the data has faults.
        DoesNotFitError: no node can do the work.
    """

    def on_ray(work: Callable[[Any], Any], units: Sequence[Any]) -> Iterable[Any]:
        readers(connect(address), "labels", plan.recipe.labels)  # only now: a job that is done needs no cluster
        run_data_on(plan.recipe.labels)
        return listener.data_job(stream_units)(work, units)

    return prepare(plan, on_ray, fresh=fresh, progress=listener.preparing)
