"""Real networks on meshes: the same numbers, and only the talk they need.

Loss and gradients on 8 devices equal those on one, and the compiled program
moves weights between devices, never activations, but for the sums that
tensor parallelism is made of (arXiv 1909.08053, section 3).
"""

import dataclasses
import functools
import math
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny

from varjax import collectives, errors, optim, sharding, tokenizers
from varjax import spec as specs
from varjax.tasks import make_task

NOWHERE = pathlib.Path('nowhere')
ROWS, POSITIONS, WIDTH, DEPTH = 16, 21, 32, 3
# Programs that run once: do not optimise their machine code.
FAST = {'xla_backend_optimization_level': 0}


def var_run(**overrides):
  sizes = {'model.width': WIDTH, 'model.heads': 8, 'model.depth': DEPTH}
  return tiny.var_run(NOWHERE, NOWHERE, NOWHERE, **(sizes | overrides))


def tokenizer_run(**overrides):
  sizes = {
    'tokenizer.ch_mult': (1, 2),
    'tokenizer.scales': (1, 2, 8),
    'tokenizer.norm_groups': 8,
  }
  return tiny.tokenizer_run(NOWHERE, **(sizes | overrides))


def _inputs(run):
  """Frozen weights and a batch, on the host."""
  draw = np.random.default_rng(0)
  label = draw.integers(0, 3, ROWS).astype(np.int32)
  if run.task == 'reconstruct':
    image = draw.integers(0, 256, (ROWS, 16, 16, 3)).astype(np.uint8)
    return {}, {'image': image, 'label': label}
  tokenizer = tokenizers.make_tokenizer(run.tokenizer, 16)
  weights = jax.eval_shape(lambda k: tokenizer.init(k, 16), jax.random.key(0))
  weights = jax.tree.map(
    lambda x: draw.normal(size=x.shape).astype(np.float32) / 8,
    nn.meta.unbox(weights),
  )
  codes = draw.integers(0, 32, (ROWS, POSITIONS, 1)).astype(np.int32)
  frozen = {'quantizer': tokenizer.quantizer(weights)}
  return frozen, {'codes': codes, 'label': label}


@dataclasses.dataclass
class Case:
  """A task whose loss and gradients can be had on any mesh."""

  run: specs.RunSpec

  def __post_init__(self):
    self.task = make_task(self.run)
    self.inputs = _inputs(self.run)
    self.boxed = jax.eval_shape(self.task.init, jax.random.key(0))
    draw = np.random.default_rng(1)
    params, state = nn.meta.unbox(self.boxed)
    params = jax.tree.map(
      lambda x: draw.normal(size=x.shape).astype(np.float32) / 5, params
    )
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    self.state = (params, state)

  @functools.cached_property
  def single(self):
    """(loss, gradients) of one device."""
    return self.on((1, 1, 1))[0]

  def on(self, layout):
    """((loss, gradients), collectives, mesh) of a layout."""
    mesh = sharding.make_mesh(
      specs.MeshSpec(*layout), jax.devices()[: math.prod(layout)]
    )
    sharding.check_run(self.run, mesh)
    shardings = sharding.shardings_of(self.boxed, mesh)
    params, state = jax.device_put(self.state, shardings)
    frozen = jax.device_put(self.inputs[0], sharding.replicated(mesh))
    batch = sharding.shard_batch(self.inputs[1], mesh)
    value_and_grad = optim.accumulated_value_and_grad(
      self.task.loss_fn, self.run.optim.accumulate
    )

    def loss_and_gradients(*args):
      (loss, _), gradients = value_and_grad(*args)
      return loss, gradients

    jitted = jax.jit(
      loss_and_gradients,
      out_shardings=(sharding.replicated(mesh), shardings[0]),
      compiler_options=FAST,
    )
    args = (params, state, frozen, batch, jax.random.key(1))
    with sharding.use_mesh(mesh):
      compiled = jitted.lower(*args).compile()
      got = jax.tree.map(np.asarray, compiled(*args))
    return got, collectives.parse(compiled.as_text()), mesh

  def equals_one_device(self, got):
    (loss, gradients), (want_loss, want) = got, self.single
    assert loss == pytest.approx(want_loss, rel=1e-5)
    # Gradients that are zero but for rounding are measured by the largest.
    largest = max(np.abs(g).max() for g in jax.tree.leaves(want))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-5, atol=1e-5 * largest
      ),
      gradients,
      want,
    )


@pytest.fixture(scope='module')
def var():
  return Case(var_run())


@pytest.fixture(scope='module')
def tokenizer():
  return Case(tokenizer_run())


