"""The pipeline on official weights against the official code's outputs.

Tolerances of the fixtures: ids exact, logits 1e-4, images 3e-4.
"""

import types

import jax
import numpy as np
import parity_case
import pytest
import torch_writer

from varjax.interop import official
from varjax.pipeline import VarPipeline
from varjax.sampling import edit


@pytest.fixture(
  scope='module',
  params=[
    'open_a',
    pytest.param('open_b', marks=pytest.mark.slow),
    pytest.param('open_c', marks=pytest.mark.slow),
  ],
)
def case(request, parity_dir):
  found = parity_case.load(parity_dir, request.param)
  pipe = official.pipeline(found.config, found.vae, found.var)
  found.codes = tuple(
    found.outputs[f'vae/idx_{k}'].reshape(-1, *grid)
    for k, grid in enumerate(pipe.grids)
  )
  found.key = jax.random.key(0)
  return types.SimpleNamespace(**vars(found), pipe=pipe)


def flat(codes):
  return np.concatenate([np.asarray(c).reshape(len(c), -1) for c in codes], 1)


def check_image(case, found, name, *, unit=True):
  expected, stride = parity_case.image(case.outputs, name)
  found = np.asarray(found)[:, ::stride, ::stride]
  if unit:
    assert found.min() >= 0
    assert found.max() <= 1
  np.testing.assert_allclose(found, expected, rtol=0, atol=3e-4, err_msg=name)


def test_encode(case):
  codes = case.pipe.encode(case.images)
  for k, (found, expected) in enumerate(zip(codes, case.codes, strict=True)):
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected, f'scale {k}')


def test_decode(case):
  images = case.pipe.decode(case.codes)
  check_image(case, images, 'vae/rec_last', unit=False)


def test_logits(case):
  found = case.pipe.logits(case.labels, case.codes)
  expected = case.outputs['var/logits']
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
  nobody = case.pipe.logits(np.full_like(case.labels, -1), case.codes)
  expected = case.outputs['var/logits_uncond']
  np.testing.assert_allclose(nobody, expected, rtol=0, atol=1e-4)


def test_greedy_samples(case):
  images, codes = case.pipe.sample(
    case.labels, case.key, cfg=1.5, top_k=1, top_p=0.0
  )
  expected = case.outputs['sample_cfg1.5/tokens']
  np.testing.assert_array_equal(flat(codes), expected)
  check_image(case, images, 'sample_cfg1.5/img')


def test_smooth_samples_with_given_noise(case):
  images, _ = case.pipe.sample(
    case.labels,
    case.key,
    cfg=case.config['cfg'],
    top_k=case.config['smooth_top_k'],
    top_p=0.0,
    smooth=True,
    gumbel=case.inputs['gumbel'],
  )
  check_image(case, images, 'smooth/img')


@pytest.mark.parametrize('name', ['inpaint', 'outpaint', 'classedit'])
def test_edits(case, name):
  expected = case.outputs[f'edit_{name}/mask']
  box = tuple(case.info['edit_box'][k] for k in ('y0', 'x0', 'y1', 'x1'))
  keep = 'inside' if name == 'outpaint' else 'outside'
  mask = edit.box_mask(case.pipe.grids[-1], box, keep=keep)
  np.testing.assert_array_equal(mask, expected)
  labels = case.labels
  if name != 'classedit':
    labels = np.full_like(labels, -1)
  images, codes = case.pipe.edit(
    case.images, labels, mask, case.key, cfg=3.0, top_k=1, top_p=0.0
  )
  expected = case.outputs[f'edit_{name}/tokens_sampled']
  np.testing.assert_array_equal(flat(codes), expected)
  check_image(case, images, f'edit_{name}/img')


def test_files_give_the_same_pipeline(case, tmp_path):
  """Through a .pth, with everything inferred but what tensors cannot say."""
  vae = torch_writer.save(tmp_path / 'vae.pth', case.vae)
  var = torch_writer.save(tmp_path / 'var.pth', case.var, legacy=True)
  pipe = VarPipeline.from_official(
    vae,
    var,
    num_heads=case.config['num_heads'],
    using_znorm=case.config['using_znorm'],
  )
  assert pipe.grids == case.pipe.grids
  assert pipe.tokenizer.spec == case.pipe.tokenizer.spec
  jax.tree.map(np.testing.assert_array_equal, pipe._weights, case.pipe._weights)
