"""Recording a run in MLflow without ever waiting for it. The only folder that imports mlflow.

`README.md` beside this says how. mlflow is imported by the shipper's thread only (2.7 s of CPU on a 2-core x86
machine): no start waits for it.
"""

from interlace.tracking.context import context_tags
from interlace.tracking.model import ColumnType, ModelCard
from interlace.tracking.registry import Bar, Registered, Registry, registry_of
from interlace.tracking.shipper import TrackingReport, opened_with
from interlace.tracking.target import Target, make_target, resolve_uri, tracking_server
from interlace.tracking.tracker import Tracker, is_concluded, sync

__all__ = [
    "Bar",
    "ColumnType",
    "ModelCard",
    "Registered",
    "Registry",
    "Target",
    "Tracker",
    "TrackingReport",
    "context_tags",
    "is_concluded",
    "make_target",
    "opened_with",
    "registry_of",
    "resolve_uri",
    "sync",
    "tracking_server",
]
