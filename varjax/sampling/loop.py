"""Step-by-step generation with guidance, for any order.

Official `autoregressive_infer_cfg` where the order is next-scale. All steps
are one traced function: wrap `sample` in `jax.jit` with the model, the order
and the settings closed over. Turns of one shape are a traced loop inside it.
Guidance grows linearly from 0 at the first step to `cfg` at the last. Where
it is off, the unconditional half of the batch is not computed: after the last
guided step never, before the first one only when that step comes.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import itertools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax import errors, validation
from varjax.models import factors as factors_lib
from varjax.models.transformer import Transformer
from varjax.orders.base import Choice, Given, Order
from varjax.rng import stream
from varjax.sampling import filters
from varjax.sampling import logits as logits_lib
from varjax.sampling import smooth as smooth_lib
from varjax.sampling.edit import Known
from varjax.sampling.reader import Reader
from varjax.spec import SampleSpec
from varjax.types import Codes, Layout, PyTree


@flax.struct.dataclass
class Samples:
  """What a generation made."""

  codes: jax.Array  # [B, L, R] int32
  features: jax.Array | None  # [B, P, P, C], for the decoder
  # [B, predicted, R, V], guided and not filtered; with a factorised head, R
  # and V are those of the sub-tokens.
  logits: jax.Array


def sample(
  model: Transformer,
  params: PyTree,
  order: Order,
  quantizer: PyTree,
  labels: Int[Array, ' B'],
  rng: jax.Array,
  settings: SampleSpec,
  *,
  gumbel: Float[Array, 'B L V'] | None = None,
  known: Known | None = None,
  cache_dtype: str = '',
) -> tuple[Codes, Float[Array, 'B P P C'] | None]:
  """Generates images as codes and decoder features.

  Args:
    model: the transformer.
    params: its unboxed 'params' collection.
    order: of the codes.
    quantizer: weights of the tokenizer's quantiser.
    labels: class per image; negative is "no class".
    rng: one key (image i draws from `fold_in(rng, i)`) or a key for each
      image [B]. An image's draws depend on its own key alone.
    settings: guidance and truncation; static, but `cfg` may be traced.
    gumbel: noise for `smooth`; drawn from `rng` by default.
    known: given positions, for editing.
    cache_dtype: 'int8', or '' for the compute type.

  Returns:
    Codes and decoder features. Where there are features, the codes are as
    drawn (`edit.merge` puts given ones in) and the features contain the
    given codes and the mixtures. Where there are none, the codes contain
    the given ones and the tokenizer decodes them.

  Raises:
    ConfigError: `smooth` is asked of an order without features, `rng` has
      another number of keys than there are labels, or there are no such
      steps as `settings.guided`.
  """
  result = run(
    model,
    params,
    order,
    quantizer,
    labels,
    rng,
    settings,
    gumbel=gumbel,
    known=known,
    cache_dtype=cache_dtype,
  )
  return result.codes, result.features


def run(
  model: Transformer,
  params: PyTree,
  order: Order,
  quantizer: PyTree,
  labels: Int[Array, ' B'],
  rng: jax.Array,
  settings: SampleSpec,
  *,
  gumbel: Float[Array, 'B L V'] | None = None,
  known: Known | None = None,
  cache_dtype: str = '',
) -> Samples:
  """`sample`, with the guided logits of every position beside it."""
  cfg, smooth = settings.cfg, settings.smooth
  layout = order.layout
  if smooth and layout.input_kind != 'features':
    raise errors.ConfigError(
      'smooth=True: mixes features of codes, which this order has none of'
    )
  factors = model.spec.head_factors
  if smooth and factors > 1:
    raise errors.ConfigError(
      f'smooth=True: mixes whole codes, but model.head_factors={factors} '
      'predicts sub-tokens'
    )
  if smooth and layout.rounds > 1:
    raise errors.ConfigError(
      'smooth=True: mixes codes of which a position has one, not '
      f'{layout.rounds} that are drawn one after the other'
    )
  batch = labels.shape[0]
  keys = image_keys(rng, batch)
  nobody = model.spec.num_classes
  labels = jnp.where(labels < 0, nobody, labels)
  guided = _guided(settings, order.turns)
  given = None if known is None else _given(known, layout, batch)
  reader = Reader(model, params, order, labels, guided, cache_dtype)
  order_keys = jax.vmap(lambda key: stream(key, 'order'))(keys)

  def one_turn(carry, step, span):
    state, cache = carry
    like, both = span.like, span.guided
    ratio = logits_lib.ratio(step, order.turns)
    turn = order.turn(state, step, like)
    hidden, cache = reader(turn, cache, step, like, both)
    step_keys = jax.vmap(functools.partial(_step_keys, step=step))(keys)
    targets = jnp.broadcast_to(turn.targets, (batch, turn.targets.shape[1]))
    if given is not None:
      keep = jnp.take_along_axis(given.keep, targets, axis=1)[..., None]
      there = jnp.take_along_axis(given.codes, targets[..., None], axis=1)
    features = stack = None
    rounds = []
    for index, draw_keys in enumerate(_round_keys(step_keys, layout.rounds)):
      logits, stack = reader.classify(hidden, features, stack, both)
      other = None
      if both:
        logits, other = logits[:batch], logits[batch:]
      filtered = filters.drawable(
        logits, other, cfg * ratio, settings.top_k, settings.top_p
      )
      if other is not None:
        logits = logits_lib.guide(logits, other, cfg * ratio)
      drawn = _draw(filtered, draw_keys, greedy=settings.top_k == 1)
      chosen = factors_lib.join(drawn, layout.vocab, factors)
      if given is not None:
        codes = slice(index, index + chosen.shape[2])
        chosen = jnp.where(keep, there[..., codes], chosen)
      rounds.append((chosen, drawn, logits))
      chosen, drawn, logits = (
        jnp.concatenate(parts, 2) for parts in zip(*rounds, strict=True)
      )
      features = order.embed(quantizer, chosen)
    if smooth:
      if gumbel is None:
        noise = _gumbel(step_keys[:, 1], filtered.shape[1::2])
      else:
        noise = jnp.take_along_axis(gumbel, targets[..., None], axis=1)
      mixed = _mix(order, quantizer, filtered[:, :, 0], noise, ratio)
      features = mixed if given is None else jnp.where(keep, features, mixed)
    choice = Choice(
      codes=chosen,
      features=features,
      confidence=_log_probability(logits, drawn),
      keys=jax.vmap(lambda key: stream(key, 'choice'))(step_keys[:, 0]),
    )
    state = order.advance(quantizer, state, choice, step, like)
    # What the unguided half will have to catch up with.
    missed = turn if not both and span.first < guided.start else None
    return (state, cache), ((targets, drawn, logits), missed)

  state, cache = order.start(quantizer, order_keys, given), reader.empty_cache()
  made, missed = [], []
  for span in _spans(order.alike, guided):
    if span.first == guided.start:
      cache = reader.catch_up(cache, missed)
    if span.first == guided.stop:
      cache = reader.drop(cache)
    one = functools.partial(one_turn, span=span)
    if span.count == 1:
      (state, cache), found = one((state, cache), span.first)
    else:
      last = span.first + span.count
      steps = jnp.arange(span.first, last, dtype=jnp.int32)
      (state, cache), found = jax.lax.scan(one, (state, cache), steps)
      found = jax.tree.map(_merge_turns, found)
    made.append(found[0])
    missed.append(found[1])
  targets, drawn, logits = (
    jnp.concatenate(parts, axis=1) for parts in zip(*made, strict=True)
  )
  codes, features = order.finish(state)
  if codes is None:
    drawn = factors_lib.join(drawn, layout.vocab, factors)
    codes = _place(drawn, targets, layout.predicted)
  logits = _place(logits, targets, layout.predicted)
  return Samples(codes=codes, features=features, logits=logits)


class _Span(NamedTuple):
  """Consecutive turns of one shape that are all guided, or all not."""

  first: int
  count: int
  like: int  # The turn of that shape whose number is static.
  guided: bool


def _spans(alike: Sequence[int], guided: range) -> list[_Span]:
  """The turns of a generation, in order."""

  def kind(turn: int) -> tuple[int, bool]:
    return alike[turn], turn in guided

  spans, first = [], 0
  for (like, both), run in itertools.groupby(range(len(alike)), kind):
    count = len(list(run))
    spans.append(_Span(first, count, like, both))
    first += count
  return spans


def _guided(settings: SampleSpec, turns: int) -> range:
  """The turns at which guidance is on.

  Raises:
    ConfigError: an interval that is not of these turns.
  """
  validation.check_sample(settings, turns)
  cfg = settings.cfg  # May be traced.
  if isinstance(cfg, int | float) and cfg == 0:
    return range(0)
  return range(*settings.guided) if settings.guided else range(turns)


def _merge_turns(x: jax.Array) -> jax.Array:
  """[turns, B, A, ...] of a loop to [B, turns * A, ...]."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _place(
  values: jax.Array, targets: Int[Array, 'B M'], count: int
) -> jax.Array:
  """Values [B, M, ...] at their positions; the last of a position counts."""
  if values.shape[1] > count:  # Asked for more than once.
    values, targets = values[:, -count:], targets[:, -count:]
  empty = jnp.zeros((values.shape[0], count, *values.shape[2:]), values.dtype)
  return empty.at[jnp.arange(len(empty))[:, None], targets].set(values)


