"""The flash kernels, interpreted on a CPU, against the float32 reference."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import sharding
from varjax.errors import ConfigError
from varjax.models import attention, norm, quantised, remat
from varjax.models.flash import block_causal, cached
from varjax.models.flash.tiles import Tile, Tiles
from varjax.spec import MeshSpec

HEAD = 16
# Of every kernel another shape, so that none is taken for granted.
SMALL = Tiles(Tile(32, 16), Tile(16, 32), Tile(32, 16))


def _arrays(length, keys=None, batch=2, heads=2, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  shapes = [(batch, n, heads, HEAD) for n in (length, keys or length)]
  q, weights = rng.normal(0, 1, (2, *shapes[0]))
  k, v = rng.normal(0, 1, (2, *shapes[1]))
  q, k, v = (jnp.asarray(x, dtype) for x in (q, k, v))
  return q, k, v, jnp.asarray(weights, jnp.float32)


HEAD_SCALE = jnp.asarray([3.0, 8.0])


def _reference(blocks, scale, q, k, v, head_scale=None):
  q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
  if head_scale is not None:
    q, k = _normalised(q, k, head_scale)
  return attention.xla(q, k, v, scale, blocks, None)


def _normalised(q, k, head_scale):
  scale = head_scale[None, None, :, None]
  return norm.unit(q, scale), norm.unit(k, jnp.ones((1, 1, 1, 1)))


def _kernel(blocks, scale, q, k, v, head_scale=None):
  return block_causal.attend(
    q, k, v, scale=scale, blocks=blocks, unit_scale=head_scale,
    interpret=True, tiles=SMALL,
  )  # fmt: skip


def _packed(blocks, scale, q, k, v, head_scale=None):
  return block_causal.attend_packed(
    jnp.stack([q, k, v], axis=2), scale=scale, blocks=blocks,
    unit_scale=head_scale, interpret=True, tiles=SMALL,
  )  # fmt: skip


def _with_gradients(function, weights, *arguments):
  """Outputs and the gradients of a weighted sum of them."""

  def loss(*arguments):
    out = function(*arguments)
    return jnp.sum(out.astype(jnp.float32) * weights), out

  every = tuple(range(len(arguments)))
  grads, out = jax.jit(jax.grad(loss, every, has_aux=True))(*arguments)
  return out, *grads


def _assert_close(found, expected):
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def _assert_no_worse(found, usual, exact):
  """Errors are near those of XLA in the same type.

  The kernels round the slopes of the logits for the tensor cores, which XLA
  on a CPU does not.
  """

  def error(x, y):
    return np.sqrt(np.mean(np.square(x.astype(jnp.float32) - y)))

  for one, other, right in zip(found, usual, exact, strict=True):
    right = right.astype(jnp.float32)
    assert one.dtype == other.dtype
    if right.size == 2:
      # Two sums over rows of about 1 that nearly cancel: four standard
      # deviations of what rounding each row to 8 bits adds up to.
      rows = found[0].shape[0] * found[0].shape[1]
      assert error(one, right) < 4 * 2**-8 * rows**0.5
    else:
      assert error(one, right) < 1.5 * error(other, right)


def _usual(blocks, scale, q, k, v, head_scale=None):
  if head_scale is not None:
    q, k = _normalised(q, k, head_scale)
  return attention.xla(q, k, v, scale, blocks, None)


@pytest.mark.parametrize(
  ('blocks', 'cosine', 'dtype'),
  [
    ((1, 4, 16, 25), False, jnp.float32),
    ((1, 4, 16, 25), True, jnp.bfloat16),
    ((3, 30, 1), True, jnp.float32),
    ((2, 3), False, jnp.float32),  # Shorter than any tile.
    ((1,) * 37, False, jnp.bfloat16),  # Causal, and odd.
  ],
)
def test_equals_the_reference_with_gradients(blocks, cosine, dtype):
  *qkv, weights = _arrays(sum(blocks), dtype=dtype)
  if cosine:
    qkv.append(HEAD_SCALE)
  found, usual, exact = (
    _with_gradients(
      functools.partial(function, blocks, 1.0 if cosine else 0.3),
      weights, *qkv,
    )
    for function in (_kernel, _usual, _reference)
  )  # fmt: skip
  if dtype == jnp.float32:
    _assert_close(found, exact)
  else:
    _assert_no_worse(found, usual, exact)


@pytest.mark.parametrize('cosine', [False, True])
def test_one_array_of_all_three_is_as_good_as_three(cosine):
  dtype = jnp.bfloat16 if cosine else jnp.float32
  *qkv, weights = _arrays(46, dtype=dtype)
  if cosine:
    qkv.append(HEAD_SCALE)
  found, expected = (
    _with_gradients(
      functools.partial(function, (1, 4, 16, 25), 1.0), weights, *qkv
    )
    for function in (_packed, _kernel)
  )
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)


def test_without_blocks_keys_may_be_more_than_queries():
  *qkv, weights = _arrays(19, 50)
  found, expected = (
    _with_gradients(functools.partial(f, None, 0.3), weights, *qkv)
    for f in (_kernel, _reference)
  )
  _assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_official_size_with_the_tiles_of_a_gpu(dtype):
  blocks = tuple(n * n for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
  rng = np.random.default_rng(0)
  q, k, v, weights = (
    jnp.asarray(x, dtype) for x in rng.normal(0, 1, (4, 1, 680, 2, 64))
  )
  arguments = q, k, v, HEAD_SCALE

  def kernel(q, k, v, head_scale):
    return block_causal.attend(
      q, k, v, scale=1.0, blocks=blocks, unit_scale=head_scale, interpret=True
    )

  weights = weights.astype(jnp.float32)
  found, usual, exact = (
    _with_gradients(function, weights, *arguments)
    for function in (
      kernel,
      functools.partial(_usual, blocks, 1.0),
      functools.partial(_reference, blocks, 1.0),
    )
  )
  if dtype == jnp.float32:
    _assert_close(found, exact)
  else:
    _assert_no_worse(found, usual, exact)


def test_rows_of_zeros_have_finite_gradients():
  q, k, v, weights = _arrays(5, batch=1)
  q, k = q.at[:, 1].set(0.0), k.at[:, 2].set(0.0)
  found = _with_gradients(
    functools.partial(_kernel, (2, 3), 1.0), weights, q, k, v, HEAD_SCALE
  )
  for x in found:
    assert np.isfinite(x).all()


def test_a_mesh_changes_nothing():
  blocks = (1, 4, 16)
  *qkv, weights = _arrays(21, batch=4)
  expected = _with_gradients(
    functools.partial(_reference, blocks, 1.0), weights, *qkv, HEAD_SCALE
  )
  mesh = sharding.make_mesh(MeshSpec(1, 2, 2), jax.devices()[:4])
  for function in (_kernel, _packed):
    with sharding.use_mesh(mesh):
      found = _with_gradients(
        functools.partial(function, blocks, 1.0), weights, *qkv, HEAD_SCALE
      )
    _assert_close(found, expected)


def test_what_does_not_divide_is_refused_or_left_to_others():
  q, k, v, _ = _arrays(5, batch=2)
  mesh = sharding.make_mesh(MeshSpec(1, 4, 1), jax.devices()[:4])

  def attend(q, k, v):
    assert not attention.flash_fits(q)
    return _kernel((2, 3), 1.0, q, k, v)

  with sharding.use_mesh(mesh), pytest.raises(ConfigError, match='batch_size'):
    jax.jit(attend)(q, k, v)


def test_under_scan_remat_and_vmap():
  q, k, v, weights = _arrays(21, batch=1, heads=1)
  stack = jnp.stack([q, 2 * q]), jnp.stack([k, k - 1])
  policy = remat.policy('light')

  def deep(function, q, k, v):
    def layer(v, qk):
      return jax.checkpoint(
        lambda v, q, k: v + function((5, 16), 0.3, q, k, v), policy=policy
      )(v, *qk), None

    return jax.lax.scan(layer, v, (q, k))[0]

  # Two independent stacks, one batch axis of the kernel each.
  def run(function):
    batched = jax.vmap(functools.partial(deep, function), in_axes=(1, 1, 0))
    arguments = (
      jnp.stack([stack[0], -stack[0]], axis=1),
      jnp.stack([stack[1]] * 2, axis=1),
      jnp.stack([v, v]),
    )
    return _with_gradients(batched, weights[None], *arguments)

  _assert_close(run(_kernel), run(_reference))


@pytest.mark.parametrize('visible', [0, 7, 30, 64])
@pytest.mark.parametrize('programs', [1, 16])
def test_cached_step_reads_what_is_filled(visible, programs):
  q, k, v, _ = _arrays(3, 67)
  # What is not filled must not matter, whatever it is, nor another layer.
  past = [
    jnp.stack([x[:, :64] + 3, x[:, :64].at[:, visible:].set(1e4)])
    for x in (k, v)
  ]
  found = _cached(
    q, k[:, 64:], v[:, 64:], *past, None, None, jnp.int32(visible), programs
  )
  seen = np.r_[:visible, 64:67]
  expected = attention.xla(q, k[:, seen], v[:, seen], 0.3, None, None)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('programs', [1, 16])
def test_a_cache_of_int8_is_turned_back_in_the_kernel(programs):
  q, k, v, _ = _arrays(3, 67)
  (k8, k_scale), (v8, v_scale) = (
    quantised.of_rows(jnp.stack([x[:, :64]] * 2)) for x in (k, v)
  )
  found = _cached(
    q, k[:, 64:], v[:, 64:], k8, v8, k_scale, v_scale, 40, programs
  )
  keys, values = (
    jnp.concatenate([x8[1, :, :40] * s[1, :, :40, :, None], x[:, 64:]], axis=1)
    for x8, s, x in ((k8, k_scale, k), (v8, v_scale, v))
  )
  expected = attention.xla(q, keys, values, 0.3, None, None)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@functools.partial(jax.jit, static_argnums=8)
def _cached(q, k, v, past_k, past_v, k_scale, v_scale, visible, programs):
  return cached.attend(
    q, k, v, cached.Past(past_k, past_v, k_scale, v_scale, 1), scale=0.3,
    visible=visible, interpret=True, tile=Tile(16, 16), programs=programs,
    tiles=1,
  )  # fmt: skip


def _shapes(jaxpr):
  """Of every array of a program, but for those inside kernels."""
  for equation in jaxpr.eqns:
    yield from (v.aval.shape for v in equation.outvars)
    if equation.primitive.name != 'pallas_call':
      for inner in jax.extend.core.jaxprs_in_params(equation.params):
        yield from _shapes(inner)


def test_no_array_has_two_axes_of_positions():
  length = 300
  q = jnp.zeros((1, length, 2, HEAD))

  def program(backend):
    def loss(q, k, v):
      return attention.attend(
        q, k, v, scale=1.0, blocks=(100, 200), backend=backend
      ).sum()

    return jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, q, q)

  def squares(backend):
    shapes = list(_shapes(program(backend).jaxpr))
    assert (1, length, 2, HEAD) in shapes
    return [s for s in shapes if sum(n >= length for n in s) > 1]

  assert squares('xla')
  assert not squares('flash')


@pytest.mark.parametrize('cosine', [False, True])
def test_what_is_kept_for_the_backward_pass(cosine):
  q = jnp.zeros((2, 40, 2, HEAD), jnp.bfloat16)
  extra = (HEAD_SCALE,) if cosine else ()
  function = functools.partial(_kernel, (10, 30), 1.0)
  kept = jax.eval_shape(lambda *x: jax.vjp(function, *x)[1], q, q, q, *extra)
  numbers = [x for x in jax.tree.leaves(kept) if x.ndim < 4]
  assert [x.shape for x in jax.tree.leaves(kept) if x.ndim == 4] == [
    q.shape
  ] * 4
  # The logarithm of the denominator; inverse lengths and scales of heads.
  assert sum(x.size for x in numbers) == 160 * (3 if cosine else 1) + (
    2 if cosine else 0
  )


@pytest.mark.parametrize(('remat_name', 'runs'), [('light', 1), ('dots', 2)])
def test_a_policy_that_keeps_the_results_spares_a_second_run(remat_name, runs):
  q = jnp.zeros((1, 20, 1, HEAD))

  def layer(q, k, v):
    q, k, v = (
      remat.name(x, label)
      for x, label in zip(
        (jnp.sin(q), jnp.sin(k), jnp.sin(v)),
        (remat.QUERY, remat.KEY, remat.VALUE),
        strict=True,
      )
    )
    return _kernel((4, 16), 1.0, q, k, v).sum()

  policy = remat.policy(remat_name)
  grad = jax.grad(jax.checkpoint(layer, policy=policy), (0, 1, 2))
  names = list(_kernel_names(jax.make_jaxpr(grad)(q, q, q).jaxpr))
  assert names.count('flash_forward') == runs
  assert names.count('flash_dq') == names.count('flash_dkv') == 1


def _kernel_names(jaxpr):
  """Of the kernels whose results something reads; XLA drops the others."""
  read = {
    id(x) for e in jaxpr.eqns for x in e.invars
  } | {id(x) for x in jaxpr.outvars}  # fmt: skip
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'pallas_call':
      if any(id(x) in read for x in equation.outvars):
        yield equation.params['name']
    else:
      for inner in jax.extend.core.jaxprs_in_params(equation.params):
        yield from _kernel_names(inner)


def test_falls_back_where_it_has_no_tiles():
  rng = np.random.default_rng(0)
  q, k, v = (jnp.asarray(x, jnp.float32) for x in rng.normal(
    0, 1, (3, 1, 5, 2, 12)))  # fmt: skip
  steps = jnp.asarray([[0, 2, 1, 1, 3]])
  for rule in ({'blocks': (2, 3)}, {'steps': steps}):
    found, expected = (
      attention.attend(q, k, v, scale=0.3, backend=backend, **rule)
      for backend in ('flash', 'xla')
    )
    np.testing.assert_array_equal(found, expected)
