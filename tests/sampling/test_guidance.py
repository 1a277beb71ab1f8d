"""Guidance at some steps: the half that is left out changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from varjax.errors import ConfigError
from varjax.sampling import logits as logits_lib
from varjax.sampling import loop
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec

MODEL = ModelSpec(
  depth=2, width=8, heads=2, num_classes=3, compute_dtype='float32'
)
GRID = TokenizerSpec(code_dim=3, vocab=7, scales=(3,))
SCALES = TokenizerSpec(code_dim=3, vocab=7, scales=(1, 2, 3), phi_count=2)
STACKS = TokenizerSpec(
  'rq', vocab=7, code_dim=3, scales=(2,), codes_per_position=2
)
# Traced loops are cut by the interval, sets have rows that ask for nothing,
# and a masked order has no cache that could miss something.
CASES = {
  'scale': (OrderSpec(), SCALES, (1, 2)),
  'raster': (OrderSpec('raster'), GRID, (4, 7)),
  'scale, first only': (OrderSpec(), SCALES, (0, 2)),
  'sets': (OrderSpec('setwise', 'random', (1, 2, 2, 2, 1, 1)), GRID, (2, 6)),
  'residual': (OrderSpec('residual'), STACKS, (1, 3)),
  'masked': (OrderSpec('masked', turns=4), GRID, (1, 3)),
}
LABELS = jnp.asarray([0, 2, 1])


def _run(made, **settings):
  run = functools.partial(
    loop.run,
    made.model,
    made.params,
    made.order,
    made.quantizer,
    settings=SampleSpec(cfg=4.0, top_k=1, **settings),
  )
  return jax.jit(run)(LABELS, jax.random.key(0))


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if number > 1 else [])
    for number, name in enumerate(CASES)
  ],
)
def test_an_interval_is_both_halves_with_the_guidance_ignored(
  name, monkeypatch
):
  order, spec, guided = CASES[name]
  made = worlds.world(order, spec, MODEL, scale=0.5)
  found = _run(made, guided=guided)
  ratio = logits_lib.ratio

  def ignored(step, turns):
    inside = (step >= guided[0]) & (step < guided[1])
    return jnp.where(inside, ratio(step, turns), 0.0)

  everywhere = _run(made)
  monkeypatch.setattr(logits_lib, 'ratio', ignored)
  expected = _run(made)
  np.testing.assert_array_equal(found.codes, expected.codes)
  np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
  assert np.any(np.abs(found.logits - everywhere.logits) > 1e-2)


@pytest.mark.parametrize('guided', [(2, 2), (0, 4), (1,), (-1, 2)])
def test_intervals_that_are_none_are_refused(guided):
  made = worlds.world(OrderSpec(), SCALES, MODEL)
  with pytest.raises(ConfigError, match='guided='):
    _run(made, guided=guided)
