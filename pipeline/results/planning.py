"""What a recipe takes on this cluster, measured in the first seconds of the run itself."""

from interlace.cluster.connect import connect
from interlace.data.stream import map_units, run_data_on
from interlace.recipe.recipe import Recipe
from interlace.results.listener import Listener
from interlace.results.training import cluster_warnings
from interlace.train.estimate import CALM_S, Estimate, estimate
from interlace.train.placement import fit_into
from interlace.train.run import prepare
from interlace.train.summary import describe


def measure_plan(recipe: Recipe, address: str | None, seconds: float, listener: Listener) -> Estimate:
    """Measure what a run needs.

    Args:
        recipe: of the run.
        address: of the cluster; a Ray of our own where not given.
        seconds: to measure for, after the first steps.
        listener: is told of what happens.

    Raises:
        InterlaceError, DoesNotFitError, NotReadyError: the recipe, the data or the cluster are not as needed.
    """
    there = connect(address)
    section, allotment = fit_into(there, recipe.train, recipe.world_sizes, recipe.data.labels)
    recipe = recipe.model_copy(update={"train": section})
    run_data_on(recipe.data.labels)
    prepared = prepare(recipe, listener.data_job(map_units))
    for line in describe(prepared, allotment, whole_recipe=False):
        listener.say(line)
    for warning in cluster_warnings(there, recipe, prepared.state_bytes):
        listener.say(f"note: {warning}")
    listener.say(f"measuring for about {CALM_S + 1.5 * seconds:.0f} s after the start of the workers")
    return estimate(prepared, allotment.data_cpus, seconds)
