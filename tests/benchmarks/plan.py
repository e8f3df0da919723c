"""Is the plan right? `python -m tests.benchmarks.plan FOLDER RECIPE...`: prediction and run of each recipe.

FOLDER holds a data set a recipe, named as the recipe file is (`interlace dataset emoji FOLDER/emoji`). Each recipe is
planned by `interlace plan` and then trained whole by `interlace train`, on this machine, one after the other; samples a
second of the run are those of all its steps. Exits 1 where a prediction is off by more than 15 %.
"""

import re
import subprocess
import sys
from pathlib import Path

from interlace.store.journal import journal_path, read

OFF = 0.15
NUMBER = re.compile(r"expected: ([0-9.]+) samples/s")


def interlace(*words: str) -> str:
    """Run a command; what it printed."""
    done = subprocess.run([sys.executable, "-m", "interlace.jobs", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Print a line a recipe."""
    folder, wrong = Path(sys.argv[1]), False
    for name in sys.argv[2:]:
        recipe = Path(name)
        root = folder / recipe.stem
        own = [str(recipe), "--set", f"data.root={root}", "--storage", str(folder / "out")]
        match = NUMBER.search(interlace("plan", *own, "--seconds", "20"))
        assert match is not None
        expected = float(match[1])
        interlace("train", *own, "--run-name", f"{recipe.stem}-planned", "--fresh")
        run = max((folder / "out" / "runs").glob(f"{recipe.stem}-planned*"), key=lambda p: p.stat().st_mtime)
        points = [p.metrics for p in read(journal_path(run), 0, 1 << 30)[0] if "step_s" in p.metrics]
        seconds = sum(m["step_s"] for m in points)
        measured = sum(m["samples_per_s"] * m["step_s"] for m in points) / seconds
        off = expected / measured - 1
        wrong |= abs(off) > OFF
        figures = f"expected {expected:.1f} samples/s, measured {measured:.1f} over {len(points)} steps"
        sys.stdout.write(f"{recipe.stem}: {figures}: {off:+.1%}\n")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
