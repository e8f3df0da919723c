"""Settings of tracking."""

from pydantic import Field

from interlace.recipe.base import Node


class Tracking(Node):
    """Where MLflow records."""

    uri: str | None = Field(
        None, description="MLflow tracking URI; MLFLOW_TRACKING_URI, or sqlite in the storage folder, where not given."
    )
    experiment: str | None = Field(
        None, description="MLflow experiment; MLFLOW_EXPERIMENT_NAME, or `interlace`, where not given."
    )
    log_every: int = Field(1, ge=1, description="Steps between points of training metrics.")
    system_every_s: float = Field(10.0, ge=0, description="Seconds between samples of CPU, memory, GPU; 0 takes none.")
