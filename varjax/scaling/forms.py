"""Functional forms of scaling laws, in normalised log coordinates.

A form maps inputs (parameters N, tokens D, compute C ...) to a positive
loss. Everything is fitted in units of the geometric means of the data, so
the optimiser sees numbers near 1 whatever the user's units, and a change of
units changes nothing but the reported constants. Two families:

* `SumForm`: log y = logsumexp_k(Z_k theta + z_k), a sum of power laws with
  coefficients kept positive by their logarithm (Chinchilla, Hoffmann 2022,
  section 3.3; Gadre 2024, section 3; plain power laws with a floor). Exact
  gradient and Hessian.
* `SmoothForm` (nonlinear.py): any other form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Protocol

import numpy as np

# A floor below this (log of its share of the mean loss) is reported as 0.
FLOOR_MIN = -14.0
INF = float('inf')
Columns = Mapping[str, np.ndarray]
Params = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Scale:
  """Natural logarithms of the units that a fit works in.

  Attributes:
    x: per input, the mean of its logarithm over the fitted points.
    y: the same of the loss.
  """

  x: Mapping[str, float]
  y: float


def scale_of(columns: Columns, y: np.ndarray) -> Scale:
  """Geometric means of inputs and loss (all must be positive)."""
  return Scale(
    x={k: float(np.mean(np.log(v))) for k, v in columns.items()},
    y=float(np.mean(np.log(y))),
  )


class Form(Protocol):
  """What the optimiser, the bootstrap and the report know about a form."""

  @property
  def name(self) -> str:
    """Key of `options.FORMS`, or of a form made for one fit."""
    ...

  @property
  def formula(self) -> str:
    """The form as people write it."""
    ...

  @property
  def inputs(self) -> tuple[str, ...]:
    """Columns that it reads."""
    ...

  @property
  def names(self) -> tuple[str, ...]:
    """Free parameters, in the order of theta [p]."""
    ...

  @property
  def pinned(self) -> Mapping[str, float]:
    """Parameters held fixed, in the user's units."""
    ...

  def bounds(self) -> np.ndarray:
    """[p, 2] lower and upper bounds of theta."""
    ...

  def bind(self, columns: Columns, scale: Scale) -> BoundForm:
    """The form on inputs [n], ready for batches of theta."""
    ...

  def starts(
    self, columns: Columns, y: np.ndarray, rng: np.random.Generator, count: int
  ) -> np.ndarray:
    """Thetas [count, p] from which an optimiser may start."""
    ...

  def to_params(self, theta: np.ndarray, scale: Scale) -> dict:
    """Parameters [...] in the user's units, pinned ones too, of [..., p]."""
    ...

  def to_theta(self, params: Mapping[str, float], scale: Scale) -> np.ndarray:
    """Theta [p] of parameters in the user's units."""
    ...


# log y [b, n], its derivative [b, n, p], and the function that takes v [b, n]
# to sum_i v_i Hessian(log y_i) [b, p, p].
Expansion = tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]


