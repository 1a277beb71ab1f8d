"""AdamW as the official VAR training uses it, as an optax transformation.

Between the gradients of a task and the train step. Decay is decoupled and
scheduled (the update is -lr(t) * (adam + wd(t) * p), as in torch.optim.AdamW
with both schedules set before each step); gradients are clipped by their
global norm first. Loshchilov & Hutter, arXiv 1711.05101; VAR, 2404.02905.

Accumulation is a scan over micro-batches inside the train step, not
`optax.MultiSteps`: that keeps a second copy of the gradients in the state
between steps, makes "step" mean two things, and runs the update's collective
operations on every micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import optax

from varjax import errors, schedule
from varjax import rng as rngs
from varjax import spec as specs
from varjax.types import Batch, LossOutput, PyTree

DECAYED = ('kernel', 'embedding')

LossFn = Callable[
  [PyTree, PyTree, PyTree, Batch, jax.Array], tuple[jax.Array, LossOutput]
]


class ScheduleState(NamedTuple):
  """Updates made so far."""

  count: jax.Array  # int32 []


def make_optimizer(
  optim: specs.OptimSpec,
  *,
  total_steps: int,
  batch_size: int,
  warmup_steps: int,
) -> optax.GradientTransformation:
  """Clipping, Adam, scheduled decay and learning rate.

  Works on boxed and unboxed parameters; the moments keep the boxes, so that
  their shardings follow those of the parameters.

  Args:
    optim: its `warmup` and `accumulate` are not read here.
    total_steps: updates of the run.
    batch_size: images per update, for `lr_reference_batch`.
    warmup_steps: updates of the warm-up.

  Raises:
    ConfigError: an unknown schedule.
  """
  schedule.check_schedule(optim.schedule)

  def values(step: jax.Array) -> dict[str, Any]:
    return hyperparameters(
      optim,
      step,
      total_steps=total_steps,
      batch_size=batch_size,
      warmup_steps=warmup_steps,
      xp=jnp,
    )

  parts = [
    optax.scale_by_adam(
      b1=optim.beta1,
      b2=optim.beta2,
      eps=optim.eps,
      mu_dtype=jnp.dtype(optim.moments_dtype),
    ),
    _decay_and_step(values),
  ]
  if optim.clip_norm > 0:
    parts.insert(0, clip_by_global_norm(optim.clip_norm))
  return optax.chain(*parts)


def hyperparameters(
  optim: specs.OptimSpec,
  step: Any,
  *,
  total_steps: int,
  batch_size: int,
  warmup_steps: int,
  xp: Any = None,
) -> dict[str, Any]:
  """Learning rate and weight decay of the update that starts at `step`.

  Args:
    step: updates already made, integer or array.
    xp: jax.numpy inside jit; NumPy, in double precision, by default.

  Returns:
    {'lr': ..., 'weight_decay': ...}, for the optimiser and for logging.
  """
  options = {} if xp is None else {'xp': xp}
  factor = schedule.lr_factor(
    optim.schedule,
    total_steps=total_steps,
    warmup_steps=warmup_steps,
    warmup_start=optim.warmup_start,
    final=optim.final,
    **options,
  )
  decay = schedule.weight_decay_at(
    step,
    total_steps=total_steps,
    start=optim.weight_decay,
    end=optim.weight_decay_end,
    **options,
  )
  return {
    'lr': schedule.peak_lr(optim, batch_size) * factor(step),
    'weight_decay': decay,
  }


def decay_mask(params: PyTree) -> PyTree:
  """True for the leaves that decay: those named 'kernel' or 'embedding'.

  Args:
    params: boxed or unboxed; names are the last dictionary key of a leaf.

  Returns:
    The tree of `params` with a bool for each leaf.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _leaf_name(path) in DECAYED, params
  )


def global_norm(tree: PyTree) -> jax.Array:
  """Euclidean norm of all leaves together, a float32 scalar."""
  squares = [
    jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    for leaf in jax.tree.leaves(tree)
  ]
  return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Scales by min(1, max_norm / (norm + 1e-6)), as PyTorch does.

  Unlike `optax.clip_by_global_norm` it has PyTorch's 1e-6, and a norm that
  is not finite makes every update NaN, so that the train loop sees it.
  """

  def update(
    updates: PyTree, state: optax.EmptyState, params: PyTree | None = None
  ) -> tuple[PyTree, optax.EmptyState]:
    del params
    norm = global_norm(updates)
    scale = jnp.minimum(1.0, max_norm / (norm + 1e-6))
    scale = jnp.where(jnp.isfinite(norm), scale, jnp.nan)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def accumulated_value_and_grad(
  loss_fn: LossFn, micro_batches: int
) -> Callable[..., tuple[tuple[jax.Array, LossOutput], PyTree]]:
  """`jax.value_and_grad(loss_fn, has_aux=True)` over micro-batches.

  Args:
    loss_fn: `Task.loss_fn`; its loss is a mean over the images.
    micro_batches: equal parts of the batch, one after the other. Part i
      holds every `micro_batches`-th image, so that no image changes device
      when the batch axis is sharded.

  Returns:
    A function of (params, state, frozen, batch, rng) that returns
    ((loss, LossOutput), gradients): means over the parts (gradients summed
    in float32), and the state that the last part left. Part i draws from
    its own stream of `rng`.

  Raises:
    ConfigError: at trace time, if the parts cannot be equal.
  """
  value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
  if micro_batches == 1:
    return value_and_grad

  def split(x: jax.Array) -> jax.Array:
    if x.shape[0] % micro_batches:
      raise errors.ConfigError(
        f'optim.accumulate={micro_batches}: must divide batch_size={x.shape[0]}'
      )
    return einops.rearrange(x, '(b n) ... -> n b ...', n=micro_batches)

  def mean(total: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x / micro_batches, total)

  def accumulated(
    params: PyTree, state: PyTree, frozen: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[tuple[jax.Array, LossOutput], PyTree]:
    def part(carry: Any, inputs: Any) -> tuple[Any, Any]:
      state, total = carry
      index, micro = inputs
      key = jax.random.fold_in(rngs.stream(rng, 'micro_batch'), index)
      (loss, out), grads = value_and_grad(params, state, frozen, micro, key)
      total = jax.tree.map(lambda a, g: a + g.astype(jnp.float32), total, grads)
      return (out.state, total), (loss, out.metrics)

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    xs = (jnp.arange(micro_batches), jax.tree.map(split, batch))
    (state, grads), (losses, metrics) = jax.lax.scan(part, (state, zeros), xs)
    metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), mean(grads), params)
    out = LossOutput(metrics, state)  # pyright: ignore[reportCallIssue]
    return (jnp.mean(losses), out), grads

  return accumulated


def _decay_and_step(
  values: Callable[[jax.Array], dict[str, Any]],
) -> optax.GradientTransformation:
  """-lr(t) * (update + wd(t) * params), decay only where it applies."""

  def init(params: PyTree) -> ScheduleState:
    del params
    return ScheduleState(jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree, state: ScheduleState, params: PyTree | None = None
  ) -> tuple[PyTree, ScheduleState]:
    if params is None:
      raise ValueError('weight decay needs the parameters')
    now = values(state.count)

    def one(u: jax.Array, p: jax.Array, decayed: bool) -> jax.Array:
      u = u.astype(p.dtype)
      return -now['lr'] * (u + now['weight_decay'] * p if decayed else u)

    updates = jax.tree.map(one, updates, params, decay_mask(params))
    return updates, ScheduleState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)


def _leaf_name(path: tuple[Any, ...]) -> str:
  keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
  return str(keys[-1]) if keys else ''
