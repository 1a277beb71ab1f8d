"""Stage-1 FLOPs and weights against published counts and XLA's own."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from varjax import reconstruct_costs as costs
from varjax import schedule
from varjax.discriminators import make_discriminator, vit
from varjax.features import efficientnet, lpips
from varjax.spec import (
  AdversarialSpec,
  DataSpec,
  Duration,
  PerceptualSpec,
  ReconstructSpec,
  RunSpec,
)
from varjax.tokenizer_costs import tokenizer_flops_per_image

KEY = jax.random.key(0)


def _xla_flops(fn, *args):
  """What XLA counts in a program, element-wise work included."""
  return jax.jit(fn).lower(*args).cost_analysis()['flops']


def _shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _images(side):
  return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def test_efficientnet_lite0():
  spec = PerceptualSpec('efflite0')
  assert costs.EFFLITE0 == efficientnet._BLOCKS
  network = efficientnet.load()
  params = _shapes(network.params)
  xla = _xla_flops(lambda p, x: network.forward(p, x).maps, params, _images(64))
  mine = costs.perceptual_forward(spec, 64)
  assert mine == pytest.approx(xla, rel=0.1)
  larger = dataclasses.replace(spec, resolution=64)
  assert costs.perceptual_forward(larger, 32) == mine


def test_vgg16():
  """15.3 billion multiply-adds at 224 without the classifier."""
  found = costs.perceptual_forward(PerceptualSpec('lpips_vgg16'), 224)
  assert found / 2 == pytest.approx(15.35e9, rel=0.01)
  assert tuple(w[0] for w in costs.VGG16) == lpips._WIDTHS
  assert [len(w) for w in costs.VGG16] == [len(c) for c in lpips._CONVOLUTIONS]


@pytest.mark.parametrize(('ch', 'layers', 'side'), [(64, 3, 256), (8, 1, 97)])
def test_patch_discriminator(ch, layers, side):
  spec = AdversarialSpec(discriminator='patch', ch=ch, layers=layers)
  made = make_discriminator(spec, side)
  params, _ = jax.eval_shape(made.init, KEY)
  params = nn.unbox(params)
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  assert costs.discriminator_parameters(spec) == count
  xla = _xla_flops(
    lambda p, x: made.logits(p, {}, x, KEY), params, _images(side)
  )
  trained, frozen = costs.discriminator_forward(spec, side)
  # XLA leaves out products with the padding.
  assert trained == pytest.approx(xla, rel=0.06)
  assert frozen == 0


def test_dino_discriminator():
  """ViT-S/16: 4.6 billion multiply-adds by its authors' count."""
  spec = AdversarialSpec(discriminator='dino')
  assert costs.discriminator_parameters(spec) == 7_386_245
  trained, frozen = costs.discriminator_forward(spec, 256)
  assert frozen / 2 == pytest.approx(4.6e9, rel=0.03)
  made = make_discriminator(spec, vit.SIDE)
  weights = _shapes(nn.unbox(jax.eval_shape(made.init, KEY)[0]))
  rows = jax.ShapeDtypeStruct((1, 196, 384), jnp.float32)
  xla = _xla_flops(
    lambda w, x: made._head.apply({'params': w}, x), weights['head_0'], rows
  )
  assert trained / 5 == pytest.approx(xla, rel=0.05)


def test_an_update_runs_each_network_as_often_as_stated():
  losses = ReconstructSpec(
    perceptual=PerceptualSpec('efflite0'),
    adversarial=AdversarialSpec(
      discriminator='patch', start=Duration(steps=3), consistency=0.0
    ),
  )
  run = RunSpec(
    task='reconstruct', reconstruct=losses, batch_size=2,
    total=Duration(steps=10), data=DataSpec(resolution=256),
  )  # fmt: skip
  steps = schedule.resolve_run(run, 100)
  found = costs.work(run, steps, 5)
  own = tokenizer_flops_per_image(run.tokenizer, 'train')
  assert found.tokenizer == 5 * 2 * own
  seen = costs.perceptual_forward(losses.perceptual, 256)
  assert found.perceptual == 5 * 2 * 3 * seen
  trained, _ = costs.discriminator_forward(losses.adversarial, 256)
  # Two updates: 2 for the tokenizer, 3 for the real and the fake image each.
  assert found.discriminator == 2 * 2 * (2 + 6) * trained
  assert costs.work(run, steps, 3).discriminator == 0
  assert found.total == (
    found.tokenizer + found.perceptual + found.discriminator
  )
