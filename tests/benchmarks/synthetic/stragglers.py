"""Fill, and how long the slowest rank takes over the mean, of synthetic mixes and of real sets."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from interlace.data.index.build import build_index
from interlace.data.plan.plan import Plan, Work, plan_of_rows, straggler_factor
from interlace.data.read.open import open_reader
from interlace.recipe.load import load_recipe
from tests.benchmarks.synthetic.reading import settings_of
from tests.benchmarks.synthetic.shapes import MODELS, SHAPES, names
from tests.realdata import SETS

RECIPES = Path(__file__).parents[2] / "recipes"
GROUP_ROWS = 250
STEPS = 6
"""Steps that are dealt for many ranks; at least `FEWEST` packs where ranks are few."""
FEWEST = 1024
Figures = dict[str, float | str]


def synthetic_plan(shape: str, model: str, rows: int, ranks: int, fields: int = 3) -> Plan:
    """The plan of so many rows of a shape, for steps of so many packs."""
    tokens = SHAPES[shape](rows, fields, np.random.default_rng(0))
    by_name = dict(zip(names(fields), tokens, strict=True))
    work = Work(tokens=tokens.sum(axis=0, dtype=np.int64), cost=MODELS[model].flops(fields).of_rows(by_name))
    return plan_of_rows(work, np.append(np.arange(0, rows, GROUP_ROWS), rows), settings_of(ranks))


def real_plans(data: Path, name: str, ranks: list[int]) -> Iterator[tuple[int, Plan]]:
    """The plans of a real set, indexed in this process, as its recipe has it but for the packs of a step."""
    with TemporaryDirectory() as folder:
        SETS[name].build(data, Path(folder) / "data")
        own = [f"data.root={folder}/data", f"storage={folder}/out"]
        recipe = load_recipe(RECIPES / f"{name}.yaml", own)
        reader = open_reader(build_index(recipe), recipe, "train", training=True)
        for number in ranks:
            window_packs = max(reader.plan_settings.window_packs, number)
            settings = replace(reader.plan_settings, global_batch=number, window_packs=window_packs)
            yield number, replace(reader, plan_settings=settings).plan()


def straggling(plan: Plan, ranks: int) -> Figures:
    """Fill of an epoch, the most that whole packs could have, and the straggler factor of the first steps."""
    began = time.process_time()
    packs = max(FEWEST, STEPS * ranks)
    schedule = plan.schedule(steps=-(-packs // ranks))
    factor = straggler_factor(plan, schedule, most_packs=packs)
    tokens, budget = int(plan.sizes.tokens.sum()), plan.settings.token_budget
    return {
        "rows": plan.num_usable,
        "packs_an_epoch": schedule.packs_an_epoch,
        "rows_a_pack": plan.num_usable / schedule.packs_an_epoch,
        "fill": plan.fill(schedule),
        "most_fill": tokens / (-(-tokens // budget) * budget),
        "straggler": 1.0 if factor is None else factor,
        "cpu_s": time.process_time() - began,
    }
