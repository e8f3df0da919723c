"""The probability of every class is that of the prediction: by the same logits, of one label or several."""

import json
from dataclasses import replace

import pytest
import torch

from tests.unit.tasks.test_classification import CLASSES, make, outputs


@pytest.mark.parametrize("fusion", ["mid", "decision"])
@pytest.mark.parametrize("field_vote", [0.0, 0.5])
def test_probabilities_of_classes_sum_to_one_and_their_greatest_is_the_prediction(
    fusion: str, field_vote: float
) -> None:
    field_vote = 0.0 if fusion == "decision" else field_vote
    task = make(fields=("a", "b"), fusion=fusion, field_loss=1.0, field_vote=field_vote)
    given = outputs(40, {"a": [True] * 30 + [False] * 10, "b": [i % 2 == 0 or i >= 30 for i in range(40)]})
    if fusion == "decision":
        present_SF = torch.stack([f.present_S for f in given.fields.values()], 1).float()
        given = replace(given, votes_SF=present_SF / present_SF.sum(1, keepdim=True))
    chances_SC = task.probabilities(given)
    torch.testing.assert_close(chances_SC.sum(1), torch.ones(40))
    said = task.predict(given)
    assert [row[""] for row in said] == [CLASSES[i] for i in chances_SC.argmax(1).tolist()]
    assert [row["probability"] for row in said] == chances_SC.max(1).values.tolist()
    assert task.classes == CLASSES
    assert len({row[""] for row in said}) > 1


def test_probabilities_of_several_labels_are_each_by_itself() -> None:
    task = make(multi_label=True)
    given = outputs(30)
    chances_SC = task.probabilities(given)
    torch.testing.assert_close(chances_SC, task.logits(given).sigmoid())
    said = task.predict(given)
    assert [json.loads(row[""]) for row in said] == [
        [name for name, p in zip(CLASSES, row, strict=True) if p > 0.5] for row in chances_SC.tolist()
    ]
    assert [list(json.loads(row["probability"]).values()) for row in said] == chances_SC.tolist()
