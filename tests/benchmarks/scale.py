"""Does it scale? `python -m tests.benchmarks.scale VERB`: synthetic indexes of 10^4 to 10^9 rows, nothing trained.

    index      write an index, or its table of row groups alone
    plan       memory and seconds of a driver and of a data task over an index
    stream     the control path under Ray Data: seconds to the first pack, cost of simulated ranks
    straggler  fill, and the slowest rank over the mean, for 1 to 4,096 ranks

Every verb prints a table, and writes its figures as JSON where `--json FILE` is given.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.synthetic.index import IndexSize, write_index, write_table
from tests.benchmarks.synthetic.memory import memory
from tests.benchmarks.synthetic.planning import in_fresh_process, plan_figures, task_figures
from tests.benchmarks.synthetic.shapes import MODELS, SHAPES
from tests.benchmarks.synthetic.stragglers import real_plans, straggling, synthetic_plan
from tests.realdata import SETS

console = Console(highlight=False, width=180)
Line = dict[str, float | str]
FOLDER = os.environ.get("INTERLACE_TEST_DATA")


def index(given: argparse.Namespace) -> list[Line]:
    """Write an index."""
    size = IndexSize(rows=given.rows, groups=given.groups, fields=given.fields, shape=given.shape)
    given.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if given.table_only:
        write_table(given.folder, size)
    else:
        write_index(given.folder, size, given.processes)
    seconds = time.perf_counter() - began
    disk_mb = sum(f.stat().st_size for f in given.folder.rglob("*") if f.is_file()) / 1e6
    own: Line = {"rows": size.rows, "groups": size.groups, "disk_mb": disk_mb, "s": seconds}
    return [own | {"peak_mb": memory()["peak"]}]


def plan(given: argparse.Namespace) -> Iterator[Line]:
    """A driver, and a data task where there are parts."""
    parts = (given.folder / "parts").exists()
    lines: list[Line] = [
        {"process": "driver"} | in_fresh_process(plan_figures, given.folder, given.ranks, given.epochs, parts)
    ]
    if parts:
        lines.append({"process": "data task"} | in_fresh_process(task_figures, given.folder, given.ranks, given.epochs))
    return lines


def stream(given: argparse.Namespace) -> Iterator[Line]:
    """First packs of each index, then ranks on the last."""
    from interlace.cluster.connect import connect  # other verbs do without Ray
    from tests.benchmarks.synthetic.streams import first_pack, simulated

    connect(local_cpus=given.cpus)
    for folder in (given.folders[0], *given.folders):  # the first time, data tasks are started
        for at in given.at:
            yield {"what": "first pack"} | first_pack(folder, 64, given.epochs, at)
    for ranks in given.ranks:
        yield {"what": "ranks"} | simulated(given.folders[-1], ranks, given.packs)


def straggler(given: argparse.Namespace) -> Iterator[Line]:
    """Mixes, then real sets where their folder is named."""
    for model in given.models:
        for ranks in given.ranks:
            made = synthetic_plan(given.shape, model, given.rows, ranks)
            yield {"set": f"{given.shape}, {model}", "ranks": ranks} | straggling(made, ranks)
    for name in given.sets if given.data else ():
        for ranks, made in real_plans(given.data, name, given.ranks):
            yield {"set": name, "ranks": ranks} | straggling(made, ranks)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__.partition("\n")[0])
    verbs = made.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], Iterable[Line]]) -> argparse.ArgumentParser:
        own = verbs.add_parser(name)
        own.set_defaults(run=run)
        own.add_argument("--json", type=Path, help="file that takes the figures")
        return own

    own = verb("index", index)
    own.add_argument("folder", type=Path)
    own.add_argument("--rows", type=int, default=10_000)
    own.add_argument("--groups", type=int, default=10)
    own.add_argument("--fields", type=int, default=5)
    own.add_argument("--shape", choices=SHAPES, default="mixed")
    own.add_argument("--processes", type=int, default=1)
    own.add_argument("--table-only", action="store_true", help="no parts: what a plan needs, and no more")
    own = verb("plan", plan)
    own.add_argument("folder", type=Path)
    own.add_argument("--ranks", type=int, default=256)
    own.add_argument("--epochs", type=int, default=10)
    own = verb("stream", stream)
    own.add_argument("folders", type=Path, nargs="+")
    own.add_argument("--epochs", type=int, default=10)
    own.add_argument("--at", type=float, nargs="*", default=[0.0], help="shares of the run to start at")
    own.add_argument("--ranks", type=int, nargs="*", default=[4, 16, 64])
    own.add_argument("--packs", type=int, default=1920, help="that the ranks take together")
    own.add_argument("--cpus", type=int, default=2)
    own = verb("straggler", straggler)
    own.add_argument("--rows", type=int, default=1_200_000)
    own.add_argument("--shape", choices=SHAPES, default="mixed")
    own.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    own.add_argument("--ranks", nargs="+", type=int, default=[1, 4, 16, 64, 256, 1024, 4096])
    own.add_argument("--data", type=Path, default=FOLDER, help="folder of real sets")
    own.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    return made


def show(lines: Sequence[Line]) -> None:
    """Print lines of the same figures as a table; one alone upright."""
    for names, alike in groupby(lines, key=tuple):
        own = list(alike)
        if len(own) == 1:
            own, names = [{"figure": name, "value": value} for name, value in own[0].items()], ("figure", "value")
        table = Table(*names, box=None)
        for line in own:
            table.add_row(*map(said, line.values()))
        console.print(table)


def said(value: float | str) -> str:
    """A figure as a person reads it."""
    if isinstance(value, str):
        return value
    return f"{value:,.4f}" if isinstance(value, float) and value < 10 else f"{value:,.0f}"


def main(words: Sequence[str] | None = None) -> list[Line]:
    """Run a verb; its figures."""
    given = parser().parse_args(words)
    lines = list(given.run(given))
    show(lines)
    if given.json:
        given.json.write_text(json.dumps(lines, indent=1), encoding="utf-8")
    return lines


if __name__ == "__main__":
    main()
