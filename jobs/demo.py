"""`interlace demo`: a real data set from installed packages, the shipped recipe, and what fusion gains."""

from pathlib import Path

from interlace.jobs.console import say
from interlace.jobs.datasets.emoji import build
from interlace.jobs.start import connect_early
from interlace.recipe.given import changes_of
from interlace.recipe.load import load_recipe

RECIPE = Path(__file__).parent / "recipes" / "emoji.yaml"


def run_demo(data: Path, overrides: list[str], storage: Path | None, *, fresh: bool) -> None:
    """Build the emoji set in `data`, train `jobs/recipes/emoji.yaml` on it, print the accuracy by fields."""
    recipe = load_recipe(RECIPE, changes_of(overrides, {"data.root": data, "storage": storage}))
    connect_early()
    say(str(build(data)))
    from interlace.jobs.listener import Shown  # these import torch, which has come in the meantime
    from interlace.results.training import Launch, train

    outcome = train(recipe, Launch(fresh=fresh), Shown())
    assert outcome is not None
    whole, *rest = outcome.evaluation.results
    metric = next(k for k in whole.metrics if k.endswith("/accuracy"))
    single = {r.fields[0]: r.metrics[metric] for r in rest if len(r.fields) == 1}
    best = max(single, key=lambda name: single[name])
    say(
        f"accuracy on held-out emoji: all fields {whole.metrics[metric]:.1%};"
        + "".join(f" {name} alone {value:.1%};" for name, value in single.items())
        + f" fusion gains {100 * (whole.metrics[metric] - single[best]):.1f} points over {best}"
    )
