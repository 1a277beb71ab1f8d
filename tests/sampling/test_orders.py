"""The sampler under every order: caches, given codes, forward passes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from varjax.errors import ConfigError
from varjax.models.transformer import Transformer
from varjax.rng import stream
from varjax.sampling import edit, loop
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec

MODEL = ModelSpec(
  depth=2, width=8, heads=2, num_classes=3, compute_dtype='float32'
)
SPEC = TokenizerSpec(code_dim=3, vocab=7, scales=(3,))
PIXELS = TokenizerSpec(
  'pixel', vocab=256, scales=(2,), ch_mult=(1,), codes_per_position=3
)
STACKS = TokenizerSpec(
  'rq', code_dim=3, vocab=9, scales=(2,), codes_per_position=3
)
CACHED = {
  'residual': (OrderSpec('residual'), STACKS, MODEL),
  'residual digits': (
    OrderSpec('residual'),
    STACKS,
    dataclasses.replace(MODEL, head_factors=2),
  ),
  'raster': (OrderSpec('raster'), SPEC, MODEL),
  'raster rotary': (
    OrderSpec('raster'),
    SPEC,
    ModelSpec(
      depth=2,
      width=8,
      heads=2,
      num_classes=3,
      compute_dtype='float32',
      norm='rmsnorm',
      mlp='swiglu',
      position='rotary2d',
      bias=False,
      l2_norm=False,
      softmax_scale=1.0,
    ),
  ),
  'permuted pixels': (OrderSpec('permuted'), PIXELS, MODEL),
  'shifted sets': (
    OrderSpec('setwise', 'random', (1, 2, 2, 2, 1, 1)),
    SPEC,
    MODEL,
  ),
  'separate sets': (
    OrderSpec('setwise', 'coarse', (1, 2, 2, 2, 2), context='separate'),
    SPEC,
    MODEL,
  ),
}
LABELS = jnp.asarray([0, 2, 1])
KEY = jax.random.key(0)


def generate(made, settings, known=None):
  """What a world's transformer draws for LABELS, compiled."""
  return jax.jit(
    functools.partial(
      loop.run,
      made.model,
      made.params,
      made.order,
      made.quantizer,
      settings=settings,
      known=known,
    )
  )(LABELS, KEY)


# Compiled for as long as the others, which show the same parts.
AGAIN = ('raster', 'permuted pixels', 'separate sets', 'residual')


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in AGAIN else [])
    for name in sorted(CACHED)
  ],
)
def test_cached_steps_are_the_teacher_forced_pass(name):
  order_spec, spec, model = CACHED[name]
  made = worlds.world(order_spec, spec, model, scale=0.3)
  order = made.order
  codes = jnp.asarray(
    np.random.default_rng(0).integers(
      0, spec.vocab, (3, order.code_spec.positions, spec.codes_per_position)
    ),
    jnp.int32,
  )
  given = np.zeros(order.code_spec.positions, bool)
  given[1:3] = True  # Known codes are clamped, and read by what follows.
  known = edit.Known(codes=codes, keep=jnp.asarray(given))
  found = generate(made, SampleSpec(cfg=0), known)
  np.testing.assert_array_equal(found.codes[:, given], codes[:, given])
  assert np.any(found.codes != codes)
  assert found.features is None
  keys = jax.vmap(lambda key: stream(key, 'order'))(loop.image_keys(KEY, 3))
  example = order.example(made.quantizer, found.codes, keys)
  logits = made.logits(example, LABELS)
  rows = np.asarray(example.weights > 0)
  for image in range(3):
    numbers = np.asarray(
      jnp.broadcast_to(example.positions, example.weights.shape)
    )[image, rows[image]]
    np.testing.assert_allclose(
      found.logits[image, numbers], logits[image, rows[image]], atol=1e-4
    )


