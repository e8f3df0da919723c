"""`interlace dataset`: build one of the example data sets and say how to train on it."""

import difflib
from collections.abc import Callable
from pathlib import Path

from interlace.contract.errors import DataError
from interlace.jobs.console import say
from interlace.jobs.datasets import emoji, stamps, watch
from interlace.jobs.datasets.shards import BuildReport

RECIPES = Path(__file__).parent / "recipes"


def _emoji(out: Path, seed: int, source: Path | None) -> BuildReport:
    if source is not None:
        raise DataError(f"`--from` has no effect on `emoji`, which is made from installed packages, but is {source}")
    return emoji.build(out, seed)


BUILDERS: dict[str, Callable[[Path, int, Path | None], BuildReport]] = {
    "emoji": _emoji,
    "watch": watch.build,
    "stamps": stamps.build,
}
"""Name of a set -> its builder from folder, seed and source; `jobs/recipes/NAME.yaml` trains on it."""


def run_dataset(name: str, out: Path, seed: int, source: Path | None) -> None:
    """Build the set `name` in the folder `out`, and print what it holds and the command that trains on it.

    Raises:
        DataError: there is no such set, or what it is made from is missing.
    """
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise DataError(f"expected a data set ({', '.join(BUILDERS)}), but is {name!r}{hint}")
    report = BUILDERS[name](out, seed, source)
    say(str(report))
    if report.left_out:
        say("left out: " + ", ".join(f"{count} {reason}" for reason, count in report.left_out.items()))
    say(f"interlace train {RECIPES / name}.yaml --set data.root={out}")
