"""Step-by-step generation with a key-value cache and guidance.

Official `autoregressive_infer_cfg`, for any order with static blocks. All
steps are one traced function: wrap `sample` in `jax.jit` with the model,
the order and the settings closed over. Guidance grows linearly from 0 at
the first step to `cfg` at the last.
"""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax import errors
from varjax.models import cache as cache_lib
from varjax.models.transformer import Transformer
from varjax.orders.base import Order
from varjax.sampling import logits as logits_lib
from varjax.sampling import smooth as smooth_lib
from varjax.sampling.edit import Known
from varjax.types import Codes, PyTree


@flax.struct.dataclass
class Samples:
  """What a generation made."""

  codes: jax.Array  # [B, L, R] int32, as drawn
  features: jax.Array  # [B, P, P, C], for the decoder
  logits: jax.Array  # [B, L, R, V], guided and not filtered


def sample(
  model: Transformer,
  params: PyTree,
  order: Order,
  quantizer: PyTree,
  labels: Int[Array, ' B'],
  rng: jax.Array,
  *,
  cfg: float = 1.5,
  top_k: int = 0,
  top_p: float = 0.0,
  smooth: bool = False,
  gumbel: Float[Array, 'B L V'] | None = None,
  known: Known | None = None,
) -> tuple[Codes, Float[Array, 'B P P C']]:
  """Generates images as codes and decoder features.

  Args:
    model: the transformer.
    params: its unboxed 'params' collection.
    order: of the codes; its steps must be static.
    quantizer: weights of the tokenizer's quantiser.
    labels: class per image; negative is "no class".
    rng: one key (image i draws from `fold_in(rng, i)`) or a key for each
      image [B]. An image's draws depend on its own key alone.
    cfg: guidance at the last step; 0 also skips the second forward.
    top_k: codes kept per position, 0 for all; 1 is greedy.
    top_p: probability mass kept per position, 0 for all.
    smooth: mix codes instead of drawing one (`more_smooth`).
    gumbel: noise for `smooth`; drawn from `rng` by default.
    known: given positions, for editing.

  Returns:
    The codes as they were drawn (`edit.merge` puts given ones in), and the
    features, which do contain the given codes and the mixtures.

  Raises:
    ConfigError: the order has no static steps, `smooth` is asked of
      several codes per position, or `rng` has another number of keys than
      there are labels.
  """
  result = run(
    model,
    params,
    order,
    quantizer,
    labels,
    rng,
    cfg=cfg,
    top_k=top_k,
    top_p=top_p,
    smooth=smooth,
    gumbel=gumbel,
    known=known,
  )
  return result.codes, result.features


def run(
  model: Transformer,
  params: PyTree,
  order: Order,
  quantizer: PyTree,
  labels: Int[Array, ' B'],
  rng: jax.Array,
  *,
  cfg: float = 1.5,
  top_k: int = 0,
  top_p: float = 0.0,
  smooth: bool = False,
  gumbel: Float[Array, 'B L V'] | None = None,
  known: Known | None = None,
) -> Samples:
  """`sample`, with the guided logits of every position beside it."""
  layout = order.layout
  sizes = layout.block_sizes
  if sizes is None:
    raise errors.ConfigError('sample: needs an order with static steps')
  if smooth and layout.targets_per_position != 1:
    raise errors.ConfigError(
      f'smooth=True: needs one code per position, this tokenizer has '
      f'{layout.targets_per_position}'
    )
  variables = {'params': params}
  batch = labels.shape[0]
  keys = image_keys(rng, batch)
  nobody = model.spec.num_classes
  labels = jnp.where(labels < 0, nobody, labels)
  guided = not (isinstance(cfg, int | float) and cfg == 0)
  if guided:
    labels = jnp.concatenate([labels, jnp.full_like(labels, nobody)])
  condition = model.apply(variables, labels, method='condition')
  cache = cache_lib.empty(model.spec, labels.shape[0], layout.positions)
  state, inputs = order.start(batch), None
  codes, all_logits, offset = [], [], 0
  for step, size in enumerate(sizes):
    where = slice(offset, offset + size)
    ratio = logits_lib.ratio(step, len(sizes))
    if guided and inputs is not None:
      inputs = jnp.concatenate([inputs, inputs])
    logits, cache = model.apply(
      variables, condition, inputs, cache, step, method='decode'
    )
    if guided:
      logits = logits_lib.guide(logits[:batch], logits[batch:], cfg * ratio)
    all_logits.append(logits)
    filtered = logits_lib.top_p(logits_lib.top_k(logits, top_k), top_p)
    step_keys = jax.vmap(functools.partial(_step_keys, step=step))(keys)
    drawn = _draw(filtered, step_keys[:, 0], greedy=top_k == 1)
    codes.append(drawn)
    if smooth:
      if gumbel is None:
        noise = _gumbel(step_keys[:, 1], filtered.shape[1::2])
      else:
        noise = gumbel[:, where]
      features = _mix(order, quantizer, filtered[:, :, 0], noise, ratio)
    else:
      features = order.embed(quantizer, drawn)
    if known is not None:
      given = order.embed(quantizer, known.codes[:, where])
      keep = jnp.broadcast_to(known.keep, (batch, layout.positions))
      features = jnp.where(keep[:, where, None], given, features)
    state, inputs = order.advance(quantizer, state, features, step)
    offset += size
  return Samples(
    codes=jnp.concatenate(codes, axis=1),
    features=order.features(state),
    logits=jnp.concatenate(all_logits, axis=1),
  )


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


def _draw(
  logits: Float[Array, 'B T R V'], keys: jax.Array, greedy: bool
) -> Int[Array, 'B T R']:
  if greedy:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  drawn = jax.vmap(jax.random.categorical)(keys, logits)
  return drawn.astype(jnp.int32)


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
