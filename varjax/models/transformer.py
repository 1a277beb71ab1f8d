"""The transformer: one network for every order of codes.

Labels and example inputs to logits over codes (VAR, arXiv 2404.02905,
section 3.2; official `VAR.forward`). The parameter tree is the same for
scanned and unrolled blocks: block weights have a leading 'layers' axis.

  embed/    word, classes, start, pos, level, origin
  adaln/    kernel, bias (own: per layer; shared: one, and a table gss)
  blocks/   attention/{qkv, q_bias, v_bias, scale, proj}, mlp/{fc1, fc2},
            norm1, norm2 (without AdaLN)
  head/     adaln or norm, logits, depth (where the order has it)
"""

from __future__ import annotations

import functools
import itertools

from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from varjax import errors
from varjax.models import attention, in_place, rotary
from varjax.models.adaln import BlockModulation
from varjax.models.block import KeyValue
from varjax.models.cache import Cache
from varjax.models.embed import Embed
from varjax.models.head import Head
from varjax.models.stack import stacked
from varjax.spec import ModelSpec
from varjax.types import Layout


@flax.struct.dataclass
class Condition:
  """All that the network derives from the labels alone."""

  embedding: jax.Array  # [B, D] float32
  blocks: jax.Array | None  # [depth, B, 6, D], None without AdaLN
  head: jax.Array | None  # [B, 2, D] float32


