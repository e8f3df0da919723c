"""A trained model as an MLflow pyfunc: an exported folder and the script that loads it; nothing pickled."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.tracking.context import version_of

if TYPE_CHECKING:
    import pandas as pd

ColumnType = Literal["binary", "string", "double", "long", "boolean"]

SCRIPT = Path(__file__).with_name("pyfunc.py")
REQUIREMENTS = ("interlace", "mlflow", "torch", "numpy", "pandas", "pyarrow", "pillow", "tokenizers", "safetensors")
"""What the model needs where it is served; the rest follows from `interlace`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A trained model to log.

    Args:
        folder: the exported model, read by `Predictor.load`; it must stay until it is shipped.
        inputs: type of each raw column (pictures and sounds are binary); any of them may be missing in any row.
        outputs: type of each predicted column.
        examples: a few raw rows; bytes are bytes.
        script: the models-from-code script that loads the folder.
    """

    folder: Path
    inputs: Mapping[str, ColumnType]
    outputs: Mapping[str, ColumnType]
    examples: Sequence[Mapping[str, Any]]
    script: Path = SCRIPT


def card_to_json(card: ModelCard) -> dict[str, Any]:
    """The card as JSON can hold it."""
    return {
        "folder": str(card.folder.resolve()),
        "inputs": dict(card.inputs),
        "outputs": dict(card.outputs),
        "examples": [{key: _to_json(value) for key, value in row.items()} for row in card.examples],
        "script": str(card.script.resolve()),
    }


def card_from_json(values: Mapping[str, Any]) -> ModelCard:
    """The card made by `card_to_json`."""
    return ModelCard(
        folder=Path(values["folder"]),
        inputs=values["inputs"],
        outputs=values["outputs"],
        examples=[{key: _from_json(value) for key, value in row.items()} for row in values["examples"]],
        script=Path(values["script"]),
    )


def save_pyfunc(card: ModelCard, destination: Path, *, model_id: str, location: str, run_id: str) -> None:
    """Write the MLflow model folder: script, copy of the exported folder, signature, example, requirements.

    Args:
        card: what to save.
        destination: a folder that does not exist yet.
        model_id: the MLflow LoggedModel that it is for.
        location: URI of that model's artifacts.
        run_id: the MLflow run that made it.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    def schema(columns: Mapping[str, ColumnType]) -> Any:
        return Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()])

    example = pd.DataFrame([dict(row) for row in card.examples], columns=list(card.inputs))
    pyfunc.save_model(
        destination,
        python_model=str(card.script),
        artifacts={"model": str(card.folder)},
        signature=ModelSignature(inputs=schema(card.inputs), outputs=schema(card.outputs)),
        input_example=example if len(example) else None,
        pip_requirements=requirements(),  # given, so that MLflow does not run the model to find them
        mlflow_model=Model(artifact_path=location, model_uuid=model_id, model_id=model_id, run_id=run_id),
    )


def to_rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a table as Python values; a missing value (no column, None or NaN) has no key."""
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    return [
        {name: values[row] for name, values in columns.items() if not _missing(values[row])}
        for row in range(len(frame))
    ]


def requirements() -> list[str]:
    """`name==version` of what is installed here, without local parts such as `+cpu`."""
    versions = {name: version_of(name) for name in REQUIREMENTS}
    return [name if version is None else f"{name}=={version.split('+')[0]}" for name, version in versions.items()]


def _missing(value: Any) -> bool:
    import pandas as pd

    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    return bool(value is None or value is pd.NA or value is pd.NaT or is_nan)


def _to_json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value
