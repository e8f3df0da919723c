"""The logged model without a store: rows of a table, and requests as the scoring server reads them."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from interlace.tracking.model import save_pyfunc, to_frame, to_rows
from tests.tracked import card

pytestmark = [
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
    # mlflow's look at the example model's own `predict`, given only where no test before this one imported mlflow
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]


def test_a_model_serves_requests_with_pictures_and_with_values_missing(tmp_path: Path) -> None:
    from mlflow import pyfunc
    from mlflow.pyfunc.scoring_server import invocations

    save_pyfunc(card(tmp_path), tmp_path / "saved", model_id="m", location="file:///x", run_id="r")
    model = pyfunc.load_model(str(tmp_path / "saved"))

    def ask(rows: list[dict[str, Any]]) -> list[str]:
        body = json.dumps({"dataframe_records": rows})
        answer = invocations(body, "application/json", model, model.metadata.get_input_schema())
        return [row["said"] for row in json.loads(answer.response)["predictions"]]

    picture = base64.b64encode(b"png").decode()
    assert ask([{"picture": picture, "size": 1}]) == ["hi {'picture': 'png', 'size': 1}"]
    assert ask([{"picture": picture}, {"name": "cat"}, {"picture": None, "tall": True}]) == [
        "hi {'picture': 'png'}",
        "hi {'name': 'cat'}",
        "hi {'tall': True}",
    ]
    with pytest.raises(Exception, match="column picture, row 0: expected bytes as base64 text"):
        ask([{"picture": "?"}])


def test_rows_have_no_key_for_what_is_missing() -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2], "b": [b"x", None], "c": [math.nan, 2.5], "d": ["s", None]})
    frame["e"] = pd.array([True, pd.NA], dtype="boolean")
    columns: dict[str, Any] = {"a": "long", "b": "binary", "c": "double", "d": "string", "e": "boolean", "f": "long"}
    rows = to_rows(frame, columns)
    assert rows == [{"a": 1, "b": b"x", "d": "s", "e": True}, {"a": 2, "c": 2.5}]
    assert [type(row["a"]) for row in rows] == [int, int]
    assert to_rows(pd.DataFrame(index=range(2)), columns) == [{}, {}]


def test_integers_stay_integers_beside_missing_ones() -> None:
    """A category told by 3 is another than one told by 3.0."""
    import pandas as pd

    rows = to_rows(pd.DataFrame([{"a": 3, "b": 1.0}, {"a": None, "b": 2.5}]), {"a": "long", "b": "double"})
    assert rows == [{"a": 3, "b": 1.0}, {"b": 2.5}]
    assert [type(rows[0]["a"]), type(rows[0]["b"])] == [int, float]


def test_a_column_that_a_model_does_not_know_is_refused_with_the_nearest() -> None:
    import pandas as pd
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="unknown column `captoin`; did you mean `caption`") as caught:
        to_rows(pd.DataFrame([{"captoin": "a"}]), {"caption": "string", "size": "double"})
    assert caught.value.get_http_status_code() == 400


def test_what_is_none_in_predictions_is_null_in_the_answer() -> None:
    predictions = [{"a": "x", "b": 0.5, "c": [1.0], "error": None}, {"a": None, "b": None, "c": None, "error": "bad"}]
    frame = to_frame(predictions)
    assert frame.to_dict("records") == predictions
    assert to_frame(predictions[:1])["b"].dtype == "float64"
    assert len(to_frame([])) == 0
