"""A trained model as an MLflow pyfunc: an exported folder and the script that loads it; nothing pickled."""

import base64
import difflib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interlace.tracking.context import version_of

if TYPE_CHECKING:
    import pandas as pd

ColumnType = Literal["binary", "string", "double", "long", "boolean", "doubles", "any"]

SCRIPT = Path(__file__).with_name("pyfunc.py")
COLUMNS = "columns"
"""Key of the model's configuration and metadata: the type of each raw column."""
BAD_ROWS = "bad_rows"
"""Parameter of a request: `refuse` (status 400 with the reasons) or `report` (a row with its `error`)."""
MOST_LISTED = 5
REQUIREMENTS = ("interlace", "mlflow", "torch", "numpy", "pandas", "pyarrow", "pillow", "tokenizers", "safetensors")
"""What the model needs where it is served; the rest follows from `interlace`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A trained model to log.

    Args:
        folder: the exported model, read by `Predictor.load`; it must stay until it is shipped.
        inputs: type of each raw column; any of them may be missing in any row. Encoded pictures and sounds are `binary`
            (bytes, or base64 text in an HTTP request); `doubles` are lists, also of texts.
        outputs: type of each predicted column; `doubles` is a list of numbers.
        examples: a few raw rows; bytes are bytes.
        metrics: prefix of the journal's metrics that were measured of this very model, such as `test/`; none if empty.
        script: the models-from-code script that loads the folder.
        packages: what it needs besides `REQUIREMENTS`, each as `name==version`.
    """

    folder: Path
    inputs: Mapping[str, ColumnType]
    outputs: Mapping[str, ColumnType]
    examples: Sequence[Mapping[str, Any]]
    metrics: str = ""
    script: Path = SCRIPT
    packages: Sequence[str] = ()


def card_to_json(card: ModelCard) -> dict[str, Any]:
    """The card as JSON can hold it."""
    return {
        "folder": str(card.folder.resolve()),
        "inputs": dict(card.inputs),
        "outputs": dict(card.outputs),
        "examples": [{key: _to_json(value) for key, value in row.items()} for row in card.examples],
        "metrics": card.metrics,
        "script": str(card.script.resolve()),
        "packages": list(card.packages),
    }


def card_from_json(values: Mapping[str, Any]) -> ModelCard:
    """The card made by `card_to_json`."""
    return ModelCard(
        folder=Path(values["folder"]),
        inputs=values["inputs"],
        outputs=values["outputs"],
        examples=[{key: _from_json(value) for key, value in row.items()} for row in values["examples"]],
        metrics=values.get("metrics", ""),
        script=Path(values["script"]),
        packages=values.get("packages", ()),
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

    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")  # mlflow, of its own classes
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, DataType

    def schema(columns: Mapping[str, Any]) -> Any:
        return Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()])

    # MLflow refuses int64 in a double column, a missing value in a long, boolean or (over HTTP) binary one, and makes
    # the text "None" of a missing string (`inputs`). So its signature says `any`; `metadata` holds the types, `to_rows`
    # restores them, the predictor checks values.
    inputs = {name: AnyType() for name in card.inputs}
    outputs = {name: Array(DataType.double) if kind == "doubles" else kind for name, kind in card.outputs.items()}

    example = pd.DataFrame([dict(row) for row in card.examples], columns=list(card.inputs))
    pyfunc.save_model(
        destination,
        python_model=str(card.script),
        artifacts={"model": str(card.folder)},
        signature=ModelSignature(
            inputs=schema(inputs),
            outputs=schema(outputs),
            params=ParamSchema([ParamSpec(BAD_ROWS, DataType.string, default="refuse")]),
        ),
        input_example=example if len(example) else None,
        model_config={COLUMNS: dict(card.inputs)},
        metadata={COLUMNS: dict(card.inputs)},
        pip_requirements=requirements(card.packages),  # given, so that MLflow does not run the model to find them
        mlflow_model=Model(artifact_path=location, model_uuid=model_id, model_id=model_id, run_id=run_id),
    )


