import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors, optim
from varjax import spec as specs
from varjax.types import LossOutput

LENGTH = {'total_steps': 6, 'batch_size': 32, 'warmup_steps': 2}
DECAYED = {'kernel', 'embedding'}


def _optimizer(spec):
  return optim.make_optimizer(spec, optim.numbers_of(spec, **LENGTH))


def _params(seed=0):
  draw = np.random.default_rng(seed).normal
  tree = {
    'dense': {'kernel': draw(size=(3, 4)), 'bias': draw(size=4)},
    'class': {'embedding': draw(size=(5, 3))},
    'pos': draw(size=(2, 3)),
  }
  return jax.tree.map(lambda x: x.astype(np.float32), tree)


def _numpy_adamw(params, grads_of_step, spec):
  """torch.optim.AdamW with clip_grad_norm_, written out, in float64."""
  flat, tree = jax.tree_util.tree_flatten_with_path(params)
  names = [path[-1].key for path, _ in flat]
  p = [np.float64(x) for _, x in flat]
  m = [np.zeros_like(x) for x in p]
  v = [np.zeros_like(x) for x in p]
  for t, grads in enumerate(grads_of_step):
    g = [np.float64(x) for x in jax.tree.leaves(grads)]
    norm = np.sqrt(sum((x**2).sum() for x in g))
    coefficient = min(1.0, spec.clip_norm / (norm + 1e-6))
    now = optim.hyperparameters(
      spec.schedule, optim.numbers_of(spec, **LENGTH), t
    )
    for i in range(len(p)):
      gi = g[i] * coefficient
      decay = now['weight_decay'] if names[i] in DECAYED else 0.0
      p[i] = p[i] * (1 - now['lr'] * decay)
      m[i] = spec.beta1 * m[i] + (1 - spec.beta1) * gi
      v[i] = spec.beta2 * v[i] + (1 - spec.beta2) * gi**2
      root = np.sqrt(v[i]) / np.sqrt(1 - spec.beta2 ** (t + 1))
      step = now['lr'] / (1 - spec.beta1 ** (t + 1))
      p[i] = p[i] - step * m[i] / (root + spec.eps)
  return jax.tree.unflatten(tree, p)


def _run(tx, params, grads_of_step):
  state = tx.init(params)
  update = jax.jit(tx.update)
  for grads in grads_of_step:
    updates, state = update(grads, state, params)
    params = jax.tree.map(lambda p, u: p + u, params, updates)
  return params, state


def test_matches_written_out_adamw():
  spec = specs.OptimSpec(
    lr=0.05, weight_decay=0.1, weight_decay_end=0.3, clip_norm=2.0, final=0.01
  )
  params = _params()
  # Some steps above the clipping norm, some below.
  steps = [
    jax.tree.map(lambda x, s=s: x * 0.1 * 4**s, _params(s)) for s in range(5)
  ]
  norms = [float(optim.global_norm(g)) for g in steps]
  assert min(norms) < 2.0 < max(norms)
  got, state = _run(_optimizer(spec), params, steps)
  want = _numpy_adamw(params, steps, spec)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    got,
    want,
  )
  assert int(state[-1].count) == 5


def test_decay_mask_by_leaf_name_boxed_and_unboxed():
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      kernel = nn.with_logical_partitioning(
        nn.initializers.ones, ('embed', 'mlp')
      )
      scale = self.param('scale', nn.initializers.ones, (4,))
      return nn.Dense(4, kernel_init=kernel)(x) * scale[None]

  boxed = Block().init(jax.random.key(0), jnp.ones((1, 3)))['params']
  want = {'Dense_0': {'kernel': True, 'bias': False}, 'scale': False}
  assert optim.decay_mask(nn.meta.unbox(boxed)) == want
  assert nn.meta.unbox(optim.decay_mask(boxed)) == want

  tx = _optimizer(specs.OptimSpec())
  moments = tx.init(boxed)[1].mu
  assert moments['Dense_0']['kernel'].names == ('embed', 'mlp')
  updates, _ = tx.update(boxed, tx.init(boxed), boxed)
  plain = nn.meta.unbox(boxed)
  same, _ = tx.update(plain, tx.init(plain), plain)
  jax.tree.map(np.testing.assert_array_equal, nn.meta.unbox(updates), same)


def test_only_decayed_leaves_shrink_without_gradient():
  spec = specs.OptimSpec(lr=0.1, weight_decay=0.5)
  params = _params()
  zeros = jax.tree.map(np.zeros_like, params)
  got, _ = _run(_optimizer(spec), params, [zeros] * 3)
  np.testing.assert_array_equal(got['pos'], params['pos'])
  np.testing.assert_array_equal(got['dense']['bias'], params['dense']['bias'])
  for module, leaf in (('dense', 'kernel'), ('class', 'embedding')):
    before, after = params[module][leaf], got[module][leaf]
    assert np.all(np.abs(after) < np.abs(before))


