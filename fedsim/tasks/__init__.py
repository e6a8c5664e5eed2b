"""Tasks: the table of what ``[task] kind`` may be, and a task together with its data."""

from __future__ import annotations

from fedsim.data.dataset import Kind
from fedsim.tasks.classification import Classification
from fedsim.tasks.regression import Regression
from fedsim.tasks.task import Objective, Task

TASKS = {
    "classification": Classification,
    "regression": Regression,
}

# The task of a scenario that names none, by the kind of its data's labels.
TASKS_OF: dict[Kind, Objective] = {"classes": Classification(), "numbers": Regression()}

__all__ = ["TASKS", "TASKS_OF", "Classification", "Objective", "Regression", "Task"]
