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
import numpy as np
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


class Numbers(NamedTuple):
  """The numbers of an optimiser, scalars.

  A compiled update gets them as arguments, so that runs that differ in
  nothing else share it. Complements are numbers of their own, since 1 - x
  would be rounded twice.

  Attributes:
    peak: learning rate.
    ramp: learning rate over its peak.
    decay: weight decay.
    beta1, rest1, beta2, rest2: Adam's decays, and 1 minus each.
    eps: Adam's.
    clip_norm: largest gradient norm; not read where nothing is clipped.
  """

  peak: Any
  ramp: schedule.Ramp
  decay: schedule.Decay
  beta1: Any
  rest1: Any
  beta2: Any
  rest2: Any
  eps: Any
  clip_norm: Any


def numbers_of(
  optim: specs.OptimSpec,
  *,
  total_steps: int,
  batch_size: int,
  warmup_steps: int,
  real: Callable[[float], Any] = float,
) -> Numbers:
  """The numbers of an optimiser.

  Args:
    optim: its `warmup` and `accumulate` are not read here.
    total_steps: updates of the run.
    batch_size: images per update, for `lr_reference_batch`.
    warmup_steps: updates of the warm-up.
    real: their type; a compiled update takes np.float32.

  Raises:
    ConfigError: an unknown schedule.
  """
  return Numbers(
    peak=real(schedule.peak_lr(optim, batch_size)),
    ramp=schedule.ramp(
      optim.schedule,
      total_steps=total_steps,
      warmup_steps=warmup_steps,
      warmup_start=optim.warmup_start,
      final=optim.final,
      real=real,
    ),
    decay=schedule.decay(
      total_steps=total_steps,
      start=optim.weight_decay,
      end=optim.weight_decay_end,
      real=real,
    ),
    beta1=real(optim.beta1),
    rest1=real(1 - optim.beta1),
    beta2=real(optim.beta2),
    rest2=real(1 - optim.beta2),
    eps=real(optim.eps),
    clip_norm=real(optim.clip_norm),
  )


def make_optimizer(
  optim: specs.OptimSpec, numbers: Numbers
) -> optax.GradientTransformation:
  """Clipping, Adam, scheduled decay and learning rate.

  Works on boxed and unboxed parameters; the moments keep the boxes, so that
  their shardings follow those of the parameters.

  Args:
    optim: its schedule, whether it clips, and the type of the moments.
    numbers: of it, float32; tracers inside of a compiled update.

  Raises:
    ConfigError: an unknown schedule.
  """
  schedule.check_schedule(optim.schedule)

  def values(step: jax.Array) -> dict[str, Any]:
    return hyperparameters(optim.schedule, numbers, step, jnp)

  parts = [
    _scale_by_adam(numbers, jnp.dtype(optim.moments_dtype)),
    _decay_and_step(values),
  ]
  if optim.clip_norm > 0:
    parts.insert(0, clip_by_global_norm(numbers.clip_norm))
  return optax.chain(*parts)


def hyperparameters(
  name: str, numbers: Numbers, step: Any, xp: Any = np
) -> dict[str, Any]:
  """Learning rate and weight decay of the update that starts at `step`.

  Args:
    name: of the schedule.
    numbers: of the optimiser.
    step: updates already made, integer or array.
    xp: jax.numpy inside jit; NumPy by default.

  Returns:
    {'lr': ..., 'weight_decay': ...}, for the optimiser and for logging.
  """
  return {
    'lr': numbers.peak * schedule.lr_factor(name, numbers.ramp, step, xp),
    'weight_decay': schedule.weight_decay_at(numbers.decay, step, xp),
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


def clip_by_global_norm(max_norm: Any) -> optax.GradientTransformation:
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


def _scale_by_adam(
  numbers: Numbers, mu_dtype: jnp.dtype
) -> optax.GradientTransformation:
  """`optax.scale_by_adam`, equal to the bit, of numbers that are arguments.

  Optax computes 1 - beta from a beta in float32 then, which is another
  number: 1 - 0.95 would be off by 2e-7 of its value.
  """

  def init(params: PyTree) -> optax.ScaleByAdamState:
    return optax.scale_by_adam(mu_dtype=mu_dtype).init(params)

  def mixed(rest: Any, new: jax.Array, beta: Any, old: jax.Array) -> jax.Array:
    # The moment is multiplied in its own type, which may be bfloat16.
    return rest * new + jnp.asarray(beta, old.dtype) * old

  def update(
    updates: PyTree, state: optax.ScaleByAdamState, params: PyTree = None
  ) -> tuple[PyTree, optax.ScaleByAdamState]:
    del params
    mu = jax.tree.map(
      lambda g, m: mixed(numbers.rest1, g, numbers.beta1, m), updates, state.mu
    )
    nu = jax.tree.map(
      lambda g, v: mixed(numbers.rest2, g**2, numbers.beta2, v),
      updates,
      state.nu,
    )
    count = optax.safe_increment(state.count)
    mu_hat = optax.tree.bias_correction(mu, numbers.beta1, count)
    nu_hat = optax.tree.bias_correction(nu, numbers.beta2, count)
    updates = jax.tree.map(
      lambda m, v: m / (jnp.sqrt(v) + numbers.eps), mu_hat, nu_hat
    )
    mu = optax.tree.cast(mu, mu_dtype)
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

  return optax.GradientTransformation(init, update)


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
