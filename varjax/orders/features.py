"""What the orders whose inputs are features have in common.

A row reads code vectors, or sums of them, in the way of the tokenizer that
made the codes; the transformer projects these instead of looking codes up.
"""

from __future__ import annotations

import dataclasses
import functools

from jaxtyping import Array, Float, Int

from varjax.spec import OrderSpec, TokenizerSpec
from varjax.tokenizers.base import Quantizer, code_spec
from varjax.types import CodeSpec, Layout


@dataclasses.dataclass(frozen=True)
class FeatureOrder:
  """Base of the orders of features; see `orders.base.Order` for the methods.

  Attributes:
    spec: the tokenizer whose codes are ordered.
    order: the settings of the order.
  """

  spec: TokenizerSpec
  order: OrderSpec = OrderSpec()
  loss_kind = 'exact'
  cached = True

  @functools.cached_property
  def code_spec(self) -> CodeSpec:
    """Grids and alphabet."""
    return code_spec(self.spec)

  def blocks(self, sizes: tuple[int, ...], **changes) -> Layout:
    """The layout of these blocks, the first of which is start symbols."""
    codes = self.code_spec
    layout = Layout(
      positions=codes.positions,
      start=sizes[0],
      block_sizes=sizes,
      input_kind='features',
      input_dim=codes.code_dim,
      targets_per_position=codes.codes_per_position,
      vocab=codes.vocab,
      num_positions=codes.positions,
      num_steps=len(sizes),
      grids=codes.grids,
    )
    return dataclasses.replace(layout, **changes)

  def embed(
    self, quantizer: Quantizer, codes: Int[Array, 'B T R']
  ) -> Float[Array, 'B T C']:
    """Codes as the vectors that the quantizer sums."""
    return quantizer.embed(codes)
