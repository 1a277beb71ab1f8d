"""Counts against hand calculations, the published table and XLA."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from official_sizes import PARAMETERS, PARAMETERS_512, SCALES_512
import pytest

from varjax import errors, flops, memory, tokenizer_costs
from varjax.spec import ModelSpec, TokenizerSpec


def _var(depth, **kwargs):
  return ModelSpec(depth=depth, width=64 * depth, heads=depth, **kwargs)


@pytest.mark.parametrize('depth', PARAMETERS)
def test_parameters_equal_the_published_table(depth):
  counts = flops.parameter_counts(_var(depth), TokenizerSpec())
  assert counts.total == PARAMETERS[depth]
  assert counts.total == counts.body + counts.embed_head


def test_shared_adaln_512_has_the_published_parameters():
  model = _var(36, shared_adaln=True)
  tokenizer = TokenizerSpec(scales=SCALES_512)
  assert flops.sequence_of(tokenizer).positions == 2240
  assert flops.parameter_counts(model, tokenizer).total == PARAMETERS_512


@pytest.mark.parametrize('depth', [16, 30])
def test_body_is_the_papers_size_rule(depth):
  counts = flops.parameter_counts(_var(depth), TokenizerSpec())
  assert counts.body == pytest.approx(73728 * depth**3, rel=1e-3)


def test_tokenizer_parameters_equal_the_official_modules():
  counts = flops.tokenizer_parameter_counts(TokenizerSpec())
  assert dataclasses.asdict(counts) == {
    'encoder': 44_107_872,
    'decoder': 64_653_923,
    'codebook': 131_072,
    'phi': 36_992,
    'quant_conv': 9_248,
    'post_quant_conv': 9_248,
  }
  assert counts.total == 108_948_355


@pytest.mark.parametrize(
  ('change', 'phi'),
  [
    ({'phi_count': 0}, 92_480),
    ({'phi_count': 1}, 9_248),
    ({'phi_ratio': 0.0}, 0),
  ],
)
def test_phi_modules_follow_the_spec(change, phi):
  spec = dataclasses.replace(TokenizerSpec(), **change)
  assert flops.tokenizer_parameter_counts(spec).phi == phi


def test_forward_by_hand():
  # L = 1 + 4 = 5, pairs = 1*1 + 4*5 = 21, D = 8, M = 16, C = 3, V = 10.
  model = ModelSpec(depth=2, width=8, heads=2, mlp_ratio=2.0)
  tokenizer = TokenizerSpec(scales=(1, 2), code_dim=3, vocab=10)
  parts = flops.forward_flops_per_image(model, tokenizer)
  assert parts.linear == 2 * 2 * 5 * (4 * 8 * 8 + 2 * 8 * 16)
  assert parts.attention == 2 * (2 * 21 * 8) * 2
  assert parts.adaln == 2 * 2 * 8 * 48
  assert parts.embed == 2 * 4 * 3 * 8
  assert parts.head == 2 * 5 * 8 * 10 + 2 * 8 * 16
  assert parts.total == parts.body + parts.embed + parts.head
  train = flops.train_flops_per_image(model, tokenizer)
  assert train.total == 3 * parts.total


def test_dense_convention_by_hand():
  got = flops.conventions(_var(16), TokenizerSpec()).dense
  w, d, length, vocab = 1024, 16, 680, 4096
  assert got == (
    6 * 12 * w**2 * d * length + 12 * length**2 * w * d + 6 * length * w * vocab
  )


def test_six_nd_overcounts_because_adaln_runs_once_per_image():
  found = flops.conventions(_var(16), TokenizerSpec())
  assert 1.38 < found.six_nd_body / found.exact_body < 1.45


def test_visible_pairs_equal_the_mask():
  sequence = flops.sequence_of(TokenizerSpec())
  steps = np.repeat(np.arange(len(sequence.block_sizes)), sequence.block_sizes)
  assert sequence.visible_pairs == (steps[:, None] >= steps[None, :]).sum()


def test_raster_sequence_sees_half_the_square():
  sequence = flops.Sequence((1,) * 16, 1, 8, 32, 16, 0)
  assert sequence.visible_pairs == 16 * 17 // 2
  model = ModelSpec(depth=1, width=8, heads=1)
  assert flops.forward_flops_per_image(model, sequence).attention == (
    4 * 8 * 136
  )


def test_remat_is_hardware_work_and_never_model_work():
  tokenizer = TokenizerSpec()
  models = {r: _var(8, remat=r) for r in memory.REMAT}
  model_flops = {
    flops.train_flops_per_image(m, tokenizer).total for m in models.values()
  }
  assert len(model_flops) == 1
  hardware = {
    r: flops.hardware_train_flops_per_image(m, tokenizer, skips_masked=True)
    for r, m in models.items()
  }
  forward = flops.forward_flops_per_image(models['none'], tokenizer)
  assert hardware['none'] == model_flops.pop()
  assert hardware['light'] == hardware['none']
  assert hardware['dots'] - hardware['none'] == forward.attention
  # One third of the twelve w^2 of a block.
  assert hardware['slim'] - hardware['none'] == forward.linear // 3
  assert hardware['full'] - hardware['none'] == forward.body
  with pytest.raises(errors.ConfigError, match='none, light, dots'):
    flops.hardware_train_flops_per_image(_var(8, remat='some'), tokenizer)


def test_sampling_doubles_the_transformer_for_guidance():
  model, tokenizer = _var(8), TokenizerSpec()
  plain = flops.sampling_flops_per_image(model, tokenizer, cfg=False)
  guided = flops.sampling_flops_per_image(model, tokenizer, cfg=True)
  forward = flops.forward_flops_per_image(model, tokenizer)
  assert plain.transformer == forward.total
  assert guided.transformer == 2 * forward.total - forward.embed
  assert plain.decode == guided.decode > 0
  assert guided.total - plain.total == forward.total - forward.embed


def test_tokenizer_flops_refuse_an_unknown_kind():
  with pytest.raises(errors.ConfigError, match='encode, decode, train'):
    flops.tokenizer_flops_per_image(TokenizerSpec(), 'quantize')


# --- XLA as the referee -------------------------------------------------------


def _xla_flops(function, *shapes):
  """FLOPs that XLA counts in a compiled function of float32 arrays."""
  arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  analysis = jax.jit(function).lower(*arrays).compile().cost_analysis()
  return analysis['flops']


def test_transformer_flops_agree_with_xla():
  model = ModelSpec(depth=2, width=128, heads=2)
  tokenizer = TokenizerSpec(scales=(1, 2, 4), code_dim=16, vocab=512)
  sequence = flops.sequence_of(tokenizer)
  length, d, heads = sequence.positions, model.width, model.heads

  def forward(features, condition, embed, qkv, out, up, down, mod, head_mod,
              head):  # fmt: skip
    start = jnp.reshape(condition[:d], (1, d))
    x = jnp.concatenate([start, features @ embed])
    for _ in range(model.depth):  # unrolled: XLA counts a loop body once
      m = jnp.reshape(condition @ mod, (6, 1, d))
      q, k, v = jnp.split((x * m[0] + m[1]) @ qkv, 3, axis=-1)
      q, k, v = (jnp.reshape(a, (length, heads, -1)) for a in (q, k, v))
      w = jnp.einsum('qnd,knd->nqk', q, k)
      y = jnp.reshape(jnp.einsum('nqk,knd->qnd', w, v), (length, d))
      x = x + (y @ out) * m[2]
      x = x + (jnp.maximum((x * m[3] + m[4]) @ up, 0) @ down) * m[5]
    m = jnp.reshape(condition @ head_mod, (2, 1, d))
    return (x * m[0] + m[1]) @ head

  counted = _xla_flops(
    forward,
    (length - 1, tokenizer.code_dim),
    (d,),
    (tokenizer.code_dim, d),
    (d, 3 * d),
    (d, d),
    (d, 4 * d),
    (4 * d, d),
    (d, 6 * d),
    (d, 2 * d),
    (d, tokenizer.vocab),
  )
  parts = flops.forward_flops_per_image(model, tokenizer)
  # The reference computes all pairs; the model convention only visible ones.
  dense = parts.attention * length**2 // sequence.visible_pairs
  expected = parts.total - parts.attention + dense
  # The reference shares one weight, so XLA may compute its AdaLN once.
  once = expected - parts.adaln // 2
  assert once * 0.995 < counted < expected * 1.02


def test_convolution_flops_agree_with_xla():
  spec = TokenizerSpec(
    ch=16, ch_mult=(1, 2), num_res_blocks=1, norm_groups=4, attention=False,
    code_dim=8, vocab=64, scales=(1, 8), phi_ratio=0.0,
  )  # fmt: skip
  widths = [
    (3, 16, 16), (16, 16, 16), (16, 16, 16), (16, 16, 8),  # level 0, down
    (16, 32, 8), (32, 32, 8),  # level 1
    (32, 32, 8), (32, 32, 8), (32, 32, 8), (32, 32, 8),  # middle
    (32, 8, 8),
  ]  # fmt: skip
  # VALID on padded inputs: XLA counts only the taps inside an image.
  counted = sum(
    _xla_flops(
      lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      ),
      (1, side + 2, side + 2, inputs),
      (3, 3, inputs, outputs),
    )
    for inputs, outputs, side in widths
  )
  shortcut = 2 * 16 * 32 * 8 * 8
  encode = flops.tokenizer_flops_per_image(spec, 'encode')
  quant_conv = 2 * 9 * 8 * 8 * 64
  search = 2 * (1 + 64) * 8 * 64
  resize = 2 * 2 * 8 * (8 * 8 + 8)
  assert encode == pytest.approx(
    counted + shortcut + quant_conv + search + resize, rel=0.01
  )


def test_bytes_of_a_tokenizer_by_hand():
  spec = TokenizerSpec(
    ch=8, ch_mult=(1, 1), num_res_blocks=1, norm_groups=4, attention=False,
    code_dim=4, vocab=16, scales=(1, 2), phi_ratio=0.0,
  )  # fmt: skip
  # Encoder: conv_in and one block of four layers at 4 x 4, then the smaller
  # convolution, a block, two in the middle, norm and conv_out at 2 x 2.
  encoder = 8 * (1 + 4) * 16 + 8 * (1 + 3 * 4 + 1) * 4 + 4 * 4
  # Decoder: conv_in, four blocks at 2 x 2; convolution, two blocks, norm and
  # the image at 4 x 4.
  decoder = 8 * (1 + 4 * 4) * 4 + 8 * (1 + 2 * 4 + 1) * 16 + 3 * 16
  counts = tokenizer_costs.tokenizer_parameter_counts(spec)
  codebook = 4 * 16 * 4
  for kind, outputs, ends, weights in (
    ('encode', encoder, 48, counts.encoder + counts.quant_conv),
    ('decode', decoder, 4 * 48, counts.decoder + counts.post_quant_conv),
  ):
    moved = tokenizer_costs.tokenizer_bytes(spec, kind, 3)
    assert moved == 3 * (2 * 4 * outputs + ends) + 4 * weights + codebook
    half = dataclasses.replace(spec, compute_dtype='bfloat16')
    less = moved - tokenizer_costs.tokenizer_bytes(half, kind, 3)
    assert less == 3 * 2 * 2 * outputs
  with pytest.raises(errors.ConfigError, match="'train'"):
    tokenizer_costs.tokenizer_bytes(spec, 'train', 1)
  saved = tokenizer_costs.enlarging_flops_saved(spec)
  assert saved == 2 * (36 - 16) * 8 * 8 * 4


# --- properties -------------------------------------------------------------

_models = st.builds(
  ModelSpec,
  depth=st.integers(1, 40),
  heads=st.just(1),
  width=st.integers(1, 4096),
  mlp_ratio=st.sampled_from([1.0, 2.5, 4.0]),
  l2_norm=st.booleans(),
  shared_adaln=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(model=_models, field=st.sampled_from(['depth', 'width']))
def test_more_model_is_more_of_everything(model, field):
  tokenizer = TokenizerSpec()
  larger = dataclasses.replace(model, **{field: getattr(model, field) + 1})
  for count in (
    lambda m: flops.parameter_counts(m, tokenizer).total,
    lambda m: flops.train_flops_per_image(m, tokenizer).total,
    lambda m: flops.hardware_train_flops_per_image(m, tokenizer),
    lambda m: flops.sampling_flops_per_image(m, tokenizer).total,
  ):
    assert count(larger) > count(model)


@settings(max_examples=60, deadline=None)
@given(
  model=_models,
  sides=st.sets(st.integers(1, 24), min_size=2, max_size=8).map(sorted),
)
def test_exact_lies_between_causal_and_dense(model, sides):
  tokenizer = TokenizerSpec(scales=tuple(sides))
  sequence = flops.sequence_of(tokenizer)
  dense = sequence.positions**2
  assert dense / 2 < sequence.visible_pairs < dense
  exact = flops.forward_flops_per_image(model, tokenizer)
  assert exact.attention == 4 * model.depth * model.width * (
    sequence.visible_pairs
  )
