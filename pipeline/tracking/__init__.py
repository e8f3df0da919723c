"""Recording a run in MLflow without ever waiting for it. The only folder that imports mlflow.

1. The training process appends metrics to the journal (`pipeline/store/journal.py`) and knows nothing of MLflow.
2. The driver has a `Tracker`: a call on it appends a line to the outbox, a file of the run folder, and returns.
3. One background thread, the `Shipper`, sends both to MLflow: operations in order, points as they come. Any trouble
   with the store (refused, 401, 500, time-out) waits and tries again; a cursor beside the outbox says how far it is.
4. Every request is one that may be sent twice without a trace (`store.py`): runs are looked up by key before they are
   created, equal points are dropped by the store. So a kill anywhere loses nothing and doubles nothing.
5. What is left when the driver ends stays in the run folder; `sync` ships it.
6. `registry` makes a run's model a version with an alias, if it is no worse than the one that has the alias.

        training process --metrics.jsonl--> RUN FOLDER <--outbox.jsonl-- Tracker (driver)
                                                |
                                            Shipper (thread) --> MLflow

mlflow is imported by that thread only (2.7 s of CPU on a 2-core x86 machine): no start waits for it.
"""

from interlace.tracking.context import context_tags
from interlace.tracking.model import ColumnType, ModelCard
from interlace.tracking.registry import Bar, Registered, Registry, registry_of
from interlace.tracking.shipper import TrackingReport
from interlace.tracking.target import Target, make_target, resolve_uri
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
    "registry_of",
    "resolve_uri",
    "sync",
]
