"""A small official model whose outputs travel with the repository.

The weights are drawn from a frozen stream that anyone can draw again, so
only what the official PyTorch code (FoundationVision/VAR @ 78b9539, torch
2.13, CPU, float32) made of them is stored. The first scale is 2x2, every
scale has its own phi with ratio 0.3, heads are 16 wide, the MLP 2.5 times,
AdaLN is shared, and half of the attention scales are beyond the clamp.
"""

import json
import pathlib
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors
from varjax.evals import nll
from varjax.interop import official, official_var
from varjax.sampling import edit
from varjax.tokenizers import msvq

FILE = pathlib.Path(__file__).parents[1] / 'testdata/official_small.npz'
STRIDE = 3  # of the stored pixels


def draw(name, shape, mean, scale):
  """Numbers on a grid of 1/64; `RandomState` is frozen for all versions."""
  stream = np.random.RandomState(zlib.crc32(name.encode()))
  grid = stream.randint(-64, 65, shape).astype(np.float32)
  return np.float32(mean) + np.float32(scale / 64) * grid


@pytest.fixture(scope='module')
def case():
  with np.load(FILE) as file:
    stored = {name: file[name] for name in file.files}
  config = json.loads(str(stored['config']))
  states = {'vae': {}, 'var': {}}
  for name, shape, mean, scale in json.loads(str(stored['tensors'])):
    owner, _, tensor = name.partition('/')
    states[owner][tensor] = draw(name, shape, mean, scale)
  images = draw('images', (2, 3, 8, 8), 0, 1).repeat(8, 2).repeat(8, 3)
  images = images + draw('detail', (2, 3, 64, 64), 0, 0.25)
  pipe = official.pipeline(
    config, **{f'{k}_state': v for k, v in states.items()}
  )
  tokens = stored['out/codes']
  ends = np.cumsum([h * w for h, w in pipe.grids])[:-1]
  codes = tuple(
    part.reshape(-1, *grid)
    for part, grid in zip(np.split(tokens, ends, 1), pipe.grids, strict=True)
  )
  return types.SimpleNamespace(
    config=config,
    stored=stored,
    images=np.moveaxis(np.clip(images, -1, 1), 1, -1),
    labels=stored['in/label'],
    pipe=pipe,
    tokens=tokens,
    codes=codes,
    key=jax.random.key(0),
  )


def flat(codes):
  return np.concatenate([np.asarray(c).reshape(len(c), -1) for c in codes], 1)


def to_nchw(x):
  return np.moveaxis(np.asarray(x), -1, 1)


def close(found, expected, atol):
  np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def close_image(case, found, name):
  close(to_nchw(found)[..., ::STRIDE, ::STRIDE], case.stored[name], 3e-4)


def close_gradient(case, found, name):
  expected = case.stored[f'grad/{name}']
  assert np.abs(expected).max() > 1e-6, name
  np.testing.assert_allclose(
    found, expected, rtol=0, atol=1e-3 * np.abs(expected).max(), err_msg=name
  )


def test_the_clamp_is_reached(case):
  scales = np.asarray(
    case.pipe._weights['model']['blocks']['attention']['scale']
  )
  assert 0 < np.mean(scales > np.log(100)) < 1


def test_another_epsilon_is_refused(case):
  with pytest.raises(errors.ConfigError, match='norm_eps'):
    official_var.spec_from_config(case.config | {'norm_eps': 1e-5})


def test_tokenizer(case):
  pipe = case.pipe
  np.testing.assert_array_equal(flat(pipe.encode(case.images)), case.tokens)
  close_image(case, pipe.decode(case.codes), 'out/rec')
  quantizer = pipe.tokenizer.quantizer(pipe._weights['tokenizer'])
  total = msvq.sum_codes(quantizer, jnp.asarray(case.tokens)[..., None])
  close(to_nchw(total), case.stored['out/fhat'], 1e-4)


def test_logits(case):
  found = case.pipe.logits(case.labels, case.codes)
  close(found, case.stored['out/logits'], 1e-4)
  nobody = case.pipe.logits(np.full_like(case.labels, -1), case.codes)
  close(nobody, case.stored['out/logits_uncond'], 1e-4)


