"""What tests of tracking share: a small model to log, and what MLflow shows of a run."""

from pathlib import Path
from typing import Any

from interlace.tracking import ModelCard

SCRIPT = """
import json
from pathlib import Path

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from interlace.tracking.model import to_rows


class Described(PythonModel):
    def load_context(self, context):
        self.greeting = json.loads((Path(context.artifacts["model"]) / "sub" / "model.json").read_text())["greeting"]

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        rows = to_rows(model_input, context.model_config["columns"])
        told = [{k: v.decode("latin1") if isinstance(v, bytes) else v for k, v in row.items()} for row in rows]
        return pd.DataFrame({"said": [self.greeting + repr(row) for row in told], "count": [len(row) for row in rows]})


set_model(Described())
"""


def shown(client: Any, run_id: str) -> dict[tuple[str, int], tuple[float, int]]:
    """All points of a run in MLflow; fails if one is there twice."""
    points = [p for key in client.get_run(run_id).data.metrics for p in client.get_metric_history(run_id, key)]
    found = {(p.key, p.step): (p.value, p.timestamp) for p in points}
    assert len(found) == len(points), "a point is doubled"
    return found


def card(folder: Path) -> ModelCard:
    exported = folder / "model"
    (exported / "sub").mkdir(parents=True)
    (exported / "sub" / "model.json").write_text('{"greeting": "hi "}')
    (folder / "script.py").write_text(SCRIPT)
    return ModelCard(
        folder=exported,
        inputs={"picture": "binary", "name": "string", "size": "double", "tall": "boolean"},
        outputs={"said": "string", "count": "long"},
        examples=[{"picture": b"\x00\xff", "name": "cat", "size": 1.0, "tall": False}, {"size": 2.0}],
        script=folder / "script.py",
    )
