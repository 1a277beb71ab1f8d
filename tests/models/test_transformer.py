"""The transformer: counts, initialisation, variants, cached decoding."""

import dataclasses
import json
import math

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
from official_sizes import PARAMETERS, PARAMETERS_512, SCALES_256, SCALES_512
import pytest

from varjax.errors import ConfigError
from varjax.models import cache as cache_lib
from varjax.models.transformer import Transformer
from varjax.spec import ModelSpec
from varjax.types import CodeSpec, Layout

TINY = ModelSpec(
  depth=3, width=16, heads=2, num_classes=3, compute_dtype='float32'
)


def make_layout(grids, vocab=11, code_dim=4, **changes):
  codes = CodeSpec(tuple(grids), vocab, code_dim)
  layout = Layout(
    positions=codes.positions,
    start=codes.block_sizes[0],
    block_sizes=codes.block_sizes,
    input_kind='features',
    input_dim=code_dim,
    targets_per_position=1,
    vocab=vocab,
    num_positions=codes.positions,
    num_steps=len(grids),
  )
  return dataclasses.replace(layout, **changes)


# The first scale is larger than one cell, and the grids are rectangular.
LAYOUT = make_layout([(1, 2), (2, 2), (3, 2)])


def _compile(function):
  # Tiny arrays and many variants: compiling dominates these tests.
  return jax.jit(
    function, compiler_options={'xla_backend_optimization_level': 0}
  )


def init(spec, layout, key=0):
  model = Transformer(spec, layout)
  rows = layout.positions - layout.start
  inputs = jnp.zeros((1, rows, layout.input_dim))
  if layout.input_kind == 'codes':
    inputs = inputs.astype(jnp.int32)
  steps = jnp.zeros((1, layout.positions), jnp.int32)
  label = jnp.zeros(1, jnp.int32)
  return model.init({'params': jax.random.key(key)}, label, inputs, None, steps)


def official_count(spec, resolution_scales):
  layout = make_layout([(s, s) for s in resolution_scales], 4096, 32)
  shapes = jax.eval_shape(lambda: meta.unbox(init(spec, layout)))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def random_params(spec, layout, key=1):
  """All leaves random, so that no branch is nearly off as after init."""
  shapes = jax.eval_shape(lambda: meta.unbox(init(spec, layout)))['params']
  rng = np.random.default_rng(key)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), shapes
  )


def make_inputs(layout, batch=2):
  rng = np.random.default_rng(2)
  rows = layout.positions - layout.start
  shape = (batch, rows, layout.input_dim)
  labels = jnp.arange(batch, dtype=jnp.int32)
  if layout.input_kind == 'codes':
    codes = rng.integers(0, layout.vocab, shape)
    return labels, jnp.asarray(codes, jnp.int32)
  return labels, jnp.asarray(rng.normal(0, 1, shape), jnp.float32)


@pytest.mark.parametrize('depth', sorted(PARAMETERS))
def test_official_parameter_counts(depth):
  spec = ModelSpec(depth=depth, width=64 * depth, heads=depth)
  assert official_count(spec, SCALES_256) == PARAMETERS[depth]


def test_parameter_count_of_the_512_model_with_shared_adaln():
  spec = ModelSpec(depth=36, width=2304, heads=36, shared_adaln=True)
  assert official_count(spec, SCALES_512) == PARAMETERS_512


def test_every_parameter_names_its_axes():
  boxed = jax.eval_shape(lambda: init(TINY, LAYOUT))['params']
  leaves = jax.tree.leaves(
    boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata)
  )
  assert leaves
  for leaf in leaves:
    assert isinstance(leaf, meta.AxisMetadata)
    assert len(leaf.names) == len(leaf.value.shape)


