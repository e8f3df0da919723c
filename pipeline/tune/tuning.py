"""A search of a recipe's settings to its end: from the section `search` to the best recipe and what mattered.

connect -> indexes -> arithmetic -> trials (Ray Tune) -> table, plots, best recipe, its checkpoint verified -> MLflow
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interlace.cluster.connect import connect
from interlace.cluster.preflight import Need, Slots, slots
from interlace.contract.errors import InterlaceError
from interlace.data.read.warm import Warmed, warm
from interlace.data.stream import map_units, run_data_on
from interlace.recipe.load import load_kept
from interlace.recipe.recipe import Recipe
from interlace.results.evaluate import evaluate_checkpoint
from interlace.results.listener import Listener
from interlace.results.training import CLOSE_TIMEOUT_S, Launch, cluster_warnings, train
from interlace.tracking import TrackingReport
from interlace.train.checkpoint import chosen_checkpoint
from interlace.train.placement import places
from interlace.tune.exchange import stops
from interlace.tune.folder import Sweep, open_sweep
from interlace.tune.plan import SweepPlan, prepare_sweep
from interlace.tune.report import Findings, findings, rungs, write_report
from interlace.tune.run import run_sweep
from interlace.tune.search import Search
from interlace.tune.suggest import sample, values_of
from interlace.tune.tracking import SweepTracker

AS_REPORTED = 1e-6
"""Most difference between a reported value and that of its checkpoint: the same packs, only sums in another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a search gave.

    Args:
        sweep: its folder.
        findings: what was found.
        verified: whether the best checkpoint is worth its value.
        tracking: MLflow's part.
        retrained: folder of the run that trained the best recipe at full length, if one did.
    """

    sweep: Path
    findings: Findings
    verified: bool
    tracking: TrackingReport
    retrained: Path | None = None


def tune(recipe: Recipe, search: Search, launch: Launch, listener: Listener, *, retrain: bool = False) -> Tuned | None:
    """Search to the end, or to the end of its time; None after a dry run.

    Args:
        recipe: that trials start from.
        search: its section `search`.
        launch: name of the search, cluster, `fresh`, `dry_run`.
        listener: is told of what happens.
        retrain: train the best recipe at full length afterwards, as `interlace train` does.

    Raises:
        InterlaceError, DoesNotFitError: the data, the metric, the cluster or the folder are not as needed.
            Or no trial has a result, or the metric is not a number in all of them.
        KeyboardInterrupt: somebody stopped it; the best so far was reported.
    """
    there = connect(launch.address)
    settings = recipe.train
    need = Need(
        workers=recipe.world_sizes[-1],
        cpus_per_worker=settings.cpus_per_worker,
        gpus_per_worker=settings.gpus_per_worker,
    )
    run_data_on(recipe.data.labels)
    fit = slots(need, places(settings.labels, recipe.data.labels, there), search.trials)
    plan = prepare_sweep(recipe, search, listener.data_job(map_units))
    for line in describe(plan, fit):
        listener.say(line)
    for warning in cluster_warnings(there, plan.recipe, plan.base.state_bytes):
        listener.say(f"note: {warning}")
    if launch.dry_run:
        for number in range(search.trials if search.searcher == "random" else 1):
            listener.say(_told(plan, number))
        return None
    listener.say(warmed(warm(plan.readers, listener.data_job(map_units))))
    data = {split: m.digest for split, m in plan.base.index.manifests.items()}
    with open_sweep(plan.recipe, search, data, launch.run_name, fresh=launch.fresh) as sweep:
        listener.say(f"search {sweep.name}{' (goes on)' if sweep.resumed else ''} in {sweep.folder}")
        tuned = _search(sweep, plan, fit.concurrent, recipe, listener)
    if retrain and tuned.findings.recipe is not None:
        listener.say("the best recipe, trained at full length")
        launch = Launch(run_name=f"{sweep.name}-best", address=launch.address)
        done = train(tuned.findings.recipe, launch, listener)
        return replace(tuned, retrained=done.run if done is not None else None)
    return tuned


def _search(sweep: Sweep, plan: SweepPlan, concurrent: int, own: Recipe, listener: Listener) -> Tuned:
    tracker = SweepTracker(sweep, plan, listener)
    status: Any = "FAILED"
    try:
        with listener.searching():
            ending = run_sweep(sweep, plan, concurrent, tracker)
        found = findings(sweep, plan, own)
        verified, said = verify_best(found, sweep, plan)
        listener.show(found)
        listener.say(said)
        write_report(found, sweep, plan, said)
        tracker.result(list(found.trials), found.best)
        whole = "FINISHED" if found.best is not None else "FAILED"
        status = {"complete": whole, "time": whole, "interrupted": "KILLED"}[ending]
    finally:
        report = tracker.close(status, CLOSE_TIMEOUT_S)
    best = f"best recipe {sweep.report / 'best.yaml'}\n" if found.recipe is not None else ""
    listener.say(f"{best}report {sweep.report / 'sweep.html'}\n{report}")
    if ending == "time":
        listener.say("the time is over; the same command goes on with the trials that have not ended")
    if ending == "interrupted":
        raise KeyboardInterrupt
    if found.best is None:
        raise InterlaceError(_nothing(found))
    return Tuned(sweep=sweep.folder, findings=found, verified=verified, tracking=report)


def _nothing(found: Findings) -> str:
    """Why a search has no result."""
    failed = [trial for trial in found.trials if trial.status == "failed"]
    told = f"no trial has a result in {found.metric}: {len(failed)} of {len(found.trials)} failed"
    return f"{told}, trial {failed[0].number} by: {failed[0].reason}" if failed else told


def verify_best(found: Findings, sweep: Sweep, plan: SweepPlan) -> tuple[bool, str]:
    """Evaluate the best trial's checkpoint again; whether it gives what was reported, and the sentence about it."""
    if found.best is None:
        return False, "No trial has a result yet."
    folder = sweep.trial(found.best.number)
    recipe = load_kept(folder / "recipe.yaml")
    checkpoint, _ = chosen_checkpoint(folder, recipe.train.model_from)
    step = int(checkpoint.name.removeprefix("step-"))
    reported = next((s.value for s in found.best.scores if s.step == step), math.nan)
    metrics = evaluate_checkpoint(recipe, checkpoint)
    again = metrics[plan.goal.metric]
    same = abs(again - reported) <= AS_REPORTED
    verdict = "as reported" if same else f"but {reported:.4f} was reported"
    if math.isnan(reported):
        verdict = f"at step {step}, where it was not evaluated before"
    name = f"Trial {found.best.number} is best: its checkpoint {checkpoint}"
    return same, f"{name} evaluated again gives {plan.goal.metric} {again:.4f}, {verdict}."


