"""Code statistics and the revival of dead codes."""

import jax
import jax.numpy as jnp
import numpy as np

from varjax.tokenizers import usage
from varjax.types import CodeSpec

SPEC = CodeSpec(((1, 1), (2, 2)), vocab=6, code_dim=3)
CODES = jnp.asarray([[0, 1, 1, 2, 2], [3, 1, 1, 1, 5]], jnp.int32)[..., None]


def test_counts_per_scale():
  counts = usage.count_codes(CODES, SPEC)
  expected = [[1, 0, 0, 1, 0, 0], [0, 5, 2, 0, 0, 1]]
  np.testing.assert_array_equal(counts, expected)


def test_padding_does_not_count():
  counts = usage.count_codes(CODES, SPEC, jnp.asarray([1.0, 0.0]))
  expected = [[1, 0, 0, 0, 0, 0], [0, 2, 2, 0, 0, 0]]
  np.testing.assert_array_equal(counts, expected)


def _run(updates, **kwargs):
  counts = [jnp.full((2, 6), 1.0 + step) for step in range(updates)]
  state = usage.start(SPEC)
  for count in counts:
    state = usage.update(state, count, **kwargs)
  return state


def test_the_first_batch_is_copied_at_every_scale():
  np.testing.assert_array_equal(_run(1).ema, 1)
  np.testing.assert_allclose(_run(2).ema, 0.9 * 1 + 0.1 * 2, rtol=1e-6)


def test_the_official_counter_is_shared_by_the_scales():
  state = _run(1, official=True)
  np.testing.assert_allclose(state.ema[0], 1)
  np.testing.assert_allclose(state.ema[1], 0.1, rtol=1e-6)
  assert int(state.updates) == 2


def test_the_decay_slows_down():
  state = usage.start(SPEC).replace(updates=jnp.int32(100))
  after = usage.update(state, jnp.ones((2, 6)), decay=0.95)
  np.testing.assert_allclose(after.ema, 0.05, rtol=1e-5)
  # Scale 0 is the 100th count of the official counter, scale 1 the 101st.
  state = state.replace(updates=jnp.int32(99))
  after = usage.update(state, jnp.ones((2, 6)), official=True)
  np.testing.assert_allclose(after.ema[:, 0], [0.1, 0.01], rtol=1e-5)


def test_share_uses_the_finest_grids_margin():
  margin = 3 * 4 / 6 * 0.08
  ema = jnp.asarray([[margin * 1.01] * 3 + [margin * 0.99] * 3, [1.0] * 6])
  state = usage.start(SPEC).replace(ema=ema)
  share = usage.usage_share(state, SPEC, batch=3)
  np.testing.assert_allclose(share, [0.5, 1])


def test_perplexity():
  counts = jnp.asarray([[2.0, 2, 2, 2], [5, 0, 0, 0], [0, 0, 0, 0]])
  np.testing.assert_allclose(usage.perplexity(counts), [4, 1, 1], rtol=1e-5)


def test_candidates_come_from_every_scale():
  spec = CodeSpec(((1, 1), (4, 4)), vocab=400, code_dim=1)
  marked = jnp.where(jnp.arange(17) == 0, -1.0, 1.0)
  searched = jnp.broadcast_to(marked[None, :, None, None], (5, 17, 1, 1))
  drawn = usage.sample_candidates(searched, spec, jax.random.key(0))
  assert drawn.shape == (400, 1)
  assert 0.4 < float(jnp.mean(drawn < 0)) < 0.6  # half, not 1 / 17


def test_only_dead_codes_are_revived():
  ema = jnp.asarray([[4.0, 0, 2, 0.01, 3, 3], [4.0, 0, 2, 0.01, 3, 3]])
  state = usage.start(SPEC, revive=True).replace(
    ema=ema, candidates=jnp.full((6, 3), 7.0)
  )
  np.testing.assert_array_equal(
    usage.dead_codes(state, 0.1), [0, 1, 0, 1, 0, 0]
  )
  codebook = jnp.zeros((6, 3))
  revive = jax.jit(usage.revive, static_argnames='below')
  key = jax.random.key(0)
  revived, after = revive(codebook, state, key, below=0.1, when=True)
  np.testing.assert_array_equal(revived[:, 0], [0, 7, 0, 7, 0, 0])
  assert not usage.dead_codes(after, 0.1).any()
  same, untouched = revive(codebook, state, key, below=0.1, when=False)
  np.testing.assert_array_equal(same, codebook)
  np.testing.assert_array_equal(untouched.ema, state.ema)