def activations(found, mesh, smallest):
  """Arrays with a batch axis of at least `smallest` bytes, by kind."""
  rows = mesh.shape['data'] * mesh.shape['fsdp']
  kinds = {}
  for one in found:
    for array in one.arrays:
      # Kernels of convolutions are square and odd; no batch here is.
      is_batch = array.shape[:1] in ((ROWS,), (ROWS // rows,))
      if is_batch and len(array.shape) > 2 and array.bytes >= smallest:
        kinds.setdefault(one.kind, []).extend([array.shape] * one.trips)
  return kinds


def _check_var(case, layout):
  got, found, mesh = case.on(layout)
  case.equals_one_device(got)
  rows = ROWS // (layout[0] * layout[1])
  stream = (rows, POSITIONS, WIDTH)
  moved = activations(found, mesh, 4 * math.prod(stream) // 2)
  if layout[2] == 1:
    assert moved == {}
  else:
    # Two sums forward and two backward in each block, and one of the head.
    assert moved == {'all-reduce': [stream] * (4 * DEPTH + 1)}
  sums = collectives.totals(found)
  weights = sum(4 * x.size for x in jax.tree.leaves(case.state[0]))
  gathered = sums['all-gather'].bytes if 'all-gather' in sums else 0
  if layout[1] == 1:
    assert gathered < 0.05 * weights
  else:
    # Weights, once forward and once backward; nothing a second time.
    assert 0.5 * weights / layout[2] < gathered < 2.2 * weights
  assert 'all-to-all' not in sums
  return sums


@pytest.mark.parametrize('layout', [(2, 2, 2)])
def test_transformer_equals_one_device_and_moves_weights_only(var, layout):
  _check_var(var, layout)


@pytest.mark.slow
@pytest.mark.parametrize(
  'layout', [(8, 1, 1), (1, 8, 1), (2, 4, 1), (1, 1, 8), (4, 1, 2), (1, 2, 4)]
)
def test_transformer_on_every_other_layout(var, layout):
  sums = _check_var(var, layout)
  if layout == (8, 1, 1):
    assert list(sums) == ['all-reduce']


def _check_tokenizer(case, layout):
  got, found, mesh = case.on(layout)
  case.equals_one_device(got)
  moved = activations(found, mesh, 4 * ROWS * 8 * 8 * 8 // 8)
  if layout[2] == 1:
    assert moved == {}
    assert 'collective-permute' not in collectives.totals(found)
  else:
    assert set(moved) == {'all-reduce'}
    kernels = [c for c in found if 'conv2' in c.op_name or 'conv1' in c.op_name]
    per_conv = [
      c for c in kernels if c.kind == 'all-reduce' and 'transpose' not in
      c.op_name and len(c.arrays) == 1
    ]  # fmt: skip
    # One sum per residual block on the way forward.
    blocks = [
      key for net in ('encoder', 'decoder')
      for key in case.state[0][net] if 'block' in key
    ]  # fmt: skip
    assert len(per_conv) == len(blocks)


@pytest.mark.slow
@pytest.mark.parametrize(
  'layout', [(2, 2, 2), (8, 1, 1), (1, 8, 1), (2, 4, 1), (1, 1, 8), (4, 1, 2)]
)
def test_tokenizer_equals_one_device_and_moves_weights_only(tokenizer, layout):
  _check_tokenizer(tokenizer, layout)


@pytest.mark.slow
@pytest.mark.parametrize(
  'make', [var_run, tokenizer_run], ids=['transformer', 'tokenizer']
)
def test_accumulation_equals_one_device(make):
  case = Case(make(**{'optim.accumulate': 2}))
  got, _, _ = case.on((2, 2, 2))
  case.equals_one_device(got)


def test_every_weight_matrix_is_cut(var, tokenizer):
  """All layers are in: what stays whole is small, and named here."""
  mesh = sharding.make_mesh(specs.MeshSpec(1, 4, 2))
  axes = {}
  for case in (var, tokenizer):
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      sharding.shardings_of(case.boxed, mesh)[0]
    ):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      axes[name] = set(jax.tree.leaves(tuple(leaf.spec))) - {None}
  both = ('fc1/kernel', 'fc2/kernel', 'attention/qkv/kernel',
          'attention/proj/kernel', 'conv1/kernel', 'conv2/kernel',
          'adaln/kernel', 'head/logits/kernel')  # fmt: skip
  for name, used in axes.items():
    if name.endswith(both):
      assert used == {'fsdp', 'tensor'}, name
  assert axes['embed/classes/embedding'] == {'fsdp'}
  kernels = {name for name in axes if name.endswith('kernel')}
  # Of 3 or code_dim input channels.
  assert {name for name in kernels if 'fsdp' not in axes[name]} == {
    'encoder/conv_in/kernel', 'decoder/conv_in/kernel', 'quant_conv/kernel',
    'post_quant_conv/kernel', 'quantizer/phi/kernel',
  }  # fmt: skip


@pytest.mark.parametrize(
  ('run', 'layout', 'message'),
  [
    (var_run(**{'model.heads': 4}), (1, 1, 8),
     r'mesh\.tensor=8: must divide model\.heads=4, .* use 4'),
    (tokenizer_run(**{'tokenizer.norm_groups': 2}), (2, 1, 4),
     r'mesh\.tensor=4: must divide tokenizer\.norm_groups=2'),
    (var_run(**{'optim.accumulate': 2}), (8, 1, 1),
     r'batch_size / optim\.accumulate=4: must be a multiple of 8'),
    (var_run(**{'eval_batch_size': 12}), (1, 8, 1),
     r'eval_batch_size=12: must be a multiple of 8'),
  ],
)  # fmt: skip
def test_uneven_divisions_name_the_fix(run, layout, message):
  mesh = sharding.make_mesh(specs.MeshSpec(*layout))
  with pytest.raises(errors.ConfigError, match=message):
    sharding.check_run(run, mesh)


def test_an_activation_that_is_gathered_is_seen():
  """The measure above has teeth: a constraint that asks for everything."""
  mesh = sharding.make_mesh(specs.MeshSpec(1, 8, 1))
  stream = (ROWS, POSITIONS, WIDTH)
  x = jax.device_put(np.ones(stream, np.float32), sharding.batch_sharding(mesh))

  def gather(x):
    return nn.with_logical_constraint(x * 2, (None, None, None)).sum(0)

  with sharding.use_mesh(mesh):
    text = jax.jit(gather).lower(x).compile().as_text()
  moved = activations(collectives.parse(text), mesh, 4 * math.prod(stream) // 8)
  assert moved == {'all-gather': [stream]}