def _given(known: Known, layout: Layout, batch: int) -> Given:
  """Known codes in the numbering of the order."""
  shape = (batch, layout.predicted, layout.targets_per_position)
  keep = jnp.broadcast_to(known.keep, (batch, known.codes.shape[1]))
  repeats = layout.predicted // known.codes.shape[1]
  return Given(known.codes.reshape(shape), jnp.repeat(keep, repeats, axis=1))


def image_keys(rng: jax.Array, batch: int) -> jax.Array:
  """One key per image [B].

  Args:
    rng: one key, from which image i gets `fold_in(rng, i)`, or keys [B].
    batch: images, B.

  Raises:
    ConfigError: keys of another shape.
  """
  if not jax.dtypes.issubdtype(rng.dtype, jax.dtypes.prng_key):
    rng = jax.random.wrap_key_data(rng)
  if not rng.shape:
    fold = functools.partial(jax.random.fold_in, rng)
    return jax.vmap(fold)(jnp.arange(batch))
  if rng.shape != (batch,):
    raise errors.ConfigError(
      f'rng: has shape {rng.shape}; must be one key, or one for each of the '
      f'{batch} images'
    )
  return rng


def _step_keys(key: jax.Array, step: int) -> jax.Array:
  """The keys [2] of an image's draw and of its noise at one step."""
  return jax.random.split(jax.random.fold_in(key, step))