def test_split_scales_are_generated_as_they_are_trained():
  spec = TokenizerSpec(code_dim=3, vocab=7, scales=(1, 3), phi_count=2)
  made = worlds.world(OrderSpec('split', splits=(1, 4)), spec, MODEL)
  found = generate(made, SampleSpec(cfg=0))
  example = made.order.example(made.quantizer, found.codes)
  logits = made.logits(example, LABELS)
  numbers = np.asarray(example.positions[0])
  np.testing.assert_allclose(found.logits[:, numbers], logits, atol=1e-4)
  total = made.quantizer.decode(found.codes)
  np.testing.assert_allclose(found.features, total, atol=1e-5)


def test_guidance_of_a_code_reads_the_codes_drawn_before_it():
  made = worlds.world(OrderSpec('residual'), STACKS, MODEL, scale=0.3)
  found = generate(made, SampleSpec(cfg=3.0, top_k=4, top_p=0.9))
  example = made.order.example(made.quantizer, found.codes)
  with_class = made.logits(example, LABELS)
  without = made.logits(example, jnp.full(3, MODEL.num_classes))
  strength = 3.0 * jnp.arange(4)[None, :, None, None] / 3
  guided = (1 + strength) * with_class - strength * without
  np.testing.assert_allclose(found.logits, guided, atol=1e-4)
  # The filters are of each draw.
  fourth = jnp.sort(found.logits, axis=-1)[..., -4]
  drawn = jnp.take_along_axis(found.logits, found.codes[..., None], -1)
  assert bool(jnp.all(drawn[..., 0] >= fourth))
  with pytest.raises(ConfigError, match='smooth=True'):
    loop.run(
      made.model, made.params, made.order, made.quantizer, LABELS, KEY,
      SampleSpec(smooth=True),
    )  # fmt: skip


@pytest.fixture(scope='module')
def masked():
  return worlds.world(OrderSpec('masked', turns=4), SPEC, MODEL)


def test_masked_decoding_keeps_what_is_known_and_decides_the_rest(masked):
  codes = jnp.asarray(np.arange(27).reshape(3, 9, 1) % 7, jnp.int32)
  keep = np.zeros((3, 9), bool)
  keep[0] = True  # nothing to do
  keep[1, :8] = True  # fewer tokens than turns
  known = edit.Known(codes=codes, keep=jnp.asarray(keep))
  order = masked.order
  state = order.start(
    None,
    worlds.keys(3),
    loop._given(known, order.layout, 3),
  )
  done = [np.asarray(state.done)]
  for step in range(4):
    keys = worlds.keys(3)
    drawn = jax.random.randint(jax.random.key(step), (3, 9, 1), 0, 7)
    choice = loop.Choice(drawn, drawn, jnp.zeros((3, 9)), keys)
    before = state
    state = order.advance(None, state, choice, step, 0)
    fixed = np.asarray(before.done)
    np.testing.assert_array_equal(state.tokens[fixed], before.tokens[fixed])
    done.append(np.asarray(state.done))
    assert (done[-1] >= done[-2]).all()
  assert done[-1].all()
  np.testing.assert_array_equal(state.tokens[keep], codes[..., 0][keep])
  # floor(9 cos(pi / 2 * step / 4)) stay masked.
  assert [int(9 - d[2].sum()) for d in done] == [9, 8, 6, 3, 0]


def test_masked_decoding_makes_as_many_passes_as_turns(masked, monkeypatch):
  passes = []
  trunk = Transformer.trunk

  def counted(self, *args, **kwargs):
    jax.debug.callback(lambda: passes.append(1))
    return trunk(self, *args, **kwargs)

  monkeypatch.setattr(Transformer, 'trunk', counted)
  codes = jnp.ones((3, 9, 1), jnp.int32)
  known = edit.Known(codes=codes, keep=jnp.arange(9) < 2)
  found = generate(masked, SampleSpec(cfg=1.0), known)
  jax.block_until_ready(found)
  jax.effects_barrier()
  assert len(passes) == 4
  np.testing.assert_array_equal(found.codes[:, :2], 1)
