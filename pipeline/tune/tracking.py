"""What MLflow hears of a search: one parent run with its facts, one child a trial with the searched settings."""

from collections.abc import Mapping
from typing import Any

from interlace.recipe.plugins import package_of
from interlace.results.listener import Listener
from interlace.store.journal import Journal, journal_path
from interlace.tracking import Tracker, TrackingReport, context_tags, is_concluded, make_target
from interlace.tune.folder import Sweep, Trial, read_json
from interlace.tune.plan import SweepPlan
from interlace.tune.suggest import short_names, values_of

ENDS: Mapping[str, Any] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
"""MLflow's word for how a trial ended; the tag `trial.status` says more."""


class SweepTracker:
    """Listens to a search and says it to MLflow; nothing of it waits, fails, or runs in a trial."""

    def __init__(self, sweep: Sweep, plan: SweepPlan, listener: Listener) -> None:
        """Say the facts of the search.

        Args:
            sweep: open.
            plan: of the search.
            listener: hears of each sign of life of a trial, and how trials end.
        """
        self._sweep, self._plan = sweep, plan
        self._listener = listener
        self._short = short_names(list(plan.search.space))
        self._children: dict[int, Tracker] = {}
        self._parent = Tracker(sweep.folder, self._target(sweep.name, sweep.key, None))
        self._say_facts()
        for number in sweep.numbers():
            trial = sweep.read(number, plan.goal)
            if trial.ended and not is_concluded(sweep.trial(number)):  # the driver was killed before it could say so
                self.suggested(number, trial.overrides)
                self.ended(number)

    @property
    def parent(self) -> Tracker:
        """The parent run."""
        return self._parent

    def suggested(self, number: int, overrides: Mapping[str, Any]) -> None:
        """A trial is about to start or to go on."""
        self._listener.heard()
        if number in self._children:
            return
        target = self._target(f"{self._sweep.name}-{number:03d}", f"{self._sweep.key}-{number}", self._sweep.key)
        child = self._children[number] = Tracker(self._sweep.trial(number), target, self._parent)
        child.params({"trial": number, **self._params(overrides)})

    def evaluated(self, number: int) -> None:
        """The trial's journal says it."""
        self._listener.heard()

    def ended(self, number: int) -> None:
        """A trial has come to its end."""
        self._listener.heard()
        trial = self._sweep.read(number, self._plan.goal)
        if number not in self._children:
            return
        child = self._children.pop(number)
        child.tags(self._exchanges(number))
        child.tags({"trial.status": trial.status} | ({"trial.reason": trial.reason} if trial.reason else {}))
        child.status(ENDS[trial.status])
        child.retire()
        value = trial.value(self._plan.goal)
        shown = f"{value:.4f}" if value is not None else "nothing"
        at = f" after {trial.scores[-1].share:.0%}" if trial.scores else ""
        why = f" ({trial.reason})" if trial.status == "failed" else ""
        self._listener.say(f"trial {number} {trial.status}{at}: {self._plan.goal.metric} {shown}{why}")

    def _exchanges(self, number: int) -> dict[str, str]:
        """What a trial took over from others; MLflow keeps its first settings as params."""
        found = {}
        for path in sorted((self._sweep.folder / "exchanges").glob("*.json")):
            exchange = read_json(path)
            for copy in exchange["copies"]:
                if copy["number"] == number:
                    settings = ", ".join(f"{k} {v}" for k, v in self._params(copy["overrides"]).items())
                    found[f"exchange.{path.stem}"] = f"step {exchange['step']}: copy of {copy['source']}, {settings}"
        return found

    def result(self, trials: list[Trial], best: Trial | None) -> None:
        """Facts of the end, as metrics and tags of the parent."""
        counts = {f"trials/{s}": float(sum(t.status == s for t in trials)) for s in ("finished", "stopped", "failed")}
        journal = Journal(journal_path(self._sweep.folder))
        value = best.value(self._plan.goal) if best is not None else None
        journal.log(sum(t.ended for t in trials), counts | ({"best/value": value} if value is not None else {}))
        journal.close()
        if best is not None:
            self._parent.tags({"best.trial": str(best.number), "best.run": f"{self._sweep.name}-{best.number:03d}"})
        self._parent.artifact(self._sweep.report)

    def close(self, status: Any, timeout_s: float) -> TrackingReport:
        """End the parent run, and wait so long for what is not shipped yet."""
        for child in self._children.values():
            child.status("KILLED")
            child.retire()
        self._parent.status(status)
        return self._parent.close(timeout_s)

    def _params(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        values = values_of(self._plan.search, self._plan.recipe, overrides)
        return {self._short[path]: value for path, value in values.items() if value is not None}

    def _target(self, name: str, key: str, parent: str | None) -> Any:
        tracking = self._plan.recipe.tracking
        storage = self._sweep.folder.parent.parent
        return make_target(
            uri=tracking.uri,
            storage=storage,
            experiment=tracking.experiment,
            run_name=name,
            run_key=key,
            parent_key=parent,
        )

    def _say_facts(self) -> None:
        search, goal, base = self._plan.search, self._plan.goal, self._plan.base
        facts: dict[str, Any] = {"metric": goal.metric, "mode": goal.mode, "scheduler": search.scheduler}
        facts |= {"searcher": search.searcher, "trials": search.trials, "seed": search.seed}
        for path, space in search.space.items():
            facts[f"space.{self._short[path]}"] = space.model_dump(exclude_none=True, exclude_defaults=True)
        self._parent.params(facts)
        train = base.index.manifests["train"]
        self._parent.tags(context_tags(base.recipe, data_digest=train.digest, world_size=base.recipe.world_sizes[-1]))
        if (package := package_of("searchers", search.searcher)) is not None:
            self._parent.tags({"searcher": package})
        for split, manifest in base.index.manifests.items():
            self._parent.dataset(
                f"{base.recipe.name}-{split}",
                manifest.digest,
                source=base.recipe.data.root,
                context=split,
                profile={"rows": manifest.num_rows, "bad": manifest.num_bad},
            )
        for name in ("recipe.yaml", "search.yaml"):
            self._parent.artifact(self._sweep.folder / name)
