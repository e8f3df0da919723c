"""What a run will take, in plain numbers, before it starts: tokens, packs, steps, memory, CPUs."""

from collections.abc import Iterator

import numpy as np

from interlace.cluster.preflight import Allotment
from interlace.data.plan.plan import straggler_factor
from interlace.data.stream import inflight_bytes, tasks_within
from interlace.recipe.identity import to_yaml
from interlace.train.run import BYTES_PER_PARAMETER, Prepared

ACTIVATIONS_PER_TOKEN_AND_LAYER = 34
"""Bytes over `dim` kept for backward in 16-bit (Korthikanti et al. 2022, without the attention matrix)."""
INPUT_OF_A_LAYER = 4
"""Bytes over `dim` kept for each token and layer with `train.checkpoint_activations`: the input in fp32."""


def describe(prepared: Prepared, allotment: Allotment, *, whole_recipe: bool) -> Iterator[str]:
    """Lines for people; the whole recipe first where asked for."""
    if whole_recipe:
        yield to_yaml(prepared.recipe)
    yield from _data(prepared)
    yield from _packing(prepared)
    yield _reading(prepared)
    yield _memory(prepared)
    yield f"CPUs: {allotment.text}; {prepared.threads} threads a worker"


def _data(prepared: Prepared) -> Iterator[str]:
    for split, manifest in prepared.index.manifests.items():
        yield (
            f"{split}: {manifest.num_rows} records, {manifest.num_bad} bad, in {len(manifest.groups)} row groups,"
            f" manifest {manifest.digest[:12]}"
        )
        for bad in manifest.bad(3):
            yield f"  bad: {bad.shard} row {bad.row}: {bad.reason}"
    train = prepared.index.manifests["train"]
    for name, sums in train.groups.fields.items():
        present = int(sums.present.sum(dtype=np.int64))
        mean = f"mean {sums.tokens.sum() / present:.1f}, most {sums.largest.max()}" if present else "none"
        yield f"  {name}: {mean} tokens, missing in {train.missing_share(name):.1%} of the usable records"


def _packing(prepared: Prepared) -> Iterator[str]:
    batch, schedule, plan = prepared.recipe.batch, prepared.schedule, prepared.plan
    packs = schedule.packs_an_epoch
    yield (
        f"plan: {packs} packs of at most {batch.token_budget} tokens an epoch, {plan.fill(schedule):.1%} filled,"
        f" {plan.num_usable / packs:.1f} samples a pack, {len(schedule.counts[0])} windows"
    )
    if (slowest := straggler_factor(plan, schedule)) is not None:
        yield (
            f"work: the slowest of {batch.global_batch} packs of a step takes {slowest:.3f} times their mean, in FLOPs"
        )
    yield (
        f"run: {schedule.num_steps} steps of {batch.global_batch} packs"
        f" ({schedule.stop / max(packs, 1):.1f} epochs), evaluation every {prepared.eval_every} steps"
    )
    wanted = prepared.recipe.train.epochs
    if wanted is not None and schedule.stop > 1.1 * wanted * packs:
        yield (
            f"note: {wanted:g} epochs have {wanted * packs:.0f} packs, and a step takes {batch.global_batch}: lower"
            " `batch.global_batch` or `batch.token_budget`"
        )


def _reading(prepared: Prepared) -> str:
    data, window = prepared.recipe.data, prepared.window_bytes
    limit = inflight_bytes(data)
    tasks = tasks_within(limit, window)
    text = f"reading: windows of at most {window / 1e6:.1f} MB of records"
    if limit is None:
        return f"{text}, as many at once as there are CPUs for: no node that reads is up yet"
    known = "`data.inflight_mb`" if data.inflight_mb is not None else "a quarter of the memory of the nodes that read"
    text += f", {tasks} at once within {limit / 1e6:.0f} MB ({known}) where there are as many CPUs"
    return f"{text}; one alone is more: lower `data.window_packs`" if window > limit else text


def _memory(prepared: Prepared) -> str:
    recipe = prepared.recipe
    parameters = prepared.num_parameters
    layers = recipe.model.field_layers + recipe.model.joint_layers
    kept = INPUT_OF_A_LAYER if recipe.train.checkpoint_activations else ACTIVATIONS_PER_TOKEN_AND_LAYER
    activations = recipe.batch.token_budget * recipe.model.dim * layers * kept
    parts = recipe.num_shards
    split = f" / {parts} workers" if parts > 1 else ""
    return (
        f"memory a worker: {parameters:,} parameters x {BYTES_PER_PARAMETER} B{split} ="
        f" {parameters * BYTES_PER_PARAMETER / parts / 1e6:.1f} MB, activations about {activations / 1e6:.1f} MB"
    )