def _round_keys(step_keys: jax.Array, rounds: int) -> list[jax.Array]:
  """Keys [B] for every round of draws at one step."""
  first = step_keys[:, 0]
  if rounds == 1:
    return [first]
  folded = jax.vmap(lambda key: jax.random.split(key, rounds))(first)
  return [folded[:, index] for index in range(rounds)]


@jax.named_scope('draw')
def _draw(
  logits: Float[Array, 'B T R V'], keys: jax.Array, greedy: bool
) -> Int[Array, 'B T R']:
  if greedy:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  drawn = jax.vmap(jax.random.categorical)(keys, logits)
  return drawn.astype(jnp.int32)


def _log_probability(
  logits: Float[Array, 'B T R V'], codes: Int[Array, 'B T R']
) -> Float[Array, 'B T']:
  """Of the codes of each position, by the logits before any filter."""
  picked = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
  return jnp.sum(picked - jax.nn.logsumexp(logits, axis=-1), axis=-1)


def _gumbel(keys: jax.Array, shape: tuple[int, ...]) -> Float[Array, 'B T V']:
  return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)


def _mix(
  order: Order,
  quantizer: PyTree,
  logits: Float[Array, 'B T V'],
  gumbel: Float[Array, 'B T V'],
  ratio: float,
) -> Float[Array, 'B T C']:
  every_code = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, :, None]
  codebook = order.embed(quantizer, every_code)[0]
  return smooth_lib.mixture(logits, gumbel, ratio) @ codebook
