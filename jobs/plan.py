"""`interlace plan`: what a recipe takes on this cluster, measured in the first seconds of the run itself."""

from collections.abc import Iterator

from interlace.jobs.console import say
from interlace.jobs.listener import Shown
from interlace.recipe.recipe import Recipe
from interlace.results.planning import measure_plan
from interlace.train.estimate import Estimate

CHECKPOINT_SHARE = 0.01
"""A checkpoint interval is advised at which writing takes at most this share of the time."""

WRITE_BYTES_PER_S = 200e6
"""What a disk or a network file system writes, for the advice on checkpoints."""


def run_plan(recipe: Recipe, address: str | None, seconds: float, price: float | None) -> Estimate:
    """Measure, then print what the run needs; `price` is that of the whole cluster for an hour."""
    found = measure_plan(recipe, address, seconds, Shown())
    for line in tell(found, price):
        say(line)
    return found


def tell(found: Estimate, price: float | None = None) -> Iterator[str]:
    """The estimate in sentences."""
    one = found.measured
    yield (
        f"measured over {one.steps} steps of {one.samples:.1f} samples on {one.workers} workers: a step takes"
        f" {one.alone_s * 1e3:.0f} ms alone and {one.busy_s * 1e3:.0f} ms beside data tasks; its packs cost them"
        f" {one.read_s * 1e3:.0f} ms of CPU ({one.read_s / one.samples * 1e3:.2f} ms a sample)"
    )
    if found.data_binds:
        yield (
            f"reading and decoding binds: {found.data_cpus:g} CPUs make a step's packs in"
            f" {found.read_wall_s * 1e3:.0f} ms; {found.needed_cpus} CPUs for data tasks would keep the workers busy"
        )
    else:
        yield f"training binds: {found.needed_cpus} of {found.data_cpus:g} CPUs for data tasks keep the workers busy"
    yield (
        f"expected: {found.samples_per_s:.1f} samples/s over the whole run, {one.samples / found.step_s:.1f} once packs"
        f" flow (the first took {one.start_s:.1f} s), {found.num_steps / found.total_s:.2f} steps/s with evaluations"
    )
    hours = found.total_s / 3600
    cost = f", {hours * price:.2f} at {price:g} an hour" if price is not None else ""
    yield (
        f"expected time once the workers are ready: {_duration(found.total_s)} for {found.num_steps} steps, of it"
        f" {_duration(found.evaluation_s)} for {found.evaluations} evaluations{cost}"
    )
    write_s = one.checkpoint_bytes / WRITE_BYTES_PER_S
    yield (
        f"object store: {one.pack_bytes / 1e6:.2f} MB a pack; checkpoint {one.checkpoint_bytes / 1e6:.1f} MB: at most"
        f" every {max(1.0, write_s / CHECKPOINT_SHARE):.0f} s (`train.checkpoint_every_s`) to write for less than"
        f" {CHECKPOINT_SHARE:.0%} of the time at {WRITE_BYTES_PER_S / 1e6:.0f} MB/s"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
