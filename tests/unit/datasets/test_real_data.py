"""Every set of the real-data folder: built, indexed, inspected, trained on; counts are those of the sets' READMEs."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from interlace.data.index.build import Index, build_index
from interlace.recipe.load import load_recipe
from interlace.recipe.recipe import Recipe
from interlace.results.inspection.facts import gather
from interlace.results.inspection.page import render
from tests.manifests import extents
from tests.ray.reference import run_here
from tests.realdata import INK, INK_POINTS, SETS, columns_of, trace_ink

RECIPES = Path(__file__).parents[2] / "recipes"
SIDES = ("train", "validation")
STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A set on disk, its recipe, its index."""

    name: str
    source: Path
    folder: Path
    recipe: Recipe
    index: Index

    def rows(self, *names):
        """Rows of both sides."""
        return [row for side in SIDES for row in columns_of(self.folder, side, *names)]

    def extents(self, field):
        """What the index measured of a field on both sides, int64 `[N, 2]`."""
        return np.concatenate([extents(self.index.manifests[side], field) for side in SIDES]).astype(np.int64)


@pytest.fixture(scope="session", params=list(SETS))
def built(request, real_data, tmp_path_factory):
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    SETS[name].build(real_data, folder / "data")
    changes = [f"data.root={folder / 'data'}", f"storage={folder / 'storage'}", "train.precision=fp32"]
    recipe = load_recipe(RECIPES / f"{name}.yaml", [*changes, "train.epochs=null", f"train.steps={STEPS}"])
    return Built(name=name, source=real_data, folder=folder / "data", recipe=recipe, index=build_index(recipe))


def test_every_row_is_there_once_and_usable(built):
    rows = {side: built.index.manifests[side].num_rows for side in SIDES}
    expected = {
        "digits": 2000, "icu2012": 4000, "esc10": 320, "omniglot": 2720, "watch_exercises": 140,
        "tuxpaint_stamps": 761, "emoji": 1911, "asterisk_prompts": 558 + 514,
    }  # fmt: skip
    assert sum(rows.values()) == expected[built.name]
    assert [m.num_bad for m in built.index.manifests.values()] == [0, 0]
    assert 0.1 < rows["validation"] / sum(rows.values()) < 0.3


def test_no_group_on_both_sides(built):
    for column in SETS[built.name].groups:
        train, validation = ({row[column] for row in columns_of(built.folder, side, column)} for side in SIDES)
        assert train
        assert validation
        assert train & validation == set(), column


def test_counts_are_those_of_the_readme(built):
    CHECKS[built.name](built)


def classes(built, column):
    """Records by label, both sides."""
    return Counter(row[column] for row in built.rows(column))


def check_digits(built):
    counts = Counter(pq.read_table(built.source / "mnist10k" / "train.parquet")["label"].to_pylist())
    assert [counts[d] for d in range(10)] == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert pq.read_metadata(built.source / "pendigits" / "train.parquet").num_rows == 7494
    assert classes(built, "label") == dict.fromkeys(range(10), 200)
    assert classes(built, "speaker") == dict.fromkeys(("jackson", "nicolas", "theo", "yweweler"), 500)
    for column in ("picture", "pen", "audio"):
        assert len({row[column] for row in built.rows(column)}) == 2000
    assert (built.extents("picture") == 28).all()
    assert (built.extents("pen") == (4, 16)).all()


def check_icu2012(built):
    assert classes(built, "in_hospital_death")[1] / 4000 == 0.1385
    assert len(built.index.fitted["fields"]["vitals"]["channels"]) == 37
    assert built.extents("vitals")[:, 1].sum() == 1_654_892
    assert set(classes(built, "icu_type")) == {1, 2, 3, 4}
    assert {"saps_i", "sofa", "survival_days"}.isdisjoint(built.recipe.columns())


def check_esc10(built):
    assert set(classes(built, "class_name").values()) == {32}
    assert len(classes(built, "class_name")) == 10
    assert classes(built, "fold") == dict.fromkeys(range(1, 5), 80)