def test_clip_leaves_small_gradients_and_shows_nan():
  clip = optim.clip_by_global_norm(2.0)
  grads = {'a': jnp.full((4,), 0.5), 'b': jnp.zeros((2,))}
  out, _ = clip.update(grads, clip.init(grads))
  np.testing.assert_array_equal(out['a'], grads['a'])
  large = jax.tree.map(lambda g: 100 * g, grads)
  out, _ = clip.update(large, clip.init(large))
  assert float(optim.global_norm(out)) == pytest.approx(2.0, rel=1e-6)
  for bad in (jnp.nan, jnp.inf):
    out, _ = clip.update({**grads, 'b': jnp.full((2,), bad)}, clip.init(grads))
    assert all(np.isnan(x).all() for x in jax.tree.leaves(out))


def test_bfloat16_first_moment():
  spec = specs.OptimSpec(moments_dtype='bfloat16', lr=0.01)
  params = _params()
  tx = _optimizer(spec)
  got, state = _run(tx, params, [params] * 2)
  adam = state[1]
  assert {x.dtype for x in jax.tree.leaves(adam.mu)} == {jnp.dtype('bfloat16')}
  assert {x.dtype for x in jax.tree.leaves(adam.nu)} == {jnp.dtype('float32')}
  assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype('float32')}


def test_hyperparameters_for_logging():
  spec = specs.OptimSpec(lr=1e-3, lr_reference_batch=16, weight_decay=0.05)
  now = optim.hyperparameters(
    spec.schedule, optim.numbers_of(spec, **LENGTH), 2
  )
  assert now == {'lr': pytest.approx(2e-3), 'weight_decay': 0.05}


def test_unknown_schedule():
  with pytest.raises(errors.ConfigError, match='schedule'):
    _optimizer(specs.OptimSpec(schedule='cosine'))


def _loss_fn(params, state, frozen, batch, rng):
  del rng
  error = jnp.mean((batch['x'] @ params['kernel'] * frozen) ** 2)
  count = state['images'] + batch['x'].shape[0]
  return error, LossOutput({'mse': error}, {'images': count})


def test_accumulation_equals_the_whole_batch():
  draw = np.random.default_rng(0).normal
  params = {'kernel': jnp.asarray(draw(size=(3, 2)), jnp.float32)}
  batch = {'x': jnp.asarray(draw(size=(12, 3)), jnp.float32)}
  args = (params, {'images': jnp.zeros((), jnp.int32)}, 2.0, batch)
  key = jax.random.key(0)
  whole = optim.accumulated_value_and_grad(_loss_fn, 1)
  parts = jax.jit(optim.accumulated_value_and_grad(_loss_fn, 4))
  (loss, out), grads = whole(*args, key)
  (loss_4, out_4), grads_4 = parts(*args, key)
  np.testing.assert_allclose(loss_4, loss, rtol=1e-6)
  np.testing.assert_allclose(out_4.metrics['mse'], loss, rtol=1e-6)
  np.testing.assert_allclose(grads_4['kernel'], grads['kernel'], rtol=1e-5)
  assert int(out_4.state['images']) == int(out.state['images']) == 12


def test_accumulation_draws_differently_in_each_part():
  def loss_fn(params, state, frozen, batch, rng):
    del frozen
    noise = jax.random.uniform(rng)
    loss = params['kernel'].sum() * batch['x'].mean() * 0 + noise
    return loss, LossOutput({'noise': noise}, state + noise**2)

  args = ({'kernel': jnp.ones((2, 2))}, jnp.zeros(()), None)
  batch = {'x': jnp.ones((4, 1))}
  part = optim.accumulated_value_and_grad(loss_fn, 4)
  (mean, out), _ = part(*args, batch, jax.random.key(3))
  # Equal draws would make the mean square equal the squared mean.
  assert float(out.state / 4 - mean**2) > 1e-4


def test_accumulation_must_divide_the_batch():
  part = optim.accumulated_value_and_grad(_loss_fn, 5)
  state = {'images': jnp.zeros((), jnp.int32)}
  with pytest.raises(errors.ConfigError, match=r'accumulate=5.*batch_size=12'):
    part(
      {'kernel': jnp.ones((3, 2))},
      state,
      1.0,
      {'x': jnp.ones((12, 3))},
      jax.random.key(0),
    )
