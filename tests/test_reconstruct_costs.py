"""Stage-1 FLOPs and weights against published counts and XLA's own."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from varjax import backbone_costs, memory, schedule
from varjax import reconstruct_costs as costs
from varjax.discriminators import make_discriminator, vit
from varjax.features import efficientnet, lpips
from varjax.losses.perceptual import PERCEPTUAL
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
  network = efficientnet.load()
  params = _shapes(network.params)
  xla = _xla_flops(lambda p, x: network.forward(p, x).maps, params, _images(64))
  mine = costs.perceptual_forward(spec, 64)
  assert mine == pytest.approx(xla, rel=0.1)
  larger = dataclasses.replace(spec, resolution=64)
  assert costs.perceptual_forward(larger, 32) == mine
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  assert backbone_costs.efflite0(64).params == count


def test_vgg16():
  """15.3 billion multiply-adds at 224 without the classifier."""
  found = costs.perceptual_forward(PerceptualSpec('lpips_vgg16'), 224)
  assert found / 2 == pytest.approx(15.35e9, rel=0.01)
  # 14,714,688 of torchvision's features, and LPIPS's weight of each channel.
  assert backbone_costs.lpips_vgg16(64).params == 14_714_688 + 1_472
  shape = [len(widths) for widths in backbone_costs.VGG16]
  assert shape == [len(c) for c in lpips._CONVOLUTIONS]


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
  # timm counts 21,665,664, with the norm that nobody reads here.
  assert backbone_costs.vit().params == 21_665_664 - 2 * 384
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


# --- memory -------------------------------------------------------------------


def _with(adversarial=None, perceptual=None):
  losses = ReconstructSpec(
    adversarial=adversarial or AdversarialSpec(),
    perceptual=perceptual or PerceptualSpec(),
  )
  return RunSpec(
    task='reconstruct', reconstruct=losses, data=DataSpec(resolution=64)
  )


def _alive(fn, *args):
  """Bytes that XLA's plan for a CPU keeps beside arguments and results."""
  compiled = jax.jit(fn).lower(*args).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_the_perceptual_loss_keeps_about_what_is_stated():
  network = PERCEPTUAL['efflite0']('')
  pixels = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)

  def total(others, params, images):
    return jnp.sum(network.distance(params, images, others))

  alive = _alive(jax.grad(total), pixels, _shapes(network.params), pixels)
  stated = costs.loss_activations(_with(perceptual=PerceptualSpec('efflite0')))
  assert 0.5 < alive / (4 * 4 * stated) < 2.5


def test_the_discriminator_keeps_about_what_is_stated():
  spec = AdversarialSpec(
    discriminator='patch', ch=16, layers=2, consistency=0.0
  )
  made = make_discriminator(spec, 64)
  weights = _shapes(nn.unbox(jax.eval_shape(made.init, KEY)[0]))
  pixels = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)

  def total(weights, images, fakes):
    real, fake = (made.logits(weights, {}, x, KEY) for x in (images, fakes))
    return jnp.sum(jax.nn.relu(1 - real)) + jnp.sum(jax.nn.relu(1 + fake))

  alive = _alive(jax.grad(total), weights, pixels, pixels)
  stated = costs.loss_activations(_with(spec))
  assert 0.5 < alive / (4 * 4 * stated) < 2.5
  twice = dataclasses.replace(spec, consistency=1.0)
  assert costs.loss_activations(_with(twice)) == 2 * stated


def test_the_estimate_counts_the_largest_of_the_losses_and_their_weights():
  plain = memory.memory_estimate(_with())
  patch = AdversarialSpec(discriminator='patch', layers=2)
  seen = PerceptualSpec('efflite0')
  both = memory.memory_estimate(_with(patch, seen))
  larger = max(
    costs.loss_activations(run) for run in (_with(patch), _with(None, seen))
  )
  more = both.activations - plain.activations
  assert more == 4 * RunSpec().batch_size * larger
  assert plain.frozen == 0
  assert both.frozen == 4 * backbone_costs.efflite0(64).params
  # A network that only measures is not part of the update.
  measured = dataclasses.replace(seen, weight=0.0)
  assert costs.loss_activations(_with(None, measured)) == 0
