"""Forms that are no sum of power laws: Kaplan, broken, repeated data.

Their Jacobian is taken by complex steps: exact to rounding, and no formula
to get wrong.

Kaplan 2020, equation 1.5; Caballero 2023 (smoothly broken power laws);
Muennighoff 2023, section 6 (data repetition).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from varjax.scaling import optimum
from varjax.scaling.forms import FLOOR_MIN, Columns, Expansion, Scale


@dataclasses.dataclass(frozen=True)
class SmoothForm:
  """A form given by its logarithm as an analytic function of theta.

  Attributes:
    name, formula, inputs, names: as of any form.
    box: per name, bounds of theta.
    draw: per name, the range that starts are drawn from, uniformly.
    log_y: (theta dict of [b, 1], normalised logs of the inputs [1, n],
      scale, array module) -> [b, n]; made of analytic functions of that
      module (numpy, or jax.numpy in newton_jax.py) only.
    encode, decode: between theta and params of the user's units.
    pinned: parameters held fixed.
  """

  name: str
  formula: str
  inputs: tuple[str, ...]
  names: tuple[str, ...]
  box: tuple[tuple[float, float], ...]
  draw: tuple[tuple[float, float], ...]
  log_y: Callable[[dict, dict, Scale, Any], Any]
  decode: Callable[[dict, Scale], dict]
  encode: Callable[[Mapping[str, float], Scale], dict]
  pinned: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def bounds(self) -> np.ndarray:
    """[p, 2] lower and upper bounds of theta."""
    return np.array(self.box)

  def bind(self, columns: Columns, scale: Scale) -> BoundSmooth:
    """The form on inputs [n], ready for batches of theta."""
    logs = {k: np.log(columns[k])[None] - scale.x[k] for k in self.inputs}
    return BoundSmooth(self, logs, scale)

  def starts(
    self, columns: Columns, y: np.ndarray, rng: np.random.Generator, count: int
  ) -> np.ndarray:
    """[count, p], uniform in `draw`."""
    del columns, y
    low, high = np.array(self.draw).T
    return rng.uniform(low, high, (count, len(low)))

  def to_params(self, theta: np.ndarray, scale: Scale) -> dict:
    """Parameters [...] in the user's units, pinned ones too, of [..., p]."""
    values = dict(zip(self.names, np.moveaxis(theta, -1, 0), strict=True))
    out = self.decode(values, scale)
    fixed = {k: np.full(theta.shape[:-1], v) for k, v in self.pinned.items()}
    return {**out, **fixed}

  def to_theta(self, params: Mapping[str, float], scale: Scale) -> np.ndarray:
    """Theta [p] of parameters in the user's units."""
    values = self.encode(params, scale)
    return np.array([values[k] for k in self.names])