def check_omniglot(built):
    found = classes(built, "alphabet")
    assert found == {"Korean": 800, "Latin": 520, "Balinese": 480, "Greek": 480, "Early_Aramaic": 440}
    assert len({(row["alphabet"], row["character"]) for row in built.rows("alphabet", "character")}) == 136
    assert classes(built, "drawer") == dict.fromkeys(range(1, 21), 136)
    assert (built.extents("picture") == 105).all()
    assert round(built.extents("strokes")[:, 1].sum() / 2 / 2720) == 138
    inks = [np.array(list(row.values())).T for row in built.rows(*(f"ink_{name}" for name in INK))]
    lengths = [len(ink) for ink in inks]
    assert (np.median(lengths), min(lengths)) == (INK_POINTS, 26)  # that one is all dots
    assert max(lengths) < 2 * INK_POINTS
    assert (np.ptp(np.concatenate(inks)[:, :2], axis=0) <= 1.0 + 1e-6).all()
    strokes = [len(set(row["stroke"])) for row in built.rows("stroke")]
    assert [ink[:, 4].sum() for ink in inks] == strokes
    assert max(strokes) > 3


def test_ink_is_traced_at_equal_distances_whatever_the_pace_of_the_pen():
    x = [0, 0, 0, 0, 1, 9, 10, 10, 10, 10]
    y = [0, 0, 0, 0, 0, 0, 0, 0, 4, 20]
    ink = trace_ink(np.array(x), np.array(y), np.array([0] * 7 + [1] * 3))
    count = INK_POINTS // 3
    assert ink.shape == (INK_POINTS, 5)
    assert ink[:count, 0] == pytest.approx(np.linspace(-0.25, 0.25, count))
    assert ink[count:, 1] == pytest.approx(np.linspace(-0.5, 0.5, 2 * count))
    assert ink[:count, 2:4] == pytest.approx(np.tile([1.0, 0.0], (count, 1)))
    assert ink[count:, 2:4] == pytest.approx(np.tile([0.0, 1.0], (2 * count, 1)))
    assert np.flatnonzero(ink[:, 4]).tolist() == [0, count]


def test_a_dot_of_ink_has_two_points_and_no_direction():
    ink = trace_ink(np.array([3.0]), np.array([4.0]), np.array([0]))
    assert len(ink) >= 2
    assert not ink[:, :4].any()


def check_watch_exercises(built):
    assert classes(built, "label") == dict.fromkeys(("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"), 20)
    assert classes(built, "subject") == dict.fromkeys(range(1, 11), 14)
    for sensor in ("accelerometer", "gyroscope"):
        readings = built.extents(sensor)[:, 1] // 3
        assert (readings.min(), readings.max()) == (947, 2618)


def check_tuxpaint_stamps(built):
    found = classes(built, "category")
    assert len(found) == 16
    assert (found["symbols"], found["animals"], found["naturalforces"]) == (196, 126, 3)
    assert (built.extents("speech")[:, 0] >= 0).sum() == 738
    assert (built.extents("image").max(1) <= 128).all()
    captions = [row["caption"] for row in built.rows("caption")]
    words = [len(caption.split()) for caption in captions]
    assert (np.median(words), max(words)) == (3, 31)


def check_emoji(built):
    assert len(classes(built, "group")) == 10
    assert classes(built, "group")["Flags"] == 270
    assert (built.extents("image") == 64).all()
    names = pq.read_metadata(built.source / "emoji" / "annotations.parquet").num_rows
    assert names == 1911 * 28 == 53_508
    assert all(row["name_en"] and row["name_zh"] for row in built.rows("name_en", "name_zh"))


def check_asterisk_prompts(built):
    assert classes(built, "language") == {"en": 558, "fr": 514}
    seconds = Counter()
    for row in built.rows("language", "num_samples"):
        seconds[row["language"]] += row["num_samples"] / 8000
    assert {language: round(value) for language, value in seconds.items()} == {"en": 1474, "fr": 1452}
    assert set(classes(built, "prompt").values()) == {1, 2}


CHECKS = {
    "digits": check_digits,
    "icu2012": check_icu2012,
    "esc10": check_esc10,
    "omniglot": check_omniglot,
    "watch_exercises": check_watch_exercises,
    "tuxpaint_stamps": check_tuxpaint_stamps,
    "emoji": check_emoji,
    "asterisk_prompts": check_asterisk_prompts,
}


def test_inspect_shows_every_field(built):
    facts = gather(built.recipe, built.index)
    page = render(facts)
    assert set(facts.splits) == set(SIDES)
    assert all(f">{name}<" in page for name in built.recipe.fields)
    assert "data:image/png" in page or built.name in ("icu2012", "watch_exercises", "esc10", "asterisk_prompts")


def test_twenty_steps_lower_the_loss(built):
    losses = list(run_here(built.recipe).losses.values())
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
