"""The searcher `tpe`: Optuna's tree-structured Parzen estimator (Bergstra et al. 2011). The home of optuna.

A study is made anew for each suggestion from the trials of the sweep's folder, so nothing but that folder is kept.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interlace.contract.errors import InterlaceError
from interlace.recipe.recipe import Recipe
from interlace.tune.folder import Goal, Trial
from interlace.tune.search import Search, Space
from interlace.tune.suggest import active, values_of

if TYPE_CHECKING:
    import optuna


def require_optuna() -> None:
    """Raises InterlaceError where the extra is not installed."""
    try:
        import optuna  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise InterlaceError(
            "search.searcher: `tpe` needs the extra `optuna` (pip install 'interlace[optuna]'), or use `random`"
        ) from error


def suggest(search: Search, recipe: Recipe, trials: Sequence[Trial], goal: Goal, number: int) -> dict[str, Any]:
    """The overrides of a trial, given the trials so far; those that were stopped count as pruned at their last step."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if number == 0:
        return {}
    sampler = optuna.samplers.TPESampler(seed=(search.seed * 1_000_003 + number) % 2**32, n_startup_trials=8)
    study = optuna.create_study(sampler=sampler, direction="maximize" if goal.mode == "max" else "minimize")
    for trial in trials:
        if (known := _known(search, recipe, trial, goal)) is not None:
            study.add_trial(known)
    asked = study.ask()
    drawn = {path: _draw(asked, path, space) for path, space in search.space.items()}
    return active(search, drawn)


def _known(search: Search, recipe: Recipe, trial: Trial, goal: Goal) -> "optuna.trial.FrozenTrial | None":
    import optuna

    value = trial.value(goal)
    if value is None:
        return None
    values = values_of(search, recipe, trial.overrides)
    inside = {path: v for path, v in values.items() if v is not None and _fits(search.space[path], v)}
    finished = trial.status == "finished"
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if finished else optuna.trial.TrialState.PRUNED,
        params={p: _listed(search.space[p], v) for p, v in inside.items()},
        distributions={p: _distribution(search.space[p]) for p in inside},
        value=value if finished else None,
        intermediate_values={s.step: s.value for s in trial.scores},
    )


def _distribution(space: Space) -> "optuna.distributions.BaseDistribution":
    import optuna

    if space.choice is not None:
        return optuna.distributions.CategoricalDistribution(list(range(len(space.choice))))
    low, high = space.bounds
    if space.whole:
        return optuna.distributions.IntDistribution(int(low), int(high), log=space.logarithmic)
    return optuna.distributions.FloatDistribution(low, high, log=space.logarithmic)


def _draw(asked: "optuna.Trial", path: str, space: Space) -> Any:
    if space.choice is not None:
        return space.choice[asked.suggest_categorical(path, list(range(len(space.choice))))]
    low, high = space.bounds
    if space.whole:
        return asked.suggest_int(path, int(low), int(high), log=space.logarithmic)
    return min(max(float(f"{asked.suggest_float(path, low, high, log=space.logarithmic):.4g}"), low), high)


def _fits(space: Space, value: Any) -> bool:
    """Whether a value (the recipe's own may lie outside) is in the space."""
    if space.choice is not None:
        return value in space.choice
    low, high = space.bounds
    return bool(low <= value <= high)


def _listed(space: Space, value: Any) -> Any:
    return space.choice.index(value) if space.choice is not None else value