class Transformer(nn.Module):
  """Logits of every position given the class and earlier steps.

  Attributes:
    spec: the network.
    layout: the order's shapes.
  """

  spec: ModelSpec
  layout: Layout

  def setup(self) -> None:
    """Declares embeddings, modulation, blocks and head."""
    spec = self.spec
    self.embed = Embed(spec, self.layout)
    if spec.norm == 'adaln':
      self.adaln = BlockModulation(spec)
    self.blocks = stacked(spec)(spec)
    self.head = Head(spec, self.layout)

  def __call__(
    self,
    labels: Int[Array, ' B'],
    inputs: jax.Array,
    positions: Int[Array, '#B L'] | None = None,
    steps: Int[Array, '#B L'] | None = None,
    train: bool = False,
    origins: Int[Array, '#B LminusS'] | None = None,
    sums: Float[Array, 'B L Rm1 C'] | None = None,
  ) -> Float[Array, 'B L R V']:
    """Teacher-forced logits.

    Args:
      labels: class index; num_classes is "no class".
      inputs: `Example.inputs`, or any prefix of it that ends with a block:
        the logits are then those of the prefix.
      positions: rows of the position table; default 0, 1, 2, ...
      steps: step of each position; default the static block index. Only
        read where the layout has no static blocks.
      train: stochastic depth, with the rng stream 'drop_path'.
      origins: `Example.origins`.
      sums: `Example.sums`.

    Returns:
      float32 logits.

    Raises:
      ConfigError: the prefix ends inside a block, or the layout has no
        static blocks and no steps are given.
    """
    x, modulation = self.hidden(
      labels, inputs, positions, steps, train, origins
    )
    return self.head(x, modulation, sums)

  def hidden(
    self,
    labels: Int[Array, ' B'],
    inputs: jax.Array,
    positions: Int[Array, '#B L'] | None = None,
    steps: Int[Array, '#B L'] | None = None,
    train: bool = False,
    origins: Int[Array, '#B LminusS'] | None = None,
  ) -> tuple[Float[Array, 'B L D'], Float[Array, 'B 2 D'] | None]:
    """What the head takes: hidden states, and its modulation.

    Arguments as in the call; a loss in parts applies the head itself.
    """
    condition = self.condition(labels)
    x = self.trunk(condition, inputs, positions, steps, train, origins)
    return x, condition.head

  def condition(self, labels: Int[Array, ' B']) -> Condition:
    """Embeds labels and computes every modulation vector, once."""
    embedding = self.embed.condition(labels)
    return Condition(
      embedding=embedding,
      blocks=self.adaln(embedding) if self.spec.norm == 'adaln' else None,
      head=self.head.modulation(embedding),
    )

  def trunk(
    self,
    condition: Condition,
    inputs: jax.Array,
    positions: Int[Array, '#B L'] | None = None,
    steps: Int[Array, '#B L'] | None = None,
    train: bool = False,
    origins: Int[Array, '#B LminusS'] | None = None,
  ) -> Float[Array, 'B L D']:
    """Hidden states after the last block; arguments as in the call."""
    return self._pass(condition, inputs, positions, steps, train, origins)[0]

  def prefill(
    self,
    condition: Condition,
    inputs: jax.Array | None,
    positions: Int[Array, '#B L'],
    origins: Int[Array, '#B LminusS'] | None = None,
  ) -> KeyValue:
    """Keys and values of the first blocks, which one pass computes.

    What `decode` would have cached in as many steps as there are blocks.

    Args:
      condition: of `condition(labels)`.
      inputs: of the blocks; None where all of them are start symbols.
      positions, origins: as in the call.

    Returns:
      Each [depth, B, L, N, A].
    """
    return self._pass(
      condition, inputs, positions, None, False, origins, collect=True
    )[1]

  def _pass(
    self, condition, inputs, positions, steps, train, origins, collect=False
  ):
    """All positions at once: hidden states, and keys and values if asked."""
    length = self.layout.start + (0 if inputs is None else inputs.shape[1])
    blocks = self._blocks_of(length)
    if blocks is not None:
      steps = jnp.asarray(attention.block_steps(blocks))[None]
    elif steps is None:
      raise errors.ConfigError(
        'steps: must be given, this order has no static block sizes'
      )
    if positions is None:
      positions = jnp.arange(length)[None]
    x = self.embed(
      condition.embedding, inputs, positions, steps, origins=origins
    )
    rule = None if blocks is not None else steps
    turns = rotary.turns(self.spec, self.layout, positions)
    return self._run(x, condition, None, rule, blocks, train, collect, turns)

  def decode(
    self,
    condition: Condition,
    inputs: jax.Array | None,
    cache: Cache,
    step: int | Int[Array, ''],
    positions: Int[Array, '#B T'] | None = None,
    origins: Int[Array, '#B TminusS'] | None = None,
    like: int | None = None,
  ) -> tuple[Float[Array, 'B T D'], Cache]:
    """Hidden states of one step, reading earlier steps from the cache.

    Args:
      condition: of `condition(labels)`.
      inputs: [B, T, C | R] of this step, without start symbols; None where
        the whole step is start symbols.
      cache: holds the earlier steps; see `cache.empty`.
      step: index of the block; traced, it must not be the first.
      positions: rows of the position table; default offset, offset + 1, ...
      origins: where the inputs lie, if the order says so.
      like: static index of a block of the same size, for a traced step.

    Returns:
      As `trunk`, and the cache with this step in it.

    Raises:
      ConfigError: if the layout has no static blocks.
    """
    sizes = self.layout.block_sizes
    if sizes is None:
      raise errors.ConfigError('decode: needs an order with static blocks')
    if isinstance(step, int):
      offset, size, start = sum(sizes[:step]), sizes[step], step == 0
      prefix, visible = cache.prefix(offset), None
    else:
      size, start = sizes[like], False
      ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
      offset = visible = jnp.asarray(ends)[step]
      prefix = cache
    if positions is None:
      positions = offset + jnp.arange(size)[None]
    steps = jnp.full((1, size), step)
    x = self.embed(
      condition.embedding, inputs, positions, steps, start, origins
    )
    turns = rotary.turns(self.spec, self.layout, positions)
    x, new = self._run(
      x, condition, prefix, None, None, False, True, turns, visible
    )
    return x, cache.write(new, offset)

  def classify(
    self,
    condition: Condition,
    hidden: Float[Array, 'B T D'],
    total: Float[Array, 'B T C'] | None = None,
    cache: KeyValue | None = None,
  ) -> tuple[Float[Array, 'B T R V'], KeyValue | None]:
    """Logits of the codes that are drawn next at each position.

    All of a position's codes, or one after the other where the layout has
    `rounds`; see `head.Head.step`.
    """
    return self.head.step(hidden, condition.head, total, cache)

  def _run(
    self,
    x,
    condition,
    prefix,
    steps,
    blocks,
    train,
    collect=False,
    turns=None,
    visible=None,
  ):
    spec = self.spec
    x = x.astype(spec.compute_dtype)
    x = nn.with_logical_constraint(x, ('batch', 'length', 'embed'))
    rates = np.linspace(0, spec.drop_path, spec.depth, dtype=np.float32)
    run = self.blocks
    if collect and in_place.serves(x):
      weights = self.variables['params']['blocks']
      run = functools.partial(in_place.run, spec, weights)
    return run(
      x,
      condition.blocks,
      rates,
      prefix,
      steps,
      blocks,
      train,
      collect,
      turns,
      visible,
    )

  def _blocks_of(self, length: int) -> attention.Blocks | None:
    sizes = self.layout.block_sizes
    if sizes is None:
      return None
    ends = list(itertools.accumulate(sizes))
    if length not in ends:
      raise errors.ConfigError(
        f'inputs: {length} positions do not end with a block; the blocks of '
        f'this order end at {ends}'
      )
    return sizes[: ends.index(length) + 1]
