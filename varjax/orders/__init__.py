"""Orders of code production, by name."""

from __future__ import annotations

from varjax import errors
from varjax.orders.base import Order
from varjax.orders.masked import MaskedOrder
from varjax.orders.permuted import PermutedOrder
from varjax.orders.raster import RasterOrder
from varjax.orders.residual import ResidualOrder
from varjax.orders.scale import ScaleOrder
from varjax.orders.setwise import SetwiseOrder
from varjax.orders.split import SplitOrder
from varjax.params import Sequence
from varjax.spec import OrderSpec, TokenizerSpec

ORDERS = {
  'scale': ScaleOrder,
  'raster': RasterOrder,
  'permuted': PermutedOrder,
  'setwise': SetwiseOrder,
  'split': SplitOrder,
  'masked': MaskedOrder,
  'residual': ResidualOrder,
}


def make_order(order: OrderSpec, tokenizer: TokenizerSpec) -> Order:
  """Builds the order of a run.

  Args:
    order: names it, with its settings.
    tokenizer: what its codes are.

  Raises:
    ConfigError: the order does not exist.
  """
  if order.name not in ORDERS:
    raise errors.ConfigError(
      f'order.name={order.name!r}: must be one of {", ".join(sorted(ORDERS))}'
    )
  return ORDERS[order.name](tokenizer, order)


def sequence_of(order: OrderSpec, tokenizer: TokenizerSpec) -> Sequence:
  """What parameter counts and FLOPs of a run depend on, for any order.

  Raises:
    ConfigError: the order does not exist.
  """
  layout = make_order(order, tokenizer).layout
  symbols = 0
  if layout.input_kind == 'codes':
    symbols = layout.input_dim * layout.input_symbols
  return Sequence(
    block_sizes=layout.block_sizes or (layout.positions,),
    start=layout.start,
    input_dim=layout.input_dim,
    vocab=layout.vocab,
    num_positions=layout.num_positions,
    num_steps=layout.num_steps,
    symbols=symbols,
    num_origins=layout.num_origins,
    tokens=layout.tokens,
    targets_per_position=layout.targets_per_position,
    depth_dim=layout.depth_dim,
  )
