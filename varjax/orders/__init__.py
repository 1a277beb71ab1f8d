"""Orders of code production, by name."""

from __future__ import annotations

from varjax import errors
from varjax.orders.base import Order
from varjax.orders.scale import ScaleOrder
from varjax.spec import OrderSpec, TokenizerSpec

ORDERS = {'scale': ScaleOrder}


def make_order(order: OrderSpec, tokenizer: TokenizerSpec) -> Order:
  """Builds the order of a run.

  Args:
    order: names it.
    tokenizer: what its codes are.

  Raises:
    ConfigError: the order does not exist.
  """
  if order.name not in ORDERS:
    raise errors.ConfigError(
      f'order.name={order.name!r}: must be one of {", ".join(sorted(ORDERS))}'
    )
  return ORDERS[order.name](tokenizer)
