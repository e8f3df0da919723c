"""What is predicted: each task is a head on the network's states, its loss and its metrics.

`TASKS` names the class that serves each kind of task in a recipe; `laws` holds what is true of each.
"""

from collections.abc import Callable, Mapping
from typing import Any

from interlace.recipe.plugins import Joined
from interlace.tasks.base import Context, State, Task
from interlace.tasks.classification import ClassificationTask
from interlace.tasks.generation import GenerationTask
from interlace.tasks.reconstruction import ReconstructionTask
from interlace.tasks.regression import RegressionTask
from interlace.tasks.retrieval import RetrievalTask

TASKS: Mapping[str, Callable[[Any, Context], Any]] = Joined(
    "tasks",
    {
        "classification": ClassificationTask,
        "regression": RegressionTask,
        "retrieval": RetrievalTask,
        "reconstruction": ReconstructionTask,
        "generation": GenerationTask,
    },
    lambda found: found.part(found.plugin.make),
)

__all__ = [
    "TASKS",
    "ClassificationTask",
    "Context",
    "GenerationTask",
    "ReconstructionTask",
    "RegressionTask",
    "RetrievalTask",
    "State",
    "Task",
]
