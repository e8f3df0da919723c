"""The trials of a population between two stops: who has to train still, and the exchange when all have come there.

    exchanges/002.json  step, values at it, and who goes on as a changed copy of whom (`pipeline/tune/exchange.py`)
    trials/007/trial.json  the settings now, and the number of the last exchange that the trial has gone through

A decision is written before it is carried out, and each trial's part of it is done in one step, so a search that was
killed at any point goes on as if it had not been.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interlace.recipe.recipe import Recipe
from interlace.train.checkpoint import newest_checkpoint
from interlace.tune.exchange import copies
from interlace.tune.folder import Goal, Sweep, read_json, write_json
from interlace.tune.search import Search


class Population:
    """The trials of a search between two stops; the folder of the search is its memory."""

    def __init__(self, sweep: Sweep, search: Search, recipe: Recipe, goal: Goal, steps: Sequence[int]) -> None:
        self._sweep, self._search, self._recipe, self._goal = sweep, search, recipe, goal
        self._steps = steps
        self._passed = 0

    @property
    def stop(self) -> int | None:
        """The step to which trials may train now; None for their end."""
        return self._steps[self._passed] if self._passed < len(self._steps) else None

    def advance(self, numbers: Sequence[int]) -> list[int]:
        """Those of the trials that have to train to the stop; once all stand there, to the next one.

        Called while no trial runs.
        """
        while True:
            living = [n for n in numbers if not _ended(self._sweep.trial(n))]
            left = [n for n in living if not self._is_there(n)]
            if left or self.stop is None:
                return left
            self._exchange(living)
            self._passed += 1

    def _is_there(self, number: int) -> bool:
        if read_json(self._sweep.trial(number) / "trial.json").get("exchange", 0) > self._passed:
            return True
        state = newest_checkpoint(self._sweep.trial(number)).state
        return state is not None and self.stop is not None and state.step >= self.stop

    def _exchange(self, living: Sequence[int]) -> None:
        """Decide once, then carry out; both may be begun again at any point."""
        number = self._passed + 1
        path = self._sweep.folder / "exchanges" / f"{number:03d}.json"
        decided = read_json(path)
        if not decided:
            reached = {n: (self._value(n), read_json(self._sweep.trial(n) / "trial.json")["overrides"]) for n in living}
            made = copies(self._search, self._recipe, self._goal, reached, number)
            listed = [{"number": c.number, "source": c.source, "overrides": dict(c.overrides)} for c in made]
            decided = {"step": self.stop, "values": {n: v for n, (v, _) in reached.items()}, "copies": listed}
            write_json(path, decided)
        taken = {c["number"]: c for c in decided["copies"]}
        for one in sorted(living, key=lambda n: n not in taken):  # copies first, while those they copy stand still
            self._pass(one, number, taken.get(one))

    def _pass(self, number: int, exchange: int, copy: Mapping[str, Any] | None) -> None:
        folder = self._sweep.trial(number)
        known = read_json(folder / "trial.json")
        if known.get("exchange", 0) >= exchange:
            return
        if copy is not None:
            source = newest_checkpoint(self._sweep.trial(copy["source"])).folder
            assert source is not None  # it stands at the stop
            draft = folder / "taken"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(source, draft / source.name)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            draft.replace(folder / "checkpoints")
            known["overrides"] = copy["overrides"]
        write_json(folder / "trial.json", {**known, "exchange": exchange})

    def _value(self, number: int) -> float:
        scores = self._sweep.read(number, self._goal).scores
        return next((s.value for s in scores if s.step == self.stop), math.nan)


def _ended(folder: Path) -> bool:
    return (folder / "result.json").exists()
