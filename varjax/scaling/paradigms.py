"""Orders of production side by side: exponents, and what compares with what.

A loss of one order means the same as that of another only where both are
likelihoods of the same symbols. This module fits a power law to each order
and says of every pair of orders which quantity compares them and why the
others do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from scipy import stats

from varjax import errors

FEWEST_SIZES = 4
QUANTITIES = ('code_nats', 'bits_per_dim', 'kid')
_COVERAGE = 0.95


@dataclasses.dataclass(frozen=True)
class Exponent:
  """A power law y = scale * x^-exponent through the sizes of one order.

  Attributes:
    exponent: positive where y falls with x.
    lo, hi: of 95 %, by Student's t of the log-log regression.
    scale: y at x = 1.
    sizes: how many points.
    residual: root mean square of the residuals, in natural logarithms.
  """

  exponent: float
  lo: float
  hi: float
  scale: float
  sizes: int
  residual: float


@dataclasses.dataclass(frozen=True)
class Paradigm:
  """What the losses of one order are of.

  Attributes:
    name: for people.
    loss_kind: 'exact', 'bound' or 'surrogate'.
    tokenizer_id: whose codes are predicted.
    eval_set: what they are evaluated on.
    lossless: whether the tokenizer loses nothing of an image.
  """

  name: str
  loss_kind: str
  tokenizer_id: str
  eval_set: str
  lossless: bool = False


def fit_exponent(x: Iterable[float], y: Iterable[float]) -> Exponent:
  """Fits log y = a - b log x.

  There is no irreducible loss in it: four points cannot tell one from an
  exponent, so the exponent is a local one, of the sizes at hand.

  Raises:
    DataError: fewer than four sizes, or values that have no logarithm.
  """
  x, y = np.asarray(list(x), float), np.asarray(list(y), float)
  distinct = len(np.unique(x))
  if distinct < FEWEST_SIZES:
    raise errors.DataError(
      f'an exponent of {distinct} sizes: needs at least {FEWEST_SIZES}'
    )
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    raise errors.DataError('an exponent needs finite values')
  if min(x.min(), y.min()) <= 0:
    raise errors.DataError('an exponent needs positive values')
  line = stats.linregress(np.log(x), np.log(y))
  half = stats.t.ppf((1 + _COVERAGE) / 2, len(x) - 2) * line.stderr
  residual = np.log(y) - line.intercept - line.slope * np.log(x)
  return Exponent(
    exponent=-line.slope,
    lo=-line.slope - half,
    hi=-line.slope + half,
    scale=math.exp(line.intercept),
    sizes=len(x),
    residual=float(np.sqrt(np.mean(residual**2))),
  )


def unresolved(values: Iterable[float], sems: Iterable[float]) -> str:
  """Why measured values carry no exponent; '' where they do.

  A line through noise has a slope too, so a fit is refused unless the
  smallest and the largest size differ by two standard errors.

  Args:
    values: of one quantity, by size.
    sems: their standard errors.
  """
  values, sems = np.asarray(list(values)), np.asarray(list(sems))
  if values.min() <= 0:
    return 'a value is not above 0'
  change = abs(values[0] - values[-1])
  error = math.hypot(sems[0], sems[-1])
  if not change > 2 * error:
    return f'sizes differ by {change:.2g} ± {error:.2g}'
  return ''


def refusal(one: Paradigm, other: Paradigm, quantity: str) -> str:
  """Why a quantity does not compare two orders; '' where it does.

  Args:
    one, other: the orders.
    quantity: 'code_nats' (of the codes of an image), 'bits_per_dim' (of the
      image, tokenizer included) or 'kid' (of samples and images, whatever
      the likelihood is).

  Raises:
    DataError: another quantity.
  """
  if quantity not in QUANTITIES:
    raise errors.DataError(
      f'{quantity!r}: must be one of {", ".join(QUANTITIES)}'
    )
  if one.eval_set != other.eval_set:
    return 'evaluated on different sets'
  if quantity == 'kid':
    return ''
  for each in (one, other):
    if each.loss_kind == 'surrogate':
      return f'the loss of {each.name} is a surrogate of no likelihood'
  kinds = {kind_of(each, quantity) for each in (one, other)}
  if quantity == 'code_nats':
    if one.tokenizer_id != other.tokenizer_id:
      return 'codes of different tokenizers'
    if kinds == {'exact', 'bound'}:
      return 'one is exact and the other a bound; see what can be concluded'
  return ''


def kind_of(one: Paradigm, quantity: str) -> str:
  """'exact', 'bound', 'surrogate' or 'estimate': what it is of an order.

  Bits of an image are exact only where every image has one sequence of
  codes and every sequence one image. A distance of samples is an estimate,
  whatever the loss is.
  """
  if quantity == 'kid':
    return 'estimate'
  if quantity == 'bits_per_dim' and one.loss_kind == 'exact':
    return 'exact' if one.lossless else 'bound'
  return one.loss_kind


def better(
  one: tuple[float, str], other: tuple[float, str], margin: float = 0.0
) -> str:
  """What two likelihoods, each with its kind, allow to conclude.

  An upper bound on the cost can only convict the other side: a bound below
  an exact cost is better, a bound above it may be loose.

  Args:
    one, other: (cost, 'exact' | 'bound' | 'estimate').
    margin: what a difference must exceed, such as two standard errors.

  Returns:
    'better', 'worse', or 'open'; for two bounds the order of the bounds,
    'better bound' or 'worse bound'.
  """
  (cost, kind), (other_cost, other_kind) = one, other
  if abs(cost - other_cost) <= margin:
    return 'open'
  lower = cost < other_cost
  if kind == other_kind == 'bound':
    return 'better bound' if lower else 'worse bound'
  if kind == other_kind:
    return 'better' if lower else 'worse'
  proven = lower if kind == 'bound' else not lower
  if not proven:
    return 'open'
  return 'better' if lower else 'worse'


def comparisons(
  paradigms: Mapping[str, Paradigm], quantity: str
) -> list[dict[str, Any]]:
  """A row for every pair: one, other, and the reason of a refusal."""
  return [
    {
      'one': one,
      'other': other,
      'refused': refusal(paradigms[one], paradigms[other], quantity),
    }
    for one, other in itertools.combinations(paradigms, 2)
  ]
