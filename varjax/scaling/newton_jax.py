"""The damped Newton method of newton.py in JAX, vmapped and in float64.

For bootstraps: thousands of refits that share their inputs. One step of one
problem is written down, `vmap` makes a chunk of them, threads run the
chunks. JAX is imported when the first fit asks for it, and
64-bit types hold inside these calls only: nothing else of the process
changes. float32 would stall on a Huber loss of width 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import concurrent.futures
import functools
import os
from typing import Any

import numpy as np

from varjax import errors
from varjax.scaling.forms import BoundSum, Scale
from varjax.scaling.newton import Optimum
from varjax.scaling.nonlinear import BoundSmooth, SmoothForm
from varjax.scaling.objective import Objective, Problem

_CHUNK = 64  # problems of one call
_ROUND = 12  # steps until finished problems are taken out
_IDLE = 14  # steps without gain after which a problem is done
_ACTIVE = 6  # place in a state


def minimise(
  problem: Problem, starts: np.ndarray, max_steps: int | None = None
) -> Optimum:
  """Runs every start to its local minimum, as `newton.minimise`.

  Args:
    problem: its batch is 1 (shared) or b.
    starts: [b, p].
    max_steps: as of `newton.minimise`.

  Returns:
    The optima, in the order of the starts.

  Raises:
    ConfigError: JAX is not installed.
  """
  try:
    import jax
  except ImportError as error:
    raise errors.ConfigError(
      'bootstrap_backend jax needs JAX, which is not installed; use numpy'
    ) from error
  if max_steps is None:
    max_steps = 1500 if problem.y.shape[1] <= 64 else 300
  count, size = len(starts), problem.y.shape[1]
  form, data = _form_of(problem)
  bounds = np.asarray(problem.bounds, float)
  start, advance = _programs(form, problem.objective, max_steps)
  y = np.broadcast_to(problem.y, (count, size))
  weights = np.broadcast_to(problem.weights, (count, size))
  chunk = min(_CHUNK, max(count, 1))

  def call(work: Callable, rows: np.ndarray, *state: np.ndarray) -> list:
    # Chunks of one shape are compiled once: a short one is filled up.
    full = np.resize(rows, chunk)
    # The switch to 64 bits is a thread's own.
    with jax.enable_x64(True):
      found = work(*(v[full] for v in (*state, y, weights)), data, bounds)
      return [np.asarray(v)[: len(rows)] for v in found]

  def parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + chunk] for i in range(0, len(rows), chunk)]

  def gather(found: Iterable[list]) -> list[np.ndarray]:
    return [np.concatenate(v) for v in zip(*found, strict=True)]

  starts = np.asarray(starts, float)
  if not count:
    nothing = np.zeros(0)
    return Optimum(starts, nothing, nothing, nothing > 0, nothing > 0)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    every = parts(np.arange(count))
    state = gather(pool.map(lambda rows: call(start, rows, starts), every))
    first = state[1].copy()
    # Between rounds the finished problems make room for the others.
    while len(rows := np.flatnonzero(state[_ACTIVE])):
      moved = gather(
        pool.map(lambda part: call(advance, part, *state), parts(rows))
      )
      for whole, new in zip(state, moved, strict=True):
        whole[rows] = new
  theta, value, _, _, idle, steps, _, earlier = state
  settled = earlier - value <= 1e-3 * np.abs(value)
  done = (idle >= _IDLE) | ~np.isfinite(first) | settled
  return Optimum(theta, value, steps, value < first, done)


def _form_of(problem: Problem) -> tuple[Callable, Any]:
  """How to expand log y at (theta [p], data), and the data.

  The function gives log y [n], its derivative [n, p], and the function from
  v [n] to sum_i v_i Hessian(log y_i) [p, p].
  """
  bound = problem.bound
  if isinstance(bound, BoundSum):
    return _expand_sum, (bound.z, bound.offset)
  if isinstance(bound, BoundSmooth):
    logs = {k: np.asarray(v[0], float) for k, v in bound.logs.items()}
    return _expand_smooth(bound.form, bound.scale), logs
  raise errors.ConfigError(
    f'bootstrap_backend jax does not know {type(bound).__name__}; use numpy'
  )


def _expand_sum(theta: Any, data: Any) -> tuple[Any, Any, Callable]:
  """A sum of power laws, z [n, k, p] and offset [n, k]."""
  import jax
  import jax.numpy as jnp

  z, offset = data
  terms = z @ theta + offset
  shares = jax.nn.softmax(terms, axis=-1)
  jacobian = jnp.einsum('nk,nkp->np', shares, z)

  def curvature(v: Any) -> Any:
    second = jnp.einsum('nk,nkp,nkq->pq', v[:, None] * shares, z, z)
    return second - jacobian.T @ (v[:, None] * jacobian)

  return jax.nn.logsumexp(terms, axis=-1), jacobian, curvature


def _expand_smooth(form: SmoothForm, scale: Scale) -> Callable:
  """Any other form, by automatic differentiation."""

  def expand(theta: Any, data: Any) -> tuple[Any, Any, Callable]:
    import jax
    import jax.numpy as jnp

    def log_y(t: Any) -> Any:
      values = {k: t[i] for i, k in enumerate(form.names)}
      return form.log_y(values, data, scale, jnp)

    def curvature(v: Any) -> Any:
      return jax.jacfwd(jax.grad(lambda t: log_y(t) @ v))(theta)

    return log_y(theta), jax.jacfwd(log_y)(theta), curvature

  return expand


@functools.lru_cache(maxsize=32)
def _programs(
  expand: Callable, objective: Objective, max_steps: int
) -> tuple[Callable, Callable]:
  """Compiled for chunks of problems: the first state, and a round of steps.

  A state is theta [b, p], and [b] each: the objective, the damping, whether
  steps majorise, idle steps, steps, whether it goes on, and the objective
  50 steps before the last allowed one.
  """
  import jax
  import jax.numpy as jnp

  linear, huber = objective.kind == 'linear', objective.kind == 'huber'
  delta = objective.delta

  def residual(log_yhat, y):
    return jnp.exp(log_yhat) - y if linear else log_yhat - jnp.log(y)

  def value(theta, y, weights, data):
    r = residual(expand(theta, data)[0], y)
    if not huber:
      return jnp.sum(weights * 0.5 * r * r)
    u = jnp.abs(r) / delta
    return jnp.sum(weights * jnp.where(u < 1.0, 0.5 * u * u, u - 0.5))

  def quadratic(theta, y, weights, data, majorise):
    """Gradient [p] and Hessian [p, p], or its positive majorant."""
    log_yhat, jacobian, curvature = expand(theta, data)
    r = residual(log_yhat, y)
    slope, bend = weights * r, weights
    if huber:
      u = jnp.abs(r) / delta
      slope = weights * jnp.clip(r / delta, -1.0, 1.0) / delta
      outside = jnp.where(majorise, 1.0 / jnp.maximum(u, 1.0), 0.0)
      bend = weights * jnp.where(u < 1.0, 1.0, outside) / delta**2
    if linear:
      yhat = jnp.exp(log_yhat)
      extra = jnp.where(majorise, 0.0, slope * yhat)
      slope, bend = slope * yhat, bend * yhat * yhat + extra
    hessian = jacobian.T @ (jacobian * bend[:, None])
    exact = jnp.where(majorise, 0.0, slope)
    return slope @ jacobian, hessian + curvature(exact)

  def step(theta, y, weights, data, bounds, damping, majorise):
    low, high = bounds[:, 0], bounds[:, 1]
    gradient, hessian = quadratic(theta, y, weights, data, majorise)
    blocked = ((theta <= low) & (gradient > 0)) | (
      (theta >= high) & (gradient < 0)
    )
    gradient = jnp.where(blocked, 0.0, gradient)
    hessian = jnp.where(blocked[:, None] | blocked[None, :], 0.0, hessian)
    size = jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(hessian)), 1e-30))
    scaled = hessian / (size[:, None] * size[None, :])
    scaled = jnp.where(jnp.isfinite(scaled).all(), scaled, jnp.eye(len(theta)))
    values, vectors = jnp.linalg.eigh(scaled)
    inner = -(gradient / size) @ vectors / (jnp.abs(values) + damping + 1e-12)
    move = vectors @ inner / size
    longest = jnp.maximum(jnp.abs(move).max(), 1e-300)
    move = move * jnp.minimum(1.0, 3.0 / longest)
    move = jnp.where(jnp.isfinite(move) & ~blocked, move, 0.0)
    return jnp.clip(theta + move, low, high)

  def advance(state, y, weights, data, bounds):
    """One step of one problem; a finished one stays as it is."""
    theta, best, damping, majorise, idle, steps, active, earlier = state
    earlier = jnp.where(steps == max_steps - 50, best, earlier)
    trial = step(theta, y, weights, data, bounds, damping, majorise)
    found = value(trial, y, weights, data)
    better = found < best
    gain = jnp.where(better, best - found, 0.0)
    gain = gain / jnp.maximum(jnp.abs(best), 1e-300)
    idle_now = jnp.where(gain < 1e-12, idle + 1, 0)
    moved = (
      jnp.where(better, trial, theta), jnp.where(better, found, best),
      jnp.clip(damping * jnp.where(better, 0.2, 6.0), 1e-12, 1e10),
      jnp.where(gain < 1e-3, ~majorise, majorise), idle_now, steps + 1,
      (idle_now < _IDLE) & (steps + 1 < max_steps), earlier,
    )  # fmt: skip
    return tuple(
      jnp.where(active, new, old) for new, old in zip(moved, state, strict=True)
    )

  @jax.jit
  def start(theta, y, weights, data, bounds):
    theta = jnp.clip(theta, bounds[None, :, 0], bounds[None, :, 1])
    first = jax.vmap(value, (0, 0, 0, None))(theta, y, weights, data)
    count = len(theta)
    zero = jnp.zeros(count, int)
    return (
      theta, first, jnp.full(count, 1e-2), jnp.ones(count, bool), zero, zero,
      jnp.isfinite(first), first,
    )  # fmt: skip

  @jax.jit
  def several(*args):
    *state, y, weights, data, bounds = args
    moves = jax.vmap(advance, (0, 0, 0, None, None))

    def body(carry):
      i, state = carry
      return i + 1, moves(state, y, weights, data, bounds)

    def unfinished(carry):
      i, state = carry
      return (i < _ROUND) & state[_ACTIVE].any()

    return jax.lax.while_loop(unfinished, body, (0, tuple(state)))[1]

  return start, several
