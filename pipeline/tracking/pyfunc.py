"""The script that MLflow runs to load a trained model: raw rows in, predictions out. No pickle, no code but this.

A copy of it lies in every logged model beside the exported folder (artifact `model`). Loading that needs `interlace` of
the version in the model's requirements. Never import this file: running it registers the model with MLflow.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from interlace.tracking.model import BAD_ROWS, COLUMNS, check_rows, to_frame, to_rows
from interlace.tracking.strict import refuse_unknown_columns


class RawRows(PythonModel):  # type: ignore[misc] # mlflow has no types
    """Predicts from a table of raw values; any value may be missing."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the exported model folder."""
        from interlace.results.predictor import Predictor  # here, so that logging a model imports no torch

        refuse_unknown_columns(context.model_config[COLUMNS])
        self._predictor = Predictor.load(Path(context.artifacts["model"]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """One row of predictions for each row of raw values, in order; bytes may be base64 text.

        Raises:
            MlflowException: a column is unknown, or a row can't be read and `params` do not say to report it.
        """
        predictions = self._predictor.predict(to_rows(model_input, context.model_config[COLUMNS]))
        check_rows(predictions, (params or {}).get(BAD_ROWS, "refuse"))
        return to_frame(predictions)


set_model(RawRows())
