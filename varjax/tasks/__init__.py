"""Tasks: what a run optimises. The explicit table of them."""

from __future__ import annotations

from varjax.spec import RunSpec
from varjax.tasks.base import Task
from varjax.tasks.generate import GenerateTask
from varjax.tasks.reconstruct import ReconstructTask

TASKS = {'reconstruct': ReconstructTask, 'generate': GenerateTask}


def make_task(run: RunSpec) -> Task:
  """The task of a run; `validation` has checked its name."""
  return TASKS[run.task](run)
