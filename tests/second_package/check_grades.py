"""The laws that hold for all modalities and tasks hold for those of this package."""

import numpy as np
from grades.plugin import BitsField, OrdinalTask

from interlace.data.index.laws import check_target
from interlace.modalities.laws import check_modality
from interlace.tasks.laws import check_task

ORDINAL = OrdinalTask(task="ordinal", column="grade")


def test_bits_keep_the_laws_of_modalities():
    field = BitsField(modality="bits", column="n", noise=0.5)
    made = check_modality(field, [(5,), (0,), (12,)], refused=[(-1,), ("5",)])
    assert made.spec.max_grid == (4, 1)
    assert made.token_texts(made.decode((5,))) == ("0", "1", "0", "1")


def test_grades_keep_the_laws_of_targets():
    target = check_target(ORDINAL, [(3,), (1,), (7,)], refused=[("3",)])
    assert target.encode((7,)).tolist() == [2]


def test_ordinal_keeps_the_laws_of_tasks():
    task = check_task(ORDINAL, {"grades": [1, 3, 7]}, lambda rng: rng.integers(0, 3, 1, dtype=np.int64))
    assert task.main_metric == "distance"