@pytest.mark.parametrize('name', ['d4', 'd4_shared'])
def test_initial_spread_is_official(parity_dir, name):
  stats = json.loads((parity_dir / 'init_stats.json').read_text())[name]
  shared = stats['kw']['shared_aln']
  spec = ModelSpec(
    depth=4,
    width=256,
    heads=4,
    shared_adaln=shared,
    init_gamma=stats['kw']['init_adaln_gamma'],
  )
  layout = make_layout([(s, s) for s in SCALES_256], 4096, 32)
  ours = _compile(lambda: meta.unbox(init(spec, layout))['params'])()
  block = {
    'attn.scale_mul_1H11': ours['blocks']['attention']['scale'],
    'attn.q_bias': ours['blocks']['attention']['q_bias'],
    'attn.mat_qkv.weight': ours['blocks']['attention']['qkv']['kernel'],
    'attn.proj.weight': ours['blocks']['attention']['proj']['kernel'],
    'ffn.fc1.weight': ours['blocks']['mlp']['fc1']['kernel'],
    'ffn.fc2.weight': ours['blocks']['mlp']['fc2']['kernel'],
  }
  width = spec.width
  if shared:
    block['ada_gss[:2]'] = ours['adaln']['gss'][:, :2]
    block['ada_gss[2:]'] = ours['adaln']['gss'][:, 2:]
  else:
    kernel = ours['adaln']['kernel']
    block['ada_lin.1.weight[:2C]'] = kernel[..., : 2 * width]
    block['ada_lin.1.weight[2C:]'] = kernel[..., 2 * width :]
  found = {
    'pos_start': ours['embed']['start'],
    'pos_1LC': ours['embed']['pos'],
    'word_embed.weight': ours['embed']['word']['kernel'],
    'word_embed.bias': ours['embed']['word']['bias'],
    'class_emb.weight': ours['embed']['classes']['embedding'],
    'lvl_embed.weight': ours['embed']['level'],
    'head_nm.ada_lin.1.weight': ours['head']['adaln']['kernel'],
    'head.weight': ours['head']['logits']['kernel'],
  }
  if shared:
    found['shared_ada_lin.1.weight'] = ours['adaln']['kernel']
  for key, stacked in block.items():
    for i in range(4):
      found[f'blocks.{i}.{key}'] = stacked[i]
  compared = 0
  for key, (_, mean, std) in stats['params'].items():
    if key not in found:
      continue
    value = np.asarray(found[key])
    # Four standard errors of the two sample deviations.
    slack = 4 * math.sqrt(1 / value.size)
    np.testing.assert_allclose(value.std(), std, rtol=slack, err_msg=key)
    np.testing.assert_allclose(
      value.mean(), mean, rtol=1e-6, atol=6 * std / math.sqrt(value.size)
    )
    compared += 1
  assert compared >= 20
  rates = np.linspace(0, 0.1 * 4 / 24, 4)
  np.testing.assert_allclose(rates, stats['drop_path'], rtol=1e-6)


@pytest.fixture(scope='module')
def plain():
  """Parameters, inputs, and the loss and gradient of the scanned model."""
  params = random_params(TINY, LAYOUT)
  labels, inputs = make_inputs(LAYOUT)
  return params, labels, inputs, _value_and_grad(TINY, params, labels, inputs)


def _value_and_grad(spec, params, labels, inputs):
  model = Transformer(spec, LAYOUT)

  def loss(params):
    logits = model.apply(
      {'params': params},
      labels,
      inputs,
      train=True,
      rngs={'drop_path': jax.random.key(3)},
    )
    return jnp.mean(jax.nn.logsumexp(3 * logits, axis=-1)), logits

  return _compile(jax.value_and_grad(loss, has_aux=True))(params)


def _same(found, expected, rtol=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=rtol * float(jnp.max(jnp.abs(b))) + 1e-7
    ),
    found,
    expected,
  )


@pytest.mark.parametrize(
  'change',
  [
    {'scan': False},
    {'unroll': 2, 'remat': 'light'},
    {'remat': 'dots'},
    {'remat': 'full', 'scan': False},
    {'attention': 'blockwise'},
  ],
)
def test_scan_remat_and_blockwise_change_nothing(plain, change):
  params, labels, inputs, expected = plain
  spec = dataclasses.replace(TINY, **change)
  _same(_value_and_grad(spec, params, labels, inputs), expected)


