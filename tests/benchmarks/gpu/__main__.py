"""Does it train right and fast on a GPU? `python -m tests.benchmarks.gpu VERB`.

    gather FOLDER   write a kit: wheels, sources and packs, for a machine with Python 3.12 and PyTorch and no network
    run             run it here, on the GPU, or as a rehearsal on a CPU

`FOLDER/run.py` of a gathered kit unpacks it and does `run` with the same words, where it was carried to.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.benchmarks.gpu import mix
from tests.benchmarks.gpu.kit import BUDGETS_S, CORRECTNESS, SECONDS, TINY, Order, part, prepare, run
from tests.benchmarks.gpu.paper import arithmetic
from tests.benchmarks.gpu.results import TABLE, table


def main(words: Sequence[str] | None = None) -> None:
    """Do what the words say."""
    given = parser().parse_args(words)
    if given.verb == "gather":
        from tests.benchmarks.gpu.gather import gather  # needs the data arm

        gather(given.folder)
    elif given.verb == "part":
        order = Order(
            packs=given.packs, out=given.lines.parent, device=given.device, rehearsal=given.rehearsal, parts=(),
            seconds=given.seconds,
        )  # fmt: skip
        part(given.name, given.seconds, order, given.lines)
    elif given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU; `--device cpu --rehearsal` rehearses on a CPU")
    else:
        with tempfile.TemporaryDirectory() as folder:
            _run(given, Path(folder))


def _run(given: argparse.Namespace, folder: Path) -> None:
    packs: Path | None = given.packs
    sizes = [name for name in given.parts if name != CORRECTNESS]
    if packs is None:
        packs = folder
        prepare(folder, given.parts, tiny=given.rehearsal)
        if given.rehearsal and given.arithmetic:
            prepare(folder, sizes, tiny=False)
    if given.rehearsal and given.arithmetic:
        lines = arithmetic([mix.read(packs, name) for name in sizes])
        _say("What the kit should take on an H200, in seconds, on paper:", "", *_tables(lines))
    run(
        Order(
            packs=packs, out=given.out, device=given.device, rehearsal=given.rehearsal, parts=given.parts,
            seconds=given.seconds,
        )
    )  # fmt: skip
    _say((given.out / TABLE).read_text(encoding="utf-8"))


def _tables(lines: Sequence[dict[str, object]]) -> list[str]:
    return [row for names in dict.fromkeys(map(tuple, lines)) for row in table([x for x in lines if tuple(x) == names])]


def _say(*lines: str) -> None:
    print("\n".join(lines), flush=True)  # noqa: T201


def parser() -> argparse.ArgumentParser:
    """The verbs and their words."""
    made = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__.partition("\n")[0])
    verbs = made.add_subparsers(dest="verb", required=True)
    gathering = verbs.add_parser("gather", help="write a kit into a folder")
    gathering.add_argument("folder", type=Path)
    running = verbs.add_parser("run", help="run the kit here")
    running.add_argument("--out", type=Path, required=True, help="folder that takes results")
    running.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    running.add_argument("--parts", nargs="+", choices=BUDGETS_S, default=list(BUDGETS_S))
    running.add_argument("--no-arithmetic", dest="arithmetic", action="store_false", help="of a rehearsal")
    one = verbs.add_parser("part", help="run one part here, for `run`")
    one.add_argument("name", choices=BUDGETS_S)
    one.add_argument("seconds", type=float)
    one.add_argument("--lines", type=Path, required=True)
    for verb in (running, one):
        verb.add_argument(
            "--packs", type=Path, required=verb is one, help="what a gathered kit trains on; else written"
        )
        verb.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
        verb.add_argument("--rehearsal", action="store_true", help=f"tiny models and few steps (packs in `{TINY}`)")
    return made


if __name__ == "__main__":
    main()
