"""What is predicted: each task is a head on the network's states, its loss and its metrics.

`TASKS` names the class that serves each kind of task in a recipe.
"""

from typing import Any

from pipeline.tasks.base import Context, State, Task
from pipeline.tasks.classification import ClassificationTask
from pipeline.tasks.generation import GenerationTask
from pipeline.tasks.reconstruction import ReconstructionTask
from pipeline.tasks.regression import RegressionTask
from pipeline.tasks.retrieval import RetrievalTask

TASKS: dict[str, Any] = {
    "classification": ClassificationTask,
    "regression": RegressionTask,
    "retrieval": RetrievalTask,
    "reconstruction": ReconstructionTask,
    "generation": GenerationTask,
}

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
