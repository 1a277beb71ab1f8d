"""How often each code is used, per scale, and what to do with dead codes.

Running counts of the codes that a training batch picked, the share of the
codebook in use and its perplexity. Where a position has R codes, each of
them is counted apart: K is then scales times R, the first code first. Codes
that nothing picks get no gradient and stay dead; `revive` moves them onto
features of recent batches.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from varjax.tokenizers import kmeans
from varjax.types import Codes, CodeSpec

# A code is in use at this share of its fair count or more (official margin).
_MARGIN = 0.08
# The running counts follow quickly at first.
_WARM_UPDATES = 100
_WARM_DECAY = 0.9
_OFFICIAL_DECAY = 0.99


@flax.struct.dataclass
class UsageState:
  """Running code counts; part of the state of the reconstruct task."""

  ema: jax.Array  # [K, V] float32, decayed picks per batch
  updates: jax.Array  # [] int32; official: counted once per scale
  candidates: jax.Array | None = None  # [V, C], vectors to revive codes with
  # [n, V, C], vectors of the last n batches, for the k-means start.
  reservoir: jax.Array | None = None


def start(
  code_spec: CodeSpec, revive: bool = False, batches: int = 0
) -> UsageState:
  """Nothing counted yet.

  Args:
    code_spec: of the tokenizer.
    revive: also keep a candidate vector for every code.
    batches: whose vectors are kept for a k-means start.
  """
  shape = (groups(code_spec), code_spec.vocab)
  vectors = (code_spec.vocab, code_spec.code_dim)
  return UsageState(
    jnp.zeros(shape),
    jnp.zeros((), jnp.int32),
    jnp.zeros(vectors) if revive else None,
    jnp.zeros((batches, *vectors)) if batches else None,
  )


def groups(code_spec: CodeSpec) -> int:
  """K of this module: scales times codes per position."""
  return len(code_spec.grids) * code_spec.codes_per_position


def count_codes(
  codes: Codes, code_spec: CodeSpec, valid: Float[Array, ' B'] | None = None
) -> Float[Array, 'K V']:
  """Picks of each code at each scale, over the images of a batch.

  Args:
    codes: int32 [B, L, R].
    code_spec: of the tokenizer that made them.
    valid: 1 for images that count, 0 for padding; None counts all.
  """
  scales = jnp.repeat(
    jnp.arange(len(code_spec.grids)),
    jnp.array(code_spec.block_sizes),
    total_repeat_length=code_spec.positions,
  )
  per_position, vocab = code_spec.codes_per_position, code_spec.vocab
  levels = jnp.arange(per_position)
  group = scales[:, None] * per_position + levels[None]  # [L, R]
  cells = group[None] * vocab + codes
  weights = jnp.ones(codes.shape[0]) if valid is None else valid
  weights = jnp.broadcast_to(weights[:, None, None], cells.shape)
  counts = jnp.zeros(groups(code_spec) * vocab)
  counts = counts.at[cells.reshape(-1)].add(weights.reshape(-1))
  return counts.reshape(groups(code_spec), vocab)


def update(
  state: UsageState,
  counts: Float[Array, 'K V'],
  decay: float = _OFFICIAL_DECAY,
  official: bool = False,
) -> UsageState:
  """Adds one batch to the running counts.

  The first batch is copied, the next ones decay by 0.9, and by `decay` from
  the 100th on.

  Args:
    state: before the batch.
    counts: picks of the batch, summed over devices.
    decay: of the running counts in the long run.
    official: upstream's quirk: one counter for all scales, advanced once
      per scale, so that the very first batch is copied for the first scale
      only; the long-run decay is then always 0.99.
  """
  scales = counts.shape[0]
  if official:
    seen, decay = state.updates + jnp.arange(scales), _OFFICIAL_DECAY
  else:
    seen = jnp.broadcast_to(state.updates, (scales,))
  kept = jnp.where(seen < _WARM_UPDATES, min(_WARM_DECAY, decay), decay)
  kept = jnp.where(seen == 0, 0.0, kept)[:, None]
  return state.replace(
    ema=kept * state.ema + (1 - kept) * counts,
    updates=state.updates + (scales if official else 1),
  )


def usage_share(
  state: UsageState, code_spec: CodeSpec, batch: int
) -> Float[Array, ' K']:
  """Share of the codebook in use at each scale, in [0, 1].

  A code is in use when its running count is at least 8% of what a uniform
  use of the finest grid would give it; the official measure divides by the
  finest grid at every scale.

  Args:
    state: running counts.
    code_spec: of the tokenizer.
    batch: images per batch, over all devices.
  """
  height, width = code_spec.finest
  margin = batch * height * width / code_spec.vocab * _MARGIN
  return jnp.mean(state.ema >= margin, -1)


def perplexity(counts: Float[Array, '*K V']) -> Float[Array, '*K']:
  """exp of the entropy of the codes; 1 where nothing was counted.

  At most V, which is a codebook used uniformly.
  """
  total = jnp.sum(counts, -1, keepdims=True)
  share = counts / jnp.maximum(total, 1e-12)
  entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-12)), -1)
  return jnp.exp(entropy)


def sample_candidates(
  searched: Float[Array, 'B L R C'], code_spec: CodeSpec, rng: jax.Array
) -> Float[Array, 'V C']:
  """One vector per code out of a batch: what `revive` may move it to.

  The scale and the code of a position are drawn first, so that the few
  vectors of the coarse scales are as likely as the many of the finest.

  Args:
    searched: the residual vectors that were looked up in the codebook.
    code_spec: of the tokenizer.
    rng: key of the draw.
  """
  vocab = code_spec.vocab
  for_group, for_image, for_cell = jax.random.split(rng, 3)
  group = jax.random.randint(for_group, (vocab,), 0, groups(code_spec))
  scale, level = jnp.divmod(group, code_spec.codes_per_position)
  image = jax.random.randint(for_image, (vocab,), 0, searched.shape[0])
  size = jnp.array(code_spec.block_sizes)[scale]
  cell = jax.random.randint(for_cell, (vocab,), 0, size)
  position = jnp.array(code_spec.offsets)[scale] + cell
  return searched[image, position, level]


def collect(
  state: UsageState, vectors: Float[Array, 'V C'], seen: Array
) -> UsageState:
  """Keeps vectors of a batch for what will read them.

  Args:
    state: the candidates and the reservoir are replaced where they exist.
    vectors: of `sample_candidates`.
    seen: batches before this one.
  """
  if state.candidates is not None:
    state = state.replace(candidates=vectors)
  if state.reservoir is not None:
    slot = seen % state.reservoir.shape[0]
    state = state.replace(reservoir=state.reservoir.at[slot].set(vectors))
  return state


def refit(
  codebook: Float[Array, 'V C'],
  state: UsageState,
  rng: jax.Array,
  znorm: bool,
  when: Array,
) -> tuple[Float[Array, 'V C'], UsageState]:
  """Replaces the codebook by the k-means centres of the reservoir.

  The counts start again, as all codes have a new meaning.

  Args:
    codebook: entries now.
    state: with a reservoir.
    rng: of the k-means.
    znorm: codes are looked up by cosine.
    when: a boolean scalar; False changes nothing and costs nothing.
  """

  def fitted() -> tuple[jax.Array, jax.Array, jax.Array]:
    rows = jnp.reshape(state.reservoir, (-1, codebook.shape[-1]))
    centres = kmeans.fit(rows, codebook.shape[0], rng, znorm)
    zero = jnp.zeros_like(state.updates)
    return centres, jnp.zeros_like(state.ema), zero

  def kept() -> tuple[jax.Array, jax.Array, jax.Array]:
    return codebook, state.ema, state.updates

  codebook, ema, updates = jax.lax.cond(when, fitted, kept)
  return codebook, state.replace(ema=ema, updates=updates)


def dead_codes(state: UsageState, below: float) -> Bool[Array, ' V']:
  """Codes whose share of recent picks, times V, is below `below`."""
  picks = jnp.sum(state.ema, 0)
  fair = jnp.maximum(jnp.mean(picks), 1e-12)
  return picks / fair < below


def revive(
  codebook: Float[Array, 'V C'],
  state: UsageState,
  rng: jax.Array,
  below: float,
  when: Array | bool = True,
) -> tuple[Float[Array, 'V C'], UsageState]:
  """Replaces dead codes by candidate vectors.

  A revived code starts with an average count, so that it has time to be
  found before it can be called dead again.

  Args:
    codebook: entries now.
    state: running counts and candidates.
    rng: decides which candidate goes to which code.
    below: see `dead_codes`.
    when: a boolean scalar; False changes nothing.

  Returns:
    The new codebook and state.
  """
  dead = dead_codes(state, below) & when
  candidates = jax.random.permutation(rng, state.candidates)
  fair = jnp.mean(state.ema, -1, keepdims=True)
  return (
    jnp.where(dead[:, None], candidates, codebook),
    state.replace(ema=jnp.where(dead[None], fair, state.ema)),
  )
