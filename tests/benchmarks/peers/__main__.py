"""Data pipelines side by side: `python -m tests.benchmarks.peers run` and `... grow`.

`run` gives every peer the same JPEGs (workload `pictures`) and the same JPEGs with a text and three numbers (`mixed`),
to be decoded, shrunk, tokenized and batched by the same functions (`work`), each peer in an environment of its own, and
Interlace in process and under Ray. Peers take turns, repetition after repetition, and a loop of the decoders over bytes
in memory, the raw limit, is measured before and after each. It prints for each

    CPU      seconds of all its processes for 1,000 samples, over a whole pass in the middle of three
    ratio    of that to the raw limit right before and after
    first    seconds from the start of the process to its first batch, from files prepared before
    memory   the most that its processes held together, shared pages counted once
    resume   seconds from the start of a new process to the next batch after the state saved at 50 %, and whether the
             samples are those that came without the stop

`grow` measures peak memory of Interlace with more and more data. A peer that can't run is left out, and why is printed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.peers.compare import compare
from tests.benchmarks.peers.environments import CONTESTANTS
from tests.benchmarks.peers.grow import grow
from tests.benchmarks.peers.material import SIDES, make
from tests.benchmarks.peers.table import table_of
from tests.benchmarks.peers.work import COLUMNS


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__.split("\n", 1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    names = [c.name for c in CONTESTANTS]
    for verb in ("run", "grow"):
        one = verbs.add_parser(verb)
        one.add_argument("--cache", type=Path, default=Path("out/peers"), help="folder of samples and environments")
        one.add_argument("--samples", type=int, default=50_000, help="in a pass; of `grow`: in the smallest set")
        one.add_argument("--sides", type=int, nargs=2, default=SIDES, help="pixels of the smallest and largest picture")
        one.add_argument("--batch", type=int, default=64, help="samples in a batch")
        one.add_argument("--only", nargs="+", choices=names, default=names, help="contestants")
    run, growth = verbs.choices["run"], verbs.choices["grow"]
    run.add_argument("--workloads", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    run.add_argument("--repetitions", type=int, default=3)
    run.add_argument("--no-resume", action="store_true", help="leave out going on at 50 %%")
    growth.set_defaults(samples=20_000, only=["interlace", "interlace-ray"])
    growth.add_argument("--times", type=int, nargs="+", default=[1, 10, 100])
    return parser.parse_args(words)


def main() -> None:
    """Measure and print."""
    given = arguments_of(sys.argv[1:])
    given.cache = given.cache.resolve()
    contestants = [c for c in CONTESTANTS if c.name in given.only]
    if given.verb == "grow":
        grow(given, contestants)
        return
    folder = make(given.cache, given.samples, tuple(given.sides))
    for workload in given.workloads:
        found, left_out = compare(given, contestants, workload, folder)
        title = f"{workload}: {given.samples:,} samples, {given.sides[0]}-{given.sides[1]} px, batches of {given.batch}"
        sys.stdout.write(f"\n{title}, repetitions: {given.repetitions}\n\n{table_of(found)}\n")
        sys.stdout.writelines(f"left out: {name}: {reason}\n" for name, reason in left_out.items())
        sys.stdout.flush()


if __name__ == "__main__":
    main()