def to_rows(frame: "pd.DataFrame", columns: Mapping[str, ColumnType]) -> list[dict[str, Any]]:
    """The rows of a table as Python values.

    Args:
        frame: raw values; None and NaN are missing.
        columns: type of each column the model knows; bytes may also be base64 text.

    Returns:
        A dict for each row, without keys for what is missing.

    Raises:
        MlflowException: an unknown column, or a text in a binary column that is no base64; MLflow's server answers 400
            with the reason.
    """
    check_columns([str(name) for name in frame.columns], columns)
    values = {str(name): frame[name].tolist() for name in frame.columns}
    for name in values:
        convert = _CONVERT.get(columns[name])
        if convert is not None:
            values[name] = [convert(value, name, row) for row, value in enumerate(values[name])]
    return [
        {name: column[row] for name, column in values.items() if not _missing(column[row])} for row in range(len(frame))
    ]


def check_columns(names: Sequence[str], columns: Collection[str]) -> None:
    """Refuse columns that a model does not know.

    Raises:
        MlflowException: with the columns it knows, the nearest first.
    """
    unknown = [name for name in names if name not in columns]
    if unknown:
        near = difflib.get_close_matches(unknown[0], columns, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise refusal(
            f"unknown column{'s' if len(unknown) > 1 else ''} {', '.join(f'`{name}`' for name in unknown)};"
            f" {hint}This model reads {', '.join(f'`{name}`' for name in columns)}"
        )


def check_rows(predictions: Sequence[Mapping[str, Any]], bad_rows: str) -> None:
    """Refuse a request with rows that can't be read, unless they are to be reported.

    Raises:
        MlflowException: with the reasons of the first few rows.
    """
    if bad_rows not in ("refuse", "report"):
        raise refusal(f"parameter `{BAD_ROWS}`: expected `refuse` or `report`, but is {bad_rows!r}")
    reasons = [f"row {row}: {found['error']}" for row, found in enumerate(predictions) if found["error"] is not None]
    if reasons and bad_rows == "refuse":
        more = f" (and {len(reasons) - MOST_LISTED} more)" if len(reasons) > MOST_LISTED else ""
        raise refusal(
            f"{len(reasons)} of {len(predictions)} rows can't be predicted: {'; '.join(reasons[:MOST_LISTED])}{more}."
            f' With {{"params": {{"{BAD_ROWS}": "report"}}}} the others are'
        )


def to_frame(predictions: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Predictions as a table; None stays None, which pandas would make NaN, and MLflow's server no valid JSON."""
    import pandas as pd

    columns = {name: [row[name] for row in predictions] for name in (predictions[0] if predictions else ())}
    return pd.DataFrame(
        {name: pd.Series(v, dtype=object if any(x is None for x in v) else None) for name, v in columns.items()}
    )


def refusal(reason: str) -> Exception:
    """What MLflow's server answers with 400 and the reason."""
    from mlflow.exceptions import MlflowException

    refusal: Exception = MlflowException.invalid_parameter_value(reason)
    return refusal


def requirements(packages: Sequence[str] = ()) -> list[str]:
    """`name==version` of what is installed here, without local parts such as `+cpu`; then `packages` as they are."""
    versions = {name: version_of(name) for name in REQUIREMENTS}
    own = [name if version is None else f"{name}=={version.split('+')[0]}" for name, version in versions.items()]
    return [*own, *packages]


def _missing(value: Any) -> bool:
    import pandas as pd

    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    return bool(value is None or value is pd.NA or value is pd.NaT or is_nan)


def _bytes(value: Any, name: str, row: int) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        raise refusal(f"column {name}, row {row}: expected bytes as base64 text, but {error}") from error


def _integer(value: Any, name: str, row: int) -> Any:
    """The integer again where a missing value elsewhere in its column has made it a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_CONVERT = {"binary": _bytes, "long": _integer}


def _to_json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value
