"""What a search gave: table of trials, importance of settings, plots, best recipe, one HTML page; files for all."""

import base64
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interlace.recipe.identity import to_yaml
from interlace.recipe.recipe import Recipe
from interlace.results.importance import Importance, importances
from interlace.results.inspection.html import STYLE, cell, head, plain, section, table, text
from interlace.results.search_figures import Drawn, curves_figure, label, parallel_figure, slices_figure
from interlace.tune.folder import Sweep, Trial, best_trial
from interlace.tune.plan import SweepPlan
from interlace.tune.suggest import overridden, short_names, values_of

PLOTS = {
    "curves": "Learning curves. Dashed lines are the rungs at which trials are judged.",
    "parallel": "Parallel coordinates: one line a trial, from its settings to its result.",
    "slices": "Slices: the result over each setting by itself.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A search as it stands.

    Args:
        trials: all that were suggested.
        best: the best so far.
        recipe: its recipe, ready to train.
        importance: of each searched setting, the greatest first.
        compared_at: share of a whole training at which trials are compared for it.
        metric: that trials are compared by.
        plan: of the search.
    """

    trials: Sequence[Trial]
    best: Trial | None
    recipe: Recipe | None
    importance: Sequence[Importance]
    compared_at: float
    metric: str
    plan: SweepPlan


def findings(sweep: Sweep, plan: SweepPlan, own: Recipe) -> Findings:
    """What the folder of a search says now.

    Args:
        sweep: open.
        plan: of the search.
        own: the recipe as the user gave it; the best recipe is made from it.
    """
    trials = sweep.trials(plan.goal)
    best = best_trial(trials, plan.goal)
    judged = plan.search.scheduler in ("asha", "median")
    share = plan.search.first_rung if judged else 1.0
    at = [(t, v) for t in trials if t.status != "failed" and (v := _value_at(t, share)) is not None]
    return Findings(
        trials=trials,
        best=best,
        recipe=overridden(own, best.overrides) if best is not None else None,
        importance=importances(
            [values_of(plan.search, plan.recipe, t.overrides) for t, _ in at], [value for _, value in at]
        ),
        compared_at=share,
        metric=plan.goal.metric,
        plan=plan,
    )


def _value_at(trial: Trial, share: float) -> float | None:
    """The first evaluation at a share of the length or after it."""
    return next((s.value for s in trial.scores if s.share >= share - 1e-9), None)


def write_report(found: Findings, sweep: Sweep, plan: SweepPlan, verified: str) -> None:
    """`trials.csv`, `importance.json`, `best.yaml`, the plots as PNG, and `sweep.html` with all of it."""
    folder = sweep.report
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(found, plan, folder / "trials.csv")
    shares = {i.path: {"explained": i.share, "spearman": i.rank_correlation} for i in found.importance}
    whole = {"method": "adjusted eta squared", "compared_at": found.compared_at, "settings": shares}
    (folder / "importance.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    if found.recipe is not None:
        (folder / "best.yaml").write_text(to_yaml(found.recipe), encoding="utf-8")
    _draw(found, plan, folder)
    (folder / "sweep.html").write_text(_page(found, sweep, plan, verified), encoding="utf-8")


def _draw(found: Findings, plan: SweepPlan, folder: Path) -> None:
    names = short_names(list(plan.search.space))
    drawn = []
    for trial in found.trials:
        values = values_of(plan.search, plan.recipe, trial.overrides)
        drawn.append(
            Drawn(
                number=trial.number,
                status=trial.status,
                settings={names[path]: value for path, value in values.items()},
                shares=[s.share for s in trial.scores],
                values=[s.value for s in trial.scores],
                result=trial.value(plan.goal),
            )
        )
    best = found.best.number if found.best is not None else None
    scales = {names[path]: space.logarithmic for path, space in plan.search.space.items()}
    curves_figure(drawn, best, rungs(plan), found.metric, folder / "curves.png")
    parallel_figure(drawn, scales, found.metric, folder / "parallel.png")
    slices_figure(drawn, scales, found.metric, folder / "slices.png")


def rungs(plan: SweepPlan) -> list[float]:
    """Shares of a whole training at which the scheduler decides."""
    if plan.search.scheduler in ("none", "pbt"):
        return []
    found = [plan.search.first_rung]
    if plan.search.scheduler == "median":
        return found
    while found[-1] * plan.search.reduction < 1 - 1e-9:
        found.append(found[-1] * plan.search.reduction)
    return found


def ranked(found: Findings, plan: SweepPlan) -> list[Trial]:
    """Finished trials first, then those that came furthest; the best first in each."""
    sign = -1 if plan.goal.mode == "max" else 1

    def place(trial: Trial) -> tuple[bool, float, float]:
        value = trial.value(plan.goal)
        share = trial.scores[-1].share if trial.scores else 0.0
        return value is None, -share, sign * (value or 0.0)

    return sorted(found.trials, key=place)


def cells(trial: Trial, plan: SweepPlan) -> list[str]:
    """A trial as texts: status, share of its length, result, the value of each searched setting."""
    value = trial.value(plan.goal)
    settings = values_of(plan.search, plan.recipe, trial.overrides).values()
    return [
        trial.status,
        f"{trial.scores[-1].share:.0%}" if trial.scores else "0%",
        "" if value is None else f"{value:.4f}",
        *("" if v is None else label(v) for v in settings),
    ]


def _write_csv(found: Findings, plan: SweepPlan, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "status", "reason", "step", "value", "cpu_s", "wall_s", *plan.search.space])
        for trial in found.trials:
            step = trial.scores[-1].step if trial.scores else 0
            values = values_of(plan.search, plan.recipe, trial.overrides).values()
            settings = ["" if v is None else label(v) for v in values]
            value, times = trial.value(plan.goal), [f"{trial.cpu_s:.1f}", f"{trial.wall_s:.1f}"]
            writer.writerow([trial.number, trial.status, trial.reason, step, value, *times, *settings])


def _page(found: Findings, sweep: Sweep, plan: SweepPlan, verified: str) -> str:
    names = short_names(list(plan.search.space))
    trials = table(
        head("trial", "status", "done", found.metric, *names.values(), numbers=False),
        [
            [cell(str(t.number), tag="th"), *(cell(text(c), "n" if i else "") for i, c in enumerate(cells(t, plan)))]
            for t in ranked(found, plan)
        ],
    )
    importance = table(
        head("setting", "explained", "rank correlation", "trials"),
        [
            [
                cell(text(i.path), tag="th"),
                cell(f"{i.share:.0%}", "n"),
                cell(_rho(i), "n"),
                cell(str(i.num_trials), "n"),
            ]
            for i in found.importance
        ],
    )
    best = f"<pre>{plain(to_yaml(found.recipe))}</pre>" if found.recipe is not None else ""
    plots = "".join(section(name, note, _picture(sweep.report / f"{name}.png")) for name, note in PLOTS.items())
    explained = (
        f"Share of the variance of {found.metric} after {found.compared_at:.0%} of a training that each setting"
        " explains by itself: adjusted eta squared over bins of equally many trials. Few trials say little."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{plain(sweep.name)}</title>'
        f"<style>{STYLE} .plot {{ width: 100%; height: auto; max-width: 1100px; border: 0; background: none;"
        f" image-rendering: auto; }} pre {{ font-size: 12px; }}</style><h1>{text(sweep.name)}</h1>"
        f"<p>{plain(_summary(found))} {plain(verified)}</p>"
        + section("Trials", "The best first; trials that came as far are compared with each other.", trials)
        + section("Importance", plain(explained), importance)
        + plots
        + section("Best recipe", "Ready for <code>interlace train</code>.", best)
        + "</html>"
    )


def _rho(item: Importance) -> str:
    return "" if item.rank_correlation is None else f"{item.rank_correlation:+.2f}"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="plot" alt="{path.stem}" src="data:image/png;base64,{data}">'


def _summary(found: Findings) -> str:
    statuses = ("finished", "stopped", "failed", "unfinished")
    counts = [f"{sum(t.status == s for t in found.trials)} {s}" for s in statuses]
    return f"{len(found.trials)} trials: {', '.join(counts)}."
