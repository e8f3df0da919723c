"""What is predicted: each task is a head on the network's states, its loss and its metrics.

`TASKS` names the class that serves each kind of task in a recipe; `tasks_of` gives back the tasks inside a network.
"""

from pipeline.model.fusion import key
from pipeline.model.network import Network
from pipeline.tasks.base import LossSum, Task
from pipeline.tasks.classification import ClassificationTask

TASKS = {"classification": ClassificationTask}


def tasks_of(network: Network) -> dict[str, Task]:
    """The tasks of a network by their names in the recipe."""
    tasks = {name.removeprefix(key("")): task for name, task in network.tasks.items()}
    assert all(isinstance(task, Task) for task in tasks.values())
    return tasks  # type: ignore[return-value]


__all__ = ["TASKS", "ClassificationTask", "LossSum", "Task", "tasks_of"]