def describe(plan: SweepPlan, fit: Slots) -> Iterator[str]:
    """The arithmetic of a search, as lines for people."""
    search, base = plan.search, plan.base
    steps = base.schedule.num_steps
    better = "higher" if plan.goal.mode == "max" else "lower"
    counted = "last" if plan.goal.last else "best"
    yield f"search: {search.trials} trials over {len(search.space)} settings, {search.searcher}, seed {search.seed}"
    yield f"metric: {plan.goal.metric} on validation, {better} is better; a trial's {counted} evaluation counts"
    yield f"a trial: {steps} steps, evaluated every {base.eval_every} steps, {base.threads} threads"
    judged = rungs(plan)
    if search.scheduler == "pbt":
        at = ", ".join(map(str, stops(steps, base.eval_every, search.first_rung)))
        yield f"pbt: trials meet at the steps {at}; the worst quarter goes on as changed copies of the best"
    elif judged:
        evaluated = [math.ceil(round(share * steps, 6) / base.eval_every) * base.eval_every for share in judged]
        listed = ", ".join(f"{step} ({step / steps:.1%})" for step in evaluated)
        yield f"{search.scheduler}: trials are judged at the steps {listed}, evaluations from {judged[0]:.1%} on"
    if search.scheduler == "asha":
        kept = [search.trials / search.reduction**i for i in range(len(judged) + 1)]
        shares = [*judged, 1.0]
        whole = sum(n * (s - b) for n, s, b in zip(kept, shares, [0.0, *shares], strict=False))
        yield f"asha: about {whole:.1f} whole trainings instead of {search.trials}, more while few have been judged"
    yield f"CPUs: {fit.text}"


def warmed(found: Warmed) -> str:
    """What was decoded before the trials, as a line for people."""
    if not found.whole:
        return "cache: decoded values do not fit into `data.cache_gb`, so each trial decodes what others did too"
    if not found.records:
        return "cache: holds all decoded values"
    size = f"{found.num_bytes / 1e6:,.1f} MB in {found.seconds:.1f} s"
    return f"cache: {found.records:,} records decoded for all trials, {size}"


def _told(plan: SweepPlan, number: int) -> str:
    values = values_of(plan.search, plan.recipe, sample(plan.search, number))
    listed = "  ".join(f"{path}={value}" for path, value in values.items() if value is not None)
    return f"trial {number}{' (the recipe)' if number == 0 else ''}: {listed}"
