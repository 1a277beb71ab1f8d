"""The transformer, loss and sampler against the official PyTorch code.

Tolerances are those of the fixtures: ids and masks exact, logits, features
and losses 1e-4, images 3e-4, gradients 1e-3 of the tensor's largest entry.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import parity_case
import pytest

from varjax import optim, progressive
from varjax.errors import CheckpointError, ConfigError
from varjax.evals import nll
from varjax.interop import official_vae, official_var
from varjax.models import attention
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.sampling import edit, loop
from varjax.sampling import logits as logits_lib
from varjax.spec import OptimSpec, OrderSpec, SampleSpec
from varjax.tokenizers import make_tokenizer

ATOL = 1e-4


def _compile(function):
  # Tiny arrays and many shapes: compiling dominates these tests.
  return jax.jit(
    function, compiler_options={'xla_backend_optimization_level': 0}
  )


@pytest.fixture(scope='module', params=['open_a', 'open_b', 'open_c'])
def case(request, parity_dir):
  found = parity_case.load(parity_dir, request.param)
  outputs = found.outputs
  spec = official_var.spec_from_config(found.config, compute_dtype='float32')
  tokenizer_spec = official_vae.spec_from_config(found.config)
  order = make_order(OrderSpec('scale'), tokenizer_spec)
  params = official_var.from_official(spec, order.layout, found.var)
  tokenizer = make_tokenizer(tokenizer_spec, found.images.shape[1])
  vae = jax.tree.map(
    jnp.asarray, official_vae.from_official(tokenizer_spec, found.vae)
  )
  quantizer = tokenizer.quantizer(vae)
  scales = len(order.layout.block_sizes)
  codes = np.concatenate([outputs[f'vae/idx_{k}'] for k in range(scales)], 1)
  codes = jnp.asarray(codes, jnp.int32)[..., None]
  model = Transformer(spec, order.layout)
  return types.SimpleNamespace(
    config=found.config,
    info=found.info,
    state=found.var,
    inputs=found.inputs,
    outputs=outputs,
    spec=spec,
    order=order,
    layout=order.layout,
    model=model,
    params=jax.tree.map(jnp.asarray, params),
    forward=_compile(lambda p, *args: model.apply({'params': p}, *args)),
    quantizer=quantizer,
    codes=codes,
    labels=jnp.asarray(found.labels),
    example=_compile(order.example)(quantizer, codes),
    decode=_compile(functools.partial(tokenizer.decode_features, vae)),
  )


@pytest.fixture(scope='module')
def logits(case):
  return case.forward(case.params, case.labels, case.example.inputs)


def _close(found, expected, atol=ATOL, message=''):
  np.testing.assert_allclose(
    np.asarray(found), expected, rtol=0, atol=atol, err_msg=message
  )


def _nchw(x):
  return np.moveaxis(np.asarray(x), -1, 1)


def _check_image(case, name, features):
  (key,) = [k for k in case.outputs if k.partition('@')[0] == f'{name}/img']
  stride = int(key.partition('@s')[2] or 1)
  image = (case.decode(features) + 1) / 2
  _close(_nchw(image)[..., ::stride, ::stride], case.outputs[key], 3e-4, key)


def test_weights_convert_back_bit_for_bit(case):
  back = official_var.to_official(case.spec, case.layout, case.params)
  for name, value in case.state.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)
  extra = back.keys() - case.state.keys()
  assert extra <= {'attn_bias_for_masking'}


def test_mismatched_weights_are_named(case):
  missing = {k: v for k, v in case.state.items() if k != 'head.bias'}
  with pytest.raises(CheckpointError, match=r'head\.bias'):
    official_var.from_official(case.spec, case.layout, missing)
  with pytest.raises(CheckpointError, match='stranger'):
    official_var.from_official(
      case.spec, case.layout, case.state | {'stranger': np.zeros(1)}
    )
  wrong = case.state | {'lvl_embed.weight': np.zeros((99, 3))}
  with pytest.raises(CheckpointError, match=r'lvl_embed\.weight'):
    official_var.from_official(case.spec, case.layout, wrong)
  with pytest.raises(ConfigError, match='embed_dim'):
    official_var.spec_from_config({'depth': 2})


def test_teacher_inputs_and_mask(case):
  _close(case.example.inputs, case.outputs['vae/var_input'])
  mask = attention.allowed(case.layout.block_sizes, None)[0, 0]
  np.testing.assert_array_equal(mask, case.outputs['var/mask_allowed'] > 0)
  by_steps = attention.allowed(None, case.example.steps)[0, 0]
  np.testing.assert_array_equal(mask, by_steps)


def test_logits(case, logits):
  _close(logits[:, :, 0], case.outputs['var/logits'])
  nobody = jnp.full_like(case.labels, case.spec.num_classes)
  found = case.forward(case.params, nobody, case.example.inputs)
  _close(found[:, :, 0], case.outputs['var/logits_uncond'])


def test_hidden_states(case):
  def trunk(depth):
    spec = dataclasses.replace(case.spec, depth=depth)
    model = Transformer(spec, case.layout)
    params = dict(case.params)
    params['blocks'] = jax.tree.map(lambda x: x[:depth], params['blocks'])
    stacked = ('gss',) if case.spec.shared_adaln else ('kernel', 'bias')
    params['adaln'] = {
      k: v[:depth] if k in stacked else v for k, v in params['adaln'].items()
    }

    def hidden(model):
      condition = model.condition(case.labels)
      return model.trunk(condition, case.example.inputs)

    return _compile(lambda p: model.apply({'params': p}, method=hidden))(params)

  _close(trunk(1), case.outputs['var/block0_out'])
  _close(trunk(case.spec.depth), case.outputs['var/trunk_out'])


def test_losses(case, logits):
  for key, expected in case.outputs.items():
    if key.startswith('loss/ce_ls'):
      smoothing = float(key.removeprefix('loss/ce_ls'))
      found = nll.cross_entropy(logits, case.codes, smoothing)
      _close(found, expected, message=key)
      total = jnp.mean(jnp.mean(found * case.example.weights, axis=1))
      _close(total, case.outputs[f'loss/total_ls{smoothing:g}'])
  sizes = case.layout.block_sizes
  loss = nll.cross_entropy(logits, case.codes)
  wrong = nll.wrong(logits, case.codes)
  _close(jnp.mean(loss), case.outputs['loss/L_mean'])
  _close(
    jnp.mean(nll.by_scale(loss, sizes)[:, -1]), case.outputs['loss/L_tail']
  )
  accuracy = 100 * (1 - wrong)
  _close(jnp.mean(accuracy), case.outputs['loss/acc_mean'])
  tail = nll.by_scale(accuracy, sizes)[:, -1]
  _close(jnp.mean(tail), case.outputs['loss/acc_tail'])


def test_progressive_stages(case):
  sizes = case.layout.block_sizes
  stages = [
    int(key.removeprefix('prog/si').partition('_')[0])
    for key in case.outputs
    if key.startswith('prog/') and key.endswith('_loss')
  ]
  assert stages
  for stage in stages:
    end = sum(sizes[: stage + 1])
    inputs = case.example.inputs[:, : end - case.layout.start]
    found = case.forward(case.params, case.labels, inputs)
    _close(found[:, :, 0], case.outputs[f'prog/si{stage}_logits'])
    loss = nll.cross_entropy(found, case.codes[:, :end])
    weights = progressive.stage_weights(sizes, stage, newest=0.3)
    total = jnp.sum(jnp.mean(loss, axis=0) * weights) / sum(sizes)
    _close(total, case.outputs[f'prog/si{stage}_loss'])


def _loss(case, params):
  logits = case.model.apply(
    {'params': params}, case.labels, case.example.inputs
  )
  return jnp.mean(nll.cross_entropy(logits, case.codes))


def test_gradients_and_four_optimiser_steps(case):
  train = case.info['train']
  settings = OptimSpec(
    lr=train['peak_lr'],
    schedule=train['sche'],
    warmup_start=train['wp0'],
    final=train['wpe'],
    weight_decay=train['wd'],
    weight_decay_end=train['wd_end'],
    clip_norm=train['clip'],
  )
  options = {
    'total_steps': train['max_it'],
    'batch_size': len(case.labels),
    'warmup_steps': train['wp_it'],
  }
  numbers = optim.numbers_of(settings, **options)
  optimizer = optim.make_optimizer(settings, numbers)

  @_compile
  def update(params, state):
    loss, grads = jax.value_and_grad(functools.partial(_loss, case))(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss, grads

  params, state = case.params, optimizer.init(case.params)
  rows = case.outputs['var_train/loss_gnorm_lr_wd']
  for step, row in enumerate(rows):
    params, state, loss, grads = update(params, state)
    if step == 0:
      _check_gradients(case, grads)
    hyper = optim.hyperparameters(settings.schedule, numbers, step)
    np.testing.assert_allclose(loss, row[0], rtol=0, atol=1e-3)
    norm = optax.global_norm(grads)
    np.testing.assert_allclose(norm, row[1], rtol=5e-3)
    np.testing.assert_allclose(hyper['lr'], row[2], rtol=1e-6)
    np.testing.assert_allclose(hyper['weight_decay'], row[3], rtol=1e-6)
  if 'var_train/after_logits' in case.outputs:
    after = case.forward(params, case.labels, case.example.inputs)
    _close(after[:, :, 0], case.outputs['var_train/after_logits'], 1e-2)


def _check_gradients(case, gradients):
  found = official_var.to_official(case.spec, case.layout, gradients)
  compared = 0
  for key, expected in case.outputs.items():
    kind, _, name = key.removeprefix('var_train/').partition('/')
    if not key.startswith('var_train/') or kind not in ('gnorm', 'grad'):
      continue
    compared += 1
    if kind == 'gnorm':
      norm = np.linalg.norm(found[name])
      np.testing.assert_allclose(
        norm, expected, rtol=1e-3, atol=1e-5, err_msg=key
      )
    else:
      atol = 1e-3 * np.abs(expected).max() + 1e-9
      _close(found[name], expected, atol, key)
  assert compared > 10


@pytest.fixture(scope='module')
def greedy(case):
  """One compiled sampler for every greedy fixture."""

  @_compile
  def run(params, quantizer, labels, cfg, known):
    return loop.run(
      case.model,
      params,
      case.order,
      quantizer,
      labels,
      jax.random.key(0),
      SampleSpec(cfg=cfg, top_k=1),
      known=known,
    )

  def sample(labels, cfg, known=None):
    if known is None:
      nowhere = jnp.zeros(case.layout.positions, bool)
      known = edit.Known(codes=case.codes, keep=nowhere)
    cfg = jnp.float32(cfg)
    return run(case.params, case.quantizer, labels, cfg, known)

  return sample


@pytest.mark.parametrize('name', ['cfg1.5', 'cfgX', 'cfg0'])
def test_greedy_samples(case, greedy, name):
  cfg = case.config['cfg'] if name == 'cfgX' else float(name[3:])
  result = greedy(case.labels, cfg)
  expected = case.outputs[f'sample_{name}/tokens']
  np.testing.assert_array_equal(result.codes[..., 0], expected)
  _close(_nchw(result.features), case.outputs[f'sample_{name}/fhat'])
  _check_image(case, f'sample_{name}', result.features)
  if f'sample_{name}/logits' in case.outputs:
    _close(result.logits[:, :, 0], case.outputs[f'sample_{name}/logits'])
  if cfg == 0:
    inputs = _compile(case.order.example)(case.quantizer, result.codes).inputs
    forced = case.forward(case.params, case.labels, inputs)
    _close(result.logits, forced, 2e-5)


def test_unconditional_samples(case, greedy):
  expected = case.outputs['sample_uncond/tokens']
  assert len(expected) <= len(case.labels)
  found = greedy(jnp.full_like(case.labels, -1), 1.5).codes[..., 0]
  np.testing.assert_array_equal(found[: len(expected)], expected)


def test_more_smooth(case):
  @_compile
  def run(params, quantizer, gumbel):
    return loop.sample(
      case.model,
      params,
      case.order,
      quantizer,
      case.labels,
      jax.random.key(0),
      SampleSpec(
        cfg=case.config['cfg'],
        top_k=case.config['smooth_top_k'],
        smooth=True,
      ),
      gumbel=gumbel,
    )[1]

  gumbel = jnp.asarray(case.inputs['gumbel'])
  features = run(case.params, case.quantizer, gumbel)
  _close(_nchw(features), case.outputs['smooth/fhat'])
  _check_image(case, 'smooth', features)


def test_filters(case):
  values = case.inputs['filter_logits']
  checked = 0
  for key, expected in case.outputs.items():
    if key.startswith('filter/'):
      k, p = key.removeprefix('filter/k').split('_p')
      kept = logits_lib.top_p(logits_lib.top_k(values, int(k)), float(p))
      _same_survivors(values, np.asarray(kept > -jnp.inf), expected > 0, key)
      checked += 1
  assert checked


def _same_survivors(values, found, expected, key):
  # Which of several equal logits survive top-p is left to torch's unstable
  # sort; how many do is not.
  for row, a, b in zip(
    *(x.reshape(-1, x.shape[-1]) for x in (values, found, expected)),
    strict=True,
  ):
    if len(np.unique(row)) == len(row):
      np.testing.assert_array_equal(a, b, key)
    np.testing.assert_array_equal(np.sort(row[a]), np.sort(row[b]), key)


@pytest.mark.parametrize('name', ['inpaint', 'outpaint', 'classedit'])
def test_editing(case, greedy, name):
  prefix = f'edit_{name}/'
  box = tuple(case.info['edit_box'][k] for k in ('y0', 'x0', 'y1', 'x1'))
  grids = case.order.code_spec.grids
  keep = 'inside' if name == 'outpaint' else 'outside'
  mask = edit.box_mask(grids[-1], box, keep=keep)
  np.testing.assert_array_equal(mask, case.outputs[prefix + 'mask'])
  known = edit.known(case.codes, mask, grids)
  kept = case.outputs[prefix + 'keep_mask_scales'] > 0
  np.testing.assert_array_equal(known.keep, kept)
  labels = case.labels
  if name != 'classedit':
    labels = jnp.full_like(labels, case.spec.num_classes)
  result = greedy(labels, 3.0, known)
  expected = case.outputs[prefix + 'tokens_sampled']
  np.testing.assert_array_equal(result.codes[..., 0], expected)
  _close(_nchw(result.features), case.outputs[prefix + 'fhat'])
  _check_image(case, f'edit_{name}', result.features)
  merged = edit.merge(result.codes, known)
  np.testing.assert_array_equal(merged[:, kept], case.codes[:, kept])
  np.testing.assert_array_equal(merged[:, ~kept], result.codes[:, ~kept])
