"""The Task seam: what a run optimises.

One train loop serves every task. A task is pure: everything that changes is
in `params` (trained by gradients) and `state` (counters and statistics that
are not); `frozen` holds what the run reads but never changes, such as the
tokenizer of a stage-2 run, and is passed as an argument so that it is never
baked into a compiled program.
"""

from __future__ import annotations

from typing import Protocol

import jax

from varjax.groups import Group
from varjax.schedule import Steps
from varjax.types import Batch, EvalOutput, LossOutput, PyTree


class Task(Protocol):
  """What the train loop and the evaluator know of a task."""

  name: str

  def stages(self, steps: Steps) -> tuple[tuple[int, Task], ...]:
    """(first update, task) of each stage; the first begins at update 0.

    A stage has the parameters and the state of the others, and may train on
    other shapes; its step is compiled when it begins.
    """
    ...

  def groups(self, steps: Steps) -> dict[str, Group]:
    """The parameter groups that are trained, by name.

    `groups.MAIN` is among them; another name is a top-level entry of the
    parameters. A stage that leaves out a group of the whole task does not
    change its weights.
    """
    ...

  def init(self, rng: jax.Array) -> tuple[PyTree, PyTree]:
    """Returns (params, state); params carry logical axis names (boxed)."""
    ...

  def loss_fn(
    self,
    params: PyTree,
    state: PyTree,
    frozen: PyTree,
    batch: Batch,
    rng: jax.Array,
  ) -> tuple[jax.Array, LossOutput]:
    """Scalar training loss of a batch, and metrics with the new state.

    Its gradient is that of every group: where one must not learn from the
    loss of another, the task stops the gradient.

    Args:
      params: all groups of weights.
      state: counters and statistics before this batch.
      frozen: what the run reads and never changes.
      batch: of training, see `types.Batch`.
      rng: of this update alone.
    """
    ...

  def eval_fn(
    self, params: PyTree, state: PyTree, frozen: PyTree, batch: Batch
  ) -> EvalOutput:
    """Deterministic; `batch['mask']` [B] marks valid images.

    `params` may be averages of the main group's, without the other groups.
    """
    ...

  def after_update(
    self, params: PyTree, state: PyTree, rng: jax.Array, step: jax.Array
  ) -> tuple[PyTree, PyTree]:
    """Called inside the step after the optimiser; identity for most.

    Args:
      params, state: after the update.
      rng: of this update alone, and of this call.
      step: number of the update, from 0 on.
    """
    ...
