"""Tasks: the table of what ``[task] kind`` may be, and a task together with its data."""

from __future__ import annotations

from fedsim.data.dataset import Kind
from fedsim.tasks.classification import Classification
from fedsim.tasks.next_character import NextCharacter
from fedsim.tasks.reconstruction import Reconstruction
from fedsim.tasks.regression import Regression
from fedsim.tasks.task import Assessment, Objective, Task

TASKS = {
    "classification": Classification,
    "regression": Regression,
    "next_character": NextCharacter,
    "reconstruction": Reconstruction,  # Rumelhart et al. 1986
}

# The task of a scenario that names none, by the kind of its data's labels.
TASKS_OF: dict[Kind, Objective] = {
    "classes": Classification(),
    "numbers": Regression(),
    "tokens": NextCharacter(),
}

__all__ = [
    "TASKS",
    "TASKS_OF",
    "Assessment",
    "Classification",
    "NextCharacter",
    "Objective",
    "Reconstruction",
    "Regression",
    "Task",
]
