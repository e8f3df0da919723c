"""What is predicted: each task is a head on the network's states, its loss and its metrics.

`TASKS` names the class that serves each kind of task in a recipe.
"""

from pipeline.tasks.base import Context, State, Task
from pipeline.tasks.classification import ClassificationTask

TASKS = {"classification": ClassificationTask}

__all__ = ["TASKS", "ClassificationTask", "Context", "State", "Task"]
