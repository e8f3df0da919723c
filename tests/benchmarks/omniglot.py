"""Characters as pictures and as strokes: fused against each field alone, each in the same CPU time, on unseen drawers.

`python -m tests.benchmarks.omniglot [characters | alphabets] [seconds] [seed] [fusion ...]` trains the fusions named
(the recipe's own where none is) and each field alone, prints their accuracy, and exits 1 where no fusion is above the
best single field.
"""

import sys
import tempfile
from pathlib import Path

import torch

from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe
from tests.realdata import omniglot
from tests.training import DATA, FULL_RECIPES, changed, lasting, only, train

SECONDS = 60.0


def measure(label: str, recipe: Recipe, seconds: float) -> float:
    """Train for a time and print accuracy for every subset of fields; that of all of them."""
    trained = train(lasting(recipe, seconds, spare=0.0))
    found = trained.accuracies()
    subsets = "  ".join(f"{'+'.join(names)} {value:.1f}" for names, value in found.items())
    print(f"{label:24s} {trained.steps:5d} steps {trained.train_s:4.0f} CPU s   {subsets}", flush=True)  # noqa: T201
    return found[tuple(recipe.fields)]


def main() -> int:
    """1 where the best fusion is not above the best single field."""
    what, seconds, seed, *fusions = [*sys.argv[1:], *("characters", str(SECONDS), "0")[len(sys.argv) - 1 :]]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        omniglot(DATA, Path(folder) / "data")
        places = [f"data.root={folder}/data", f"storage={folder}/storage", "data.cache_gb=2", f"seed={seed}"]
        recipe = load_recipe(FULL_RECIPES / f"omniglot_{what}.yaml", places)
        single = max(measure(f"{n} alone", only(recipe, n), float(seconds)) for n in recipe.fields)
        names = fusions or [recipe.model.fusion]
        fused = max(measure(n, changed(recipe, f"model.fusion={n}"), float(seconds)) for n in names)
    verdict = "holds" if fused > single else "FAILS"
    print(f"best fusion {fused:.1f}, best field alone {single:.1f}: {verdict}")  # noqa: T201
    return int(fused <= single)


if __name__ == "__main__":
    sys.exit(main())
