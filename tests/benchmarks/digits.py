"""Digits written, spoken and drawn, trained as `tests/recipes/full/digits.yaml` says, on a speaker who was not heard.

`python -m tests.benchmarks.digits [seed]` builds the set, trains on one thread, and prints accuracy for every subset of
the fields, then with noise on pictures and pens, as strong as leaves about 60 % of each alone. Exits 1 where a line of
`LINES` does not hold.
"""

import io
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from pipeline.data.index import build_index
from pipeline.recipe import Recipe, load_recipe
from tests.benchmarks.training import CPU_S, DATA, RECIPES, Trained, accuracies, changed, train
from tests.realdata import GROUP_ROWS, pair_digits

REPEATS = 3
WANTED, HALVINGS = 60.0, 7
MOST = {"picture": 400.0, "pen": 100.0}
"""Deviation of the strongest noise tried: of pixels 0..255, of positions 0..100."""

LEAST_GAIN = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What must hold: `what` is `found`, at least `least` (at most, for seconds)."""

    what: str
    found: float
    least: float
    most: bool = False

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.found <= self.least if self.most else self.found >= self.least


def lines_of(found: Mapping[tuple[str, ...], float]) -> list[Line]:
    """The lines on clean values."""
    single = {"picture": 95.0, "pen": 97.0, "voice": 62.0}
    least = {3: 99.3, 2: 96.5}
    return [
        Line(what=" + ".join(names), found=value, least=single[names[0]] if len(names) == 1 else least[len(names)])
        for names, value in found.items()
    ]


def write_noisy(folder: Path, name: str, deviations: Mapping[str, float]) -> None:
    """The validation rows with normal noise on pixels (cut to 0..255) and on positions of the pen."""
    table = pq.read_table(folder / "validation-0.parquet")
    rng = np.random.default_rng(0)
    images, positions = [], {"x": [], "y": []}
    for row in table.select(["image", "x", "y"]).to_pylist():
        pixels = np.asarray(Image.open(io.BytesIO(row["image"])).convert("L"))
        noisy = pixels + rng.standard_normal(pixels.shape) * deviations["picture"]
        file = io.BytesIO()
        Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
        for column, values in positions.items():
            values.append(np.array(row[column]) + rng.standard_normal(len(row[column])) * deviations["pen"])
    columns = {"image": pa.array(images, pa.binary())}
    columns |= {c: pa.array([v.tolist() for v in values]) for c, values in positions.items()}
    for column, values in columns.items():
        table = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(table, folder / f"{name}-0.parquet", row_group_size=GROUP_ROWS)


def noisy_accuracies(trained: Trained, deviations: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Accuracy for each subset of fields under noise."""
    name = "noisy-" + "-".join(f"{d:.3f}" for d in deviations.values())
    write_noisy(Path(trained.recipe.data.root), name, deviations)
    recipe = changed(trained.recipe, f"data.validation.paths=[{name}-*.parquet]")
    return accuracies(recipe, build_index(recipe), trained.network)


def find_noise(trained: Trained) -> dict[str, float]:
    """The deviations at which pictures and pens alone are right in about 60 %, by halving both intervals at a time."""
    low, high = dict.fromkeys(MOST, 0.0), dict(MOST)
    for _ in range(HALVINGS):
        middle = {n: (low[n] + high[n]) / 2 for n in MOST}
        found = noisy_accuracies(trained, middle)
        for name, deviation in middle.items():
            (low if found[(name,)] > WANTED else high)[name] = deviation
    return {n: (low[n] + high[n]) / 2 for n in MOST}


def recipe_in(folder: Path, seed: int) -> Recipe:
    """The recipe over the set built here."""
    pair_digits(DATA, folder / "data", repeats=REPEATS)
    places = [f"data.root={folder / 'data'}", f"storage={folder / 'storage'}", "data.cache_gb=2", f"seed={seed}"]
    return load_recipe(RECIPES / "digits.yaml", places)


def run(folder: Path, seed: int) -> list[Line]:
    """Train, measure, and say which lines hold."""
    trained = train(recipe_in(folder, seed))
    lines = [Line(what="CPU seconds of training", found=trained.cpu_s, least=CPU_S, most=True)]
    lines += lines_of(trained.accuracies())
    deviations = find_noise(trained)
    noisy = noisy_accuracies(trained, deviations)
    for names, value in noisy.items():
        print(f"with noise {deviations}: {' + '.join(names):24s} {value:5.1f}")  # noqa: T201
    single = max(v for n, v in noisy.items() if len(n) == 1)
    fused = max(noisy, key=len)
    return [*lines, Line(what="gain of fusion under noise", found=noisy[fused] - single, least=LEAST_GAIN)]


def main() -> int:
    """Print a line each; 1 where one does not hold."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = run(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    for line in lines:
        sign, verdict = "<=" if line.most else ">=", "holds" if line.holds else "FAILS"
        print(f"{line.what:28s} {line.found:6.1f} {sign} {line.least:5.1f}  {verdict}")  # noqa: T201
    return int(not all(line.holds for line in lines))


if __name__ == "__main__":
    sys.exit(main())
