"""Attention patterns of planted weights, and weights of a real transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import worlds

from varjax.evals import attention
from varjax.models import maps, rotary
from varjax.spec import ModelSpec, OrderSpec, TokenizerSpec

SIZES = (1, 4)
PLACES = np.asarray([[1, 1], [0.5, 0.5], [0.5, 1.5], [1.5, 0.5], [1.5, 1.5]])


def rows(matrix):
  return np.asarray(matrix, float)[None, None, None]


def test_planted_maps_have_known_patterns():
  itself = attention.patterns(rows(np.eye(5)), PLACES, SIZES)
  np.testing.assert_allclose(itself.distance, 0)
  np.testing.assert_allclose(itself.entropy, 0)
  np.testing.assert_allclose(itself.mass[0, 0], np.eye(2))
  alike = np.full((5, 5), 0.2)
  alike[0] = [1, 0, 0, 0, 0]
  uniform = attention.patterns(rows(alike), PLACES, SIZES)
  np.testing.assert_allclose(uniform.entropy, 1)
  np.testing.assert_allclose(uniform.mass[0, 0], [[1, 0], [0.2, 0.8]])
  np.testing.assert_allclose(uniform.chance, uniform.mass[0, 0])
  # A corner of the 2 x 2 grid: the middle, itself, two sides, the diagonal.
  corner = (np.sqrt(0.5) + 0 + 1 + 1 + np.sqrt(2)) / 5
  np.testing.assert_allclose(uniform.distance, 4 * corner / 5)


def test_a_transformer_returns_its_maps_on_request():
  spec = TokenizerSpec(code_dim=3, vocab=5, scales=(1, 2), phi_count=2)
  model = ModelSpec(
    depth=2, width=8, heads=2, num_classes=3, compute_dtype='float32'
  )
  made = worlds.world(OrderSpec('scale'), spec, model)
  codes = jnp.zeros((2, 5, 1), jnp.int32)
  example = made.order.example(made.quantizer, codes)

  def forward(mutable):
    return made.model.apply(
      {'params': made.params},
      jnp.zeros(2, jnp.int32),
      example.inputs,
      mutable=mutable,
    )

  logits, found = jax.jit(lambda: forward([maps.COLLECTION]))()
  np.testing.assert_allclose(logits, forward(False), atol=1e-5)
  weights = np.asarray(maps.of_layers(found))
  assert weights.shape == (2, 2, 2, 5, 5)
  np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
  assert (weights[..., 0, 1:] == 0).all()
  places = rotary.coordinates(made.order.layout, 2)
  np.testing.assert_allclose(places[:2], [[1, 1], [0.5, 0.5]])
  summary = attention.patterns(weights, places, (1, 4))
  assert (summary.entropy > 0).all()