class BoundForm(Protocol):
  """A form on given inputs."""

  def value(self, theta: np.ndarray) -> np.ndarray:
    """log y [b, n], normalised, at theta [b, p]."""
    ...

  def jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log y [b, n] and its derivative [b, n, p]."""
    ...

  def expand(self, theta: np.ndarray) -> Expansion:
    """The same, and what its second derivatives sum to."""
    ...


@dataclasses.dataclass(frozen=True)
class Term:
  """coefficient * prod_j input_j ** -exponent, the exponent shared by name.

  Attributes:
    coef: name of the coefficient.
    powers: (input, exponent name) pairs.
    shift: constant s in coefficient * exp(-exponent * s): Gadre's 6^(b/2).
  """

  coef: str
  powers: tuple[tuple[str, str], ...] = ()
  shift: float = 0.0


@dataclasses.dataclass(frozen=True)
class SumForm:
  """Sum of power-law terms; the last term may be the floor 'E'.

  theta holds, in the order of `names`, logarithms of coefficients (in
  normalised units) and exponents as they are.

  Attributes:
    name, formula: for people and the result file.
    inputs: columns it needs.
    terms: in order.
    pinned: parameters held fixed, in the user's units (the floor only).
  """

  name: str
  formula: str
  inputs: tuple[str, ...]
  terms: tuple[Term, ...]
  pinned: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def coefs(self) -> tuple[str, ...]:
    """Free coefficients, in the order of the terms."""
    return tuple(t.coef for t in self.terms if t.coef not in self.pinned)

  @property
  def exponents(self) -> tuple[str, ...]:
    """Exponents, each once, in the order of the terms."""
    seen = dict.fromkeys(e for t in self.terms for _, e in t.powers)
    return tuple(seen)

  @property
  def names(self) -> tuple[str, ...]:
    """Free parameters, in the order of theta."""
    return self.coefs + self.exponents

  def bounds(self) -> np.ndarray:
    """[p, 2] lower and upper bounds of theta."""
    rows = [
      (FLOOR_MIN, 60.0) if c == 'E' else (-60.0, 60.0) for c in self.coefs
    ]
    # With a floor, a rising or flat power law is the floor again.
    low = 1e-3 if any(t.coef == 'E' for t in self.terms) else -4.0
    low = 1e-3 if len(self.terms) > 1 else low
    return np.array(rows + [(low, 4.0)] * len(self.exponents))

  def bind(self, columns: Columns, scale: Scale) -> BoundSum:
    """The form on inputs [n], ready for batches of theta."""
    size = len(columns[self.inputs[0]])
    z = np.zeros((size, len(self.terms), len(self.names)))
    offset = np.zeros((size, len(self.terms)))
    for k, term in enumerate(self.terms):
      if term.coef in self.pinned:
        floor = self.pinned[term.coef]
        offset[:, k] = math.log(floor) - scale.y if floor > 0 else -1e3
      else:
        z[:, k, self.names.index(term.coef)] = 1.0
      for column, exponent in term.powers:
        logs = np.log(columns[column]) - scale.x[column]
        z[:, k, self.names.index(exponent)] -= logs
    return BoundSum(z, offset)

  def starts(
    self, columns: Columns, y: np.ndarray, rng: np.random.Generator, count: int
  ) -> np.ndarray:
    """[count, p] starts: shares of the loss at the centre, and exponents.

    The shares are drawn from a Dirichlet, exponents log-uniformly in
    .03 .. 1.5, both in normalised units: no hand-tuned grid is needed.
    """
    del columns
    free = [t.coef for t in self.terms if t.coef not in self.pinned]
    shares = rng.dirichlet(np.ones(len(free)), size=count)
    exponents = np.exp(
      rng.uniform(math.log(0.03), math.log(1.5), (count, len(self.exponents)))
    )
    total = 1.0
    if 'E' in self.pinned and np.min(y) > 0:
      floor = self.pinned['E'] / math.exp(np.mean(np.log(y)))
      total = max(1.0 - floor, 1e-3)
    return np.concatenate(
      [np.log(np.maximum(shares * total, 1e-5)), exponents], axis=1
    )

  def to_params(self, theta: np.ndarray, scale: Scale) -> dict:
    """theta [..., p] -> {name: [...]} in the user's units."""
    values = dict(zip(self.names, np.moveaxis(theta, -1, 0), strict=True))
    out = {}
    for term in self.terms:
      if term.coef in self.pinned:
        out[term.coef] = np.full(theta.shape[:-1], self.pinned[term.coef])
        continue
      log = values[term.coef] + scale.y
      for column, exponent in term.powers:
        log = log + values[exponent] * scale.x[column]
      for exponent in dict.fromkeys(e for _, e in term.powers):
        log = log + values[exponent] * term.shift
      value = np.exp(np.clip(log, -700, 700))
      if term.coef == 'E':
        value = np.where(values['E'] <= FLOOR_MIN + 1e-9, 0.0, value)
      out[term.coef] = value
    out.update({e: values[e] for e in self.exponents})
    return out

  def to_theta(self, params: Mapping[str, float], scale: Scale) -> np.ndarray:
    """The inverse of to_params, for one set of parameters -> [p]."""
    theta = []
    for term in self.terms:
      if term.coef in self.pinned:
        continue
      value = params[term.coef]
      if value <= 0:
        theta.append(FLOOR_MIN if term.coef == 'E' else -60.0)
        continue
      log = math.log(value) - scale.y
      for column, exponent in term.powers:
        log -= params[exponent] * scale.x[column]
      for exponent in dict.fromkeys(e for _, e in term.powers):
        log -= params[exponent] * term.shift
      theta.append(max(log, FLOOR_MIN) if term.coef == 'E' else log)
    return np.array(theta + [params[e] for e in self.exponents])