def test_bfloat16_is_close_and_logits_stay_float32(plain):
  params, labels, inputs, ((_, expected), gradients) = plain
  spec = dataclasses.replace(TINY, compute_dtype='bfloat16')
  (_, logits), found = _value_and_grad(spec, params, labels, inputs)
  assert logits.dtype == jnp.float32
  spread = float(jnp.std(expected))
  assert float(jnp.std(logits - expected)) < 0.05 * spread
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(gradients), strict=True
  ):
    assert a.dtype == jnp.float32
    assert jnp.linalg.norm(a - b) < 0.15 * jnp.linalg.norm(b) + 1e-4


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
  spec = dataclasses.replace(TINY, depth=2, drop_path=0.5)
  params = random_params(spec, LAYOUT)
  model = Transformer(spec, LAYOUT)
  labels, inputs = make_inputs(LAYOUT, batch=1)

  def hidden(model):
    return model.trunk(model.condition(labels), inputs, train=True)

  @jax.jit
  def draw(key):
    return model.apply(
      {'params': params}, method=hidden, rngs={'drop_path': key}
    )

  drawn = jax.vmap(draw)(jax.random.split(jax.random.key(0), 64))
  # The first block has rate 0; the last drops each branch or doubles it.
  different = np.unique(np.asarray(drawn[:, 0, 0, 0]).round(4))
  assert len(different) == 4


def test_cached_steps_equal_the_teacher_forced_forward(plain):
  params, labels, inputs, ((_, expected), _) = plain
  model = Transformer(TINY, LAYOUT)

  @_compile
  def decode(params, labels, inputs):
    def steps(model):
      condition = model.condition(labels)
      cache = cache_lib.empty(TINY, len(labels), LAYOUT.positions)
      logits, start = [], -LAYOUT.start
      for step, size in enumerate(LAYOUT.block_sizes):
        rows = inputs[:, start : start + size] if step else None
        out, cache = model.decode(condition, rows, cache, step)
        logits.append(model.classify(condition, out)[0])
        start += size
      return jnp.concatenate(logits, axis=1)

    return model.apply({'params': params}, method=steps)

  _same(decode(params, labels, inputs), expected)


def test_prefix_of_whole_blocks_only(plain):
  params, labels, inputs, ((_, expected), _) = plain
  model = Transformer(TINY, LAYOUT)
  forward = _compile(lambda x: model.apply({'params': params}, labels, x))
  _same(forward(inputs[:, :4]), expected[:, :6])
  with pytest.raises(ConfigError, match='do not end with a block'):
    forward(inputs[:, :5])


def test_code_inputs_with_dynamic_steps():
  layout = make_layout(
    [(1, 1), (2, 2)],
    block_sizes=None,
    input_kind='codes',
    input_dim=2,
    targets_per_position=2,
    num_steps=0,
  )
  params = random_params(TINY, layout)
  model = Transformer(TINY, layout)
  labels, inputs = make_inputs(layout)
  steps = jnp.asarray([[0, 3, 1, 2, 4], [0, 1, 2, 3, 4]])
  forward = _compile(
    lambda x: model.apply({'params': params}, labels, x, steps=steps)
  )
  logits = forward(inputs)
  assert logits.shape == (2, 5, 2, layout.vocab)
  changed = forward(inputs.at[:, 0].add(1) % layout.vocab)
  moved = np.abs(np.asarray(changed - logits)).max(axis=(2, 3)) > 1e-6
  np.testing.assert_array_equal(moved, steps >= steps[:, 1:2])
  with pytest.raises(ConfigError, match='steps'):
    model.apply({'params': params}, labels, inputs)


@pytest.mark.parametrize(
  ('field', 'value'), [('attention', 'magic'), ('remat', 'some')]
)
def test_unknown_choices_are_named(field, value):
  spec = dataclasses.replace(TINY, **{field: value})
  with pytest.raises(ConfigError, match=f'model.{field}'):
    jax.eval_shape(lambda: init(spec, LAYOUT))


def test_logit_scale_stops_at_100_with_the_official_gradient():
  params = random_params(TINY, LAYOUT)
  labels, inputs = make_inputs(LAYOUT)
  high = jnp.full_like(params['blocks']['attention']['scale'], 9.0)

  def forward(scale):
    attention = params['blocks']['attention'] | {'scale': scale}
    changed = params | {'blocks': params['blocks'] | {'attention': attention}}
    model = Transformer(TINY, LAYOUT)
    return model.apply({'params': changed}, labels, inputs).std()

  value, gradient = _compile(jax.value_and_grad(forward))(high)
  limit = jnp.full_like(high, math.log(100))
  np.testing.assert_allclose(value, forward(limit), rtol=1e-5)
  assert not np.any(gradient)