@dataclasses.dataclass(frozen=True)
class BoundSmooth:
  """A SmoothForm on given inputs."""

  form: SmoothForm
  logs: dict[str, np.ndarray]
  scale: Scale

  def value(self, theta: np.ndarray) -> np.ndarray:
    """theta [b, p] -> log y [b, n]."""
    return self._log_y(theta)

  def jacobian(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """theta [b, p] -> log y [b, n] and its derivative [b, n, p]."""
    step = 1e-30
    columns = []
    for i in range(theta.shape[1]):
      shifted = theta.astype(complex)
      shifted[:, i] += 1j * step
      columns.append(np.imag(self._log_y(shifted)) / step)
    return self._log_y(theta), np.stack(columns, axis=-1)

  def expand(self, theta: np.ndarray) -> Expansion:
    """theta [b, p] -> log y, its derivative, and its curvature."""
    return (*self.jacobian(theta), lambda v: self._curvature(theta, v))

  def _curvature(self, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Central differences of the exact gradient."""
    step = 1e-5
    rows = []
    for j in range(theta.shape[1]):
      ends = []
      for sign in (1.0, -1.0):
        shifted = theta.copy()
        shifted[:, j] += sign * step
        ends.append(np.einsum('bn,bnp->bp', v, self.jacobian(shifted)[1]))
      rows.append((ends[0] - ends[1]) / (2 * step))
    hessian = np.stack(rows, axis=1)
    return 0.5 * (hessian + np.swapaxes(hessian, 1, 2))

  def _log_y(self, theta: np.ndarray) -> np.ndarray:
    values = {k: theta[:, i, None] for i, k in enumerate(self.form.names)}
    return self.form.log_y(values, self.logs, self.scale, np)


def _log_add(xp: Any, *terms: Any) -> Any:
  """logsumexp that complex steps pass through."""
  top = xp.real(terms[0])
  for term in terms[1:]:
    top = xp.maximum(top, xp.real(term))
  return top + xp.log(sum(xp.exp(term - top) for term in terms))


def _kaplan(t: dict, x: dict, scale: Scale, xp: Any) -> Any:
  del scale
  ratio = t['alpha_n'] / t['alpha_d']
  terms = ratio * (t['Nc'] - x['n']), t['Dc'] - x['d']
  return t['alpha_d'] * _log_add(xp, *terms)


KAPLAN = SmoothForm(
  name='kaplan',
  formula='y = ((Nc/N)^(alpha_n/alpha_d) + Dc/D)^alpha_d',
  inputs=('n', 'd'),
  names=('alpha_n', 'alpha_d', 'Nc', 'Dc'),
  box=((1e-3, 4.0), (1e-3, 4.0), (-300.0, 300.0), (-300.0, 300.0)),
  draw=((0.03, 0.8), (0.03, 0.8), (-4.0, 2.0), (-4.0, 2.0)),
  log_y=_kaplan,
  # A unit of the loss is a unit of Nc^alpha_n and of Dc^alpha_d.
  decode=lambda t, s: {
    'alpha_n': t['alpha_n'], 'alpha_d': t['alpha_d'],
    'Nc': _exp(t['Nc'] + s.x['n'] + s.y / t['alpha_n']),
    'Dc': _exp(t['Dc'] + s.x['d'] + s.y / t['alpha_d']),
  },
  encode=lambda p, s: {
    'alpha_n': p['alpha_n'], 'alpha_d': p['alpha_d'],
    'Nc': math.log(p['Nc']) - s.x['n'] - s.y / p['alpha_n'],
    'Dc': math.log(p['Dc']) - s.x['d'] - s.y / p['alpha_d'],
  },
)  # fmt: skip


def _exp(value):
  return np.exp(np.clip(value, -700, 700))


def _bnsl(t: dict, x: dict, scale: Scale, xp: Any) -> Any:
  del scale
  width = xp.exp(t['f1'])
  bend = _log_add(xp, (x['x'] - t['d1']) / width, 0.0 * x['x'] + 0.0 * t['d1'])
  return _log_add(
    xp,
    t['E'] + 0.0 * x['x'],
    t['b'] - t['c0'] * x['x'] - t['c1'] * width * bend,
  )


BNSL = SmoothForm(
  name='bnsl',
  formula='y = E + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)',
  inputs=('x',),
  names=('E', 'b', 'c0', 'c1', 'd1', 'f1'),
  box=(
    (FLOOR_MIN, 60.0), (-60.0, 60.0), (-2.0, 4.0), (-4.0, 4.0),
    (-25.0, 25.0), (-4.0, 3.0),
  ),
  draw=(
    (-4.0, -0.1), (-3.0, 0.0), (0.0, 0.6), (-0.5, 0.8), (-2.0, 2.0),
    (-2.0, 0.5),
  ),
  log_y=_bnsl,
  decode=lambda t, s: {
    'E': np.where(t['E'] <= FLOOR_MIN + 1e-9, 0.0, _exp(t['E'] + s.y)),
    'b': _exp(t['b'] + s.y + t['c0'] * s.x['x']),
    'c0': t['c0'], 'c1': t['c1'],
    'd1': _exp(t['d1'] + s.x['x']), 'f1': np.exp(t['f1']),
  },
  encode=lambda p, s: {
    'E': math.log(p['E']) - s.y if p['E'] > 0 else FLOOR_MIN,
    'b': math.log(p['b']) - s.y - p['c0'] * s.x['x'],
    'c0': p['c0'], 'c1': p['c1'],
    'd1': math.log(p['d1']) - s.x['x'], 'f1': math.log(p['f1']),
  },
)  # fmt: skip


def repeat_form(base: Mapping[str, float]) -> SmoothForm:
  """Data repetition with a known surface (Muennighoff 2023, section 6).

  D' = U (1 + R_D* (1 - exp(-R_D / R_D*))), R_D = D/U - 1, and N' likewise
  from U_N, the parameters that are optimal for U tokens; L = E + A N'^-alpha
  + B D'^-beta.

  Args:
    base: E, A, B, alpha, beta of the surface on unrepeated data.

  Returns:
    A form of n, d, u (unique tokens) with parameters R_D and R_N.
  """
  split = optimum.exponents(base)

  def log_y(t: dict, x: dict, scale: Scale, xp: Any) -> Any:
    n = xp.exp(x['n'] + scale.x['n'])
    d = xp.exp(x['d'] + scale.x['d'])
    u = xp.minimum(xp.exp(x['u'] + scale.x['u']), d)
    # N* of the budget whose D* is u.
    best = split['G'] * (u * split['G']) ** (split['a'] / split['b'])
    u_n = xp.minimum(n, best)
    d_eff = _effective(xp, u, d / u - 1.0, xp.exp(t['R_D']))
    n_eff = _effective(xp, u_n, n / u_n - 1.0, xp.exp(t['R_N']))
    loss = (
      base['E']
      + base['A'] * n_eff ** -base['alpha']
      + base['B'] * d_eff ** -base['beta']
    )
    return xp.log(loss) - scale.y

  return SmoothForm(
    name='repeat',
    formula="y = E + A N'^-alpha + B D'^-beta, "
    "D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D)))",
    inputs=('n', 'd', 'u'), names=('R_D', 'R_N'),
    box=((-3.0, 30.0), (-3.0, 30.0)), draw=((-1.0, 7.0), (-1.0, 7.0)),
    log_y=log_y,
    decode=lambda t, _: {k: _exp(t[k]) for k in ('R_D', 'R_N')},
    encode=lambda p, _: {k: math.log(p[k]) for k in ('R_D', 'R_N')},
    pinned=dict(base),
  )  # fmt: skip


def _effective(xp, unique, repeats, decay):
  return unique * (1.0 + decay * (1.0 - xp.exp(-repeats / decay)))