@pytest.mark.parametrize(
  'cfg',
  [
    1.5,
    pytest.param(0, marks=pytest.mark.slow),
    pytest.param(3, marks=pytest.mark.slow),
  ],
)
def test_greedy_samples(case, cfg):
  def sample(labels):
    return case.pipe.sample(labels, case.key, cfg=cfg, top_k=1, top_p=0.0)

  images, codes = sample(case.labels)
  expected = case.stored[f'out/sample_cfg{cfg:g}']
  np.testing.assert_array_equal(flat(codes), expected)
  if cfg == 1.5:
    close_image(case, images, 'out/sample_img')
    _, codes = sample(np.full_like(case.labels, -1))
    np.testing.assert_array_equal(flat(codes), case.stored['out/sample_uncond'])


def test_smooth_samples_with_given_noise(case):
  gumbel = case.stored['in/gumbel'].astype(np.float32)
  images, _ = case.pipe.sample(
    case.labels, case.key, cfg=1.5, top_k=5, top_p=0.0, smooth=True,
    gumbel=gumbel,
  )  # fmt: skip
  close_image(case, images, 'out/smooth_img')


def test_in_painting(case):
  box = tuple(case.config['edit_box'])
  mask = edit.box_mask(case.pipe.grids[-1], box, keep='outside')
  nobody = np.full_like(case.labels, -1)
  images, codes = case.pipe.edit(
    case.images, nobody, mask, case.key, cfg=3.0, top_k=1, top_p=0.0
  )
  np.testing.assert_array_equal(flat(codes), case.stored['out/inpaint'])
  close_image(case, images, 'out/inpaint_img')


def test_gradients_of_the_transformer(case):
  pipe, codes = case.pipe, jnp.asarray(case.tokens)[..., None]
  quantizer = pipe.tokenizer.quantizer(pipe._weights['tokenizer'])
  inputs = pipe.order.example(quantizer, codes).inputs

  @jax.jit
  @jax.value_and_grad
  def objective(params):
    labels = jnp.asarray(case.labels)
    logits = pipe.model.apply({'params': params}, labels, inputs)
    return jnp.mean(nll.cross_entropy(logits, codes))

  loss, grads = objective(pipe._weights['model'])
  close(loss, case.stored['out/loss'], 1e-4)
  found = official_var.to_official(pipe.model.spec, pipe.order.layout, grads)
  names = [k[9:] for k in case.stored if k.startswith('grad/var/')]
  assert len(names) >= 8
  for name in names:
    close_gradient(case, found[name], f'var/{name}')


def test_gradients_of_the_quantiser(case):
  tokenizer = case.pipe.tokenizer
  params = case.pipe._weights['tokenizer']
  features = tokenizer.encode_features(params, jnp.asarray(case.images))
  shape = case.stored['grad/f'].shape
  probe = jnp.moveaxis(jnp.asarray(draw('probe', shape, 0, 1)), 1, -1)

  @jax.jit
  def objective(quantizer, features):
    found = msvq.quantize(
      tokenizer.quantizer(params | {'quantizer': quantizer}),
      features,
      tokenizer.spec.commitment,
    )
    return found.loss + jnp.mean(found.features * probe), found.loss

  (_, loss), (grads, grad_features) = jax.value_and_grad(
    objective, argnums=(0, 1), has_aux=True
  )(params['quantizer'], features)
  close(loss, case.stored['out/vq_loss'], 1e-4)
  close_gradient(case, to_nchw(grad_features), 'f')
  close_gradient(case, grads['embedding'], 'vae/quantize.embedding.weight')
  kernels = np.asarray(grads['phi']['kernel']).transpose(0, 4, 3, 1, 2)
  for k, kernel in enumerate(kernels):
    close_gradient(case, kernel, f'vae/quantize.quant_resi.{k}.weight')
    bias = grads['phi']['bias'][k]
    close_gradient(case, bias, f'vae/quantize.quant_resi.{k}.bias')