class BoundSum:
  """log y = logsumexp_k(Z[i, k] theta + z[i, k]) for batches of theta."""

  def __init__(self, z: np.ndarray, offset: np.ndarray):
    """z [n, k, p], offset [n, k]."""
    self.z, self.offset = z, offset
    n, k, p = z.shape
    self._flat = z.reshape(n * k, p)
    self._outer = np.einsum('ip,iq->ipq', self._flat, self._flat)
    self._outer = self._outer.reshape(n * k, p * p)
    self._shape = (n, k, p)

  def _terms(self, theta: np.ndarray) -> np.ndarray:
    n, k, _ = self._shape
    return (theta @ self._flat.T).reshape(-1, n, k) + self.offset[None]

  def value(self, theta: np.ndarray) -> np.ndarray:
    """theta [b, p] -> log y [b, n]."""
    terms = self._terms(theta)
    top = terms.max(axis=-1)
    return top + np.log(np.exp(terms - top[..., None]).sum(axis=-1))

  def jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """theta [b, p] -> log y [b, n] and its derivative [b, n, p]."""
    return self.expand(theta)[:2]

  def expand(self, theta: np.ndarray) -> Expansion:
    """theta [b, p] -> log y, its derivative, and its curvature."""
    terms = self._terms(theta)
    top = terms.max(axis=-1, keepdims=True)
    shares = np.exp(terms - top)
    total = shares.sum(axis=-1, keepdims=True)
    shares /= total
    jacobian = shares[..., 0, None] * self.z[None, :, 0]
    for k in range(1, self._shape[1]):
      jacobian += shares[..., k, None] * self.z[None, :, k]

    def curvature(v: np.ndarray) -> np.ndarray:
      n, k, p = self._shape
      weighted = (v[..., None] * shares).reshape(-1, n * k)
      first = (weighted @ self._outer).reshape(-1, p, p)
      return first - np.matmul(
        np.swapaxes(jacobian, 1, 2), jacobian * v[..., None]
      )

    return (top + np.log(total))[..., 0], jacobian, curvature


POWER = SumForm(
  'power', 'y = A x^-alpha', ('x',), (Term('A', (('x', 'alpha'),)),)
)
POWER_FLOOR = SumForm(
  'power_floor', 'y = E + A x^-alpha', ('x',),
  (Term('A', (('x', 'alpha'),)), Term('E')),
)  # fmt: skip
CHINCHILLA = SumForm(
  'chinchilla', 'y = E + A N^-alpha + B D^-beta', ('n', 'd'),
  (Term('A', (('n', 'alpha'),)), Term('B', (('d', 'beta'),)), Term('E')),
)  # fmt: skip
GADRE = SumForm(
  'gadre', 'y = E + p N^-eta + q 6^(-eta/2) D^-eta', ('n', 'd'),
  (
    Term('p', (('n', 'eta'),)),
    Term('q', (('d', 'eta'),), shift=0.5 * math.log(6.0)),
    Term('E'),
  ),
)  # fmt: skip


def pin_floor(form: SumForm, floor: float) -> SumForm:
  """The same form with E held at `floor` (the user's units, >= 0).

  This is the VAR paper's convention (author, issue 23): L is the
  cross-entropy less a fixed tokenizer entropy.
  """
  terms = form.terms
  if not any(t.coef == 'E' for t in terms):
    terms = (*terms, Term('E'))
  return dataclasses.replace(
    form, name=f'{form.name.removesuffix("_floor")}_pinned', terms=terms,
    formula=f'{form.formula}, E fixed', pinned={'E': float(floor)},
  )  # fmt: skip
