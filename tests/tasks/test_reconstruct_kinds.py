"""Every kind of quantizer trains: a few updates of the smallest networks."""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from varjax.spec import DataSpec, RunSpec, TokenizerSpec
from varjax.tasks.reconstruct import ReconstructTask
from varjax.tokenizers import nearest

BASE = TokenizerSpec(
  ch=8, ch_mult=(1,), num_res_blocks=1, norm_groups=4, attention=False,
  quant_conv_size=1, scales=(4,), code_dim=6, vocab=64,
)  # fmt: skip
KINDS = {
  'vq': {'znorm': True, 'latent_dim': 8, 'entropy': 0.01,
         'entropy_temperature': 0.5},
  'rq': {'codes_per_position': 2, 'vocab': 16, 'kmeans_updates': 3,
         'revive_every': 3, 'code_dim': 3},
  'fsq': {'levels': (5, 4, 3), 'code_dim': 3, 'vocab': 60},
  'lfq': {'entropy': 0.01, 'entropy_bits': 6, 'entropy_temperature': 1.0},
  'bsq': {'codes_per_position': 2, 'vocab': 8, 'entropy': 0.01,
          'entropy_temperature': 1.0},
}  # fmt: skip
STEPS = 12


def _task(kind):
  spec = dataclasses.replace(BASE, kind=kind, **KINDS[kind])
  return ReconstructTask(
    RunSpec(task='reconstruct', data=DataSpec(resolution=4), tokenizer=spec)
  )


# 'bsq' is 'lfq' on the sphere: by default one of them is enough.
PARAMS = [
  pytest.param(kind, marks=[pytest.mark.slow] if kind == 'lfq' else [])
  for kind in KINDS
]


@pytest.fixture(scope='module', params=PARAMS)
def history(request):
  """Losses, gradients and states of a dozen updates on one batch."""
  task = _task(request.param)
  params, state = jax.jit(task.init)(jax.random.key(0))
  params = meta.unbox(params)
  images = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 3))
  batch = {'image': jnp.asarray(np.tile(images, (1, 4, 4, 1)), jnp.uint8)}
  optimizer = optax.adam(1e-2)

  def update(params, state, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)
    (loss, output), grads = jax.value_and_grad(task.loss_fn, has_aux=True)(
      params, state, {}, batch, key
    )
    updates, opt_state = optimizer.update(grads, opt_state)
    params, state = task.after_update(
      optax.apply_updates(params, updates), output.state, key, step
    )
    return params, state, opt_state, (loss, output.metrics, grads)

  opt_state, steps = optimizer.init(params), []
  # Compiling is most of the time: without optimisation it takes half.
  update = (
    jax.jit(update)
    .lower(params, state, opt_state, jnp.int32(0))
    .compile({'xla_backend_optimization_level': 0})
  )
  for step in range(STEPS):
    params, state, opt_state, seen = update(
      params, state, opt_state, jnp.int32(step)
    )
    steps.append((*seen, params, state))
  return task, batch, steps


def test_the_loss_falls_and_gradients_are_finite(history):
  _, _, steps = history
  pixels = [float(m['loss_l1'] + m['loss_l2']) for _, m, *_ in steps]
  assert pixels[-1] < 0.8 * pixels[0]
  for loss, _, grads, *_ in steps:
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  # Every part learns from the pixels, across the quantizer.
  for name in ('encoder', 'quant_conv', 'post_quant_conv', 'decoder'):
    grads = jax.tree.leaves(steps[0][2][name])
    assert any(np.any(g) for g in grads), name


def test_usage_is_counted_per_code_of_a_position(history):
  task, _, steps = history
  spec, state = task.code_spec, steps[1][-1].usage
  shape = (spec.codes_per_position, spec.vocab)
  assert state.ema.shape == shape
  np.testing.assert_allclose(state.ema.sum(-1), 8 * 16, rtol=1e-5)


@pytest.mark.parametrize('history', ['rq'], indirect=True)
def test_the_k_means_start_happens_once(history):
  task, _, steps = history
  books = [params['quantizer']['embedding'] for *_, params, _ in steps]
  updates = [int(state.usage.updates) for *_, state in steps]
  assert updates[:4] == [1, 2, 0, 1]  # counting starts again
  # Adam moves an entry by at most about the rate; k-means sets it.
  moves = [
    float(jnp.abs(a - b).max())
    for a, b in zip(books[1:], books[:-1], strict=True)
  ]
  assert moves[1] > 3 * moves[0]
  rows = steps[2][-1].usage.reservoir.reshape(-1, task.run.tokenizer.code_dim)

  def error(book):
    code = nearest.nearest(rows[None], book)[0]
    return float(jnp.mean(jnp.square(rows - book[code])))

  assert error(books[2]) < 0.2 * error(books[1])
