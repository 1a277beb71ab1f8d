"""The choices of an analysis; every one is printed in its checklist.

Misfitting (Li 2025) shows that form, data filter, optimiser, starts and
loss each move a scaling exponent: none of them is hidden here.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

from varjax import errors
from varjax.scaling import forms, nonlinear
from varjax.scaling.bootstrap import BACKENDS
from varjax.scaling.forms import Form
from varjax.scaling.objective import Objective
from varjax.scaling.table import Conventions

FORMS: dict[str, Form] = {
  'power': forms.POWER,
  'power_floor': forms.POWER_FLOOR,
  'chinchilla': forms.CHINCHILLA,
  'gadre': forms.GADRE,
  'kaplan': nonlinear.KAPLAN,
  'bnsl': nonlinear.BNSL,
}
# Forms of one input, which `x` names.
ONE_D = ('power', 'power_floor', 'power_pinned', 'bnsl')
METHODS = (
  'auto', 'huber', 'log', 'linear', 'vpnls', 'isoflop', 'isoflop_akima',
  'envelope',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
  """How to analyse a table.

  Attributes:
    form: a key of FORMS, or power_pinned / chinchilla_pinned with `floor`;
      for records, None means every form of the analysis.
    method: auto is huber for surfaces (Hoffmann) and least squares of the
      logarithm for ladders, where an L1-like loss would pass through as
      many points as it has parameters.
    x: input of a 1-D form: n, d or c.
    delta: of the Huber loss.
    starts, bootstrap, seed: how many starts and refits, drawn how.
    bootstrap_backend: where refits run, numpy or jax.
    conventions: what N, D and C count.
    drop_highest: how many of the highest losses are dropped.
    floor: value of a pinned E, of the metric of the primary fit.
    floors: of other metrics of records, {metric: E}.
    units: {n | d | c | u: size of one unit of the column}, for tables.
    loss_unit: unit of the loss of a table, in words.
    filters: {column: value} rows to keep.
    metric: the loss column of records that the primary fit uses.
    hold_out: how many of the largest sizes to hold out when no run has the
      role holdout; None is one for records and none for tables.
    backtest: whether to leave the largest out in turn.
    sensitivity: whether to vary delta, outliers and objective, and to
      profile the exponents and the floor.
    base: E, A, B, alpha, beta of the surface of the form `repeat`.
    force: keep refusals in the result and go on.
  """

  form: str | None = None
  method: str = 'auto'
  x: str = 'n'
  delta: float = 1e-3
  starts: int = 200
  bootstrap: int = 1000
  bootstrap_backend: str = 'numpy'
  seed: int = 0
  conventions: Conventions = dataclasses.field(default_factory=Conventions)
  drop_highest: int = 0
  floor: float | None = None
  floors: Mapping[str, float] = dataclasses.field(default_factory=dict)
  units: Mapping[str, float] = dataclasses.field(default_factory=dict)
  loss_unit: str = ''
  filters: Mapping[str, str] = dataclasses.field(default_factory=dict)
  metric: str = 'L_mean'
  hold_out: int | None = None
  backtest: bool = True
  sensitivity: bool = False
  base: Mapping[str, float] | None = None
  force: bool = False

  def __post_init__(self):
    if self.method not in METHODS:
      raise errors.ConfigError(
        f'method {self.method!r} is unknown; use one of {", ".join(METHODS)}'
      )
    for name, value in self.units.items():
      if not (math.isfinite(value) and value > 0):
        raise errors.ConfigError(f'unit {name}={value}: must be positive')
    if self.x not in ('n', 'd', 'c'):
      raise errors.ConfigError(f'x {self.x!r} is unknown; use n, d or c')
    if self.starts < 3:
      raise errors.ConfigError('starts must be 3 or more')
    if self.bootstrap < 0 or 0 < self.bootstrap < 20:
      raise errors.ConfigError('bootstrap must be 0 or at least 20')
    if self.bootstrap_backend not in BACKENDS:
      raise errors.ConfigError(
        f'bootstrap_backend {self.bootstrap_backend!r} is unknown; use one '
        f'of {", ".join(BACKENDS)}'
      )

  def floor_of(self, metric: str) -> float | None:
    """The pinned E of a metric of records; None leaves it free."""
    own = self.floor if metric == self.metric else None
    return self.floors.get(metric, own)

  def objective(self, form: Form) -> Objective:
    """What is minimised for a form."""
    kind = self.method
    if kind in ('auto', 'isoflop', 'isoflop_akima', 'envelope'):
      kind = 'log' if len(form.inputs) == 1 else 'huber'
    return Objective('linear' if kind == 'vpnls' else kind, self.delta)


def form_of(
  name: str,
  floor: float | None = None,
  base: Mapping[str, float] | None = None,
) -> Form:
  """The form of a name; `power_pinned` and `chinchilla_pinned` need a floor.

  Raises:
    ConfigError: an unknown name, or a pinned form without its floor.
  """
  if name == 'repeat':
    missing = sorted({'E', 'A', 'B', 'alpha', 'beta'} - set(base or {}))
    if base is None or missing:
      raise errors.ConfigError(
        'form repeat needs the surface of unrepeated data: --base '
        'E=..,A=..,B=..,alpha=..,beta=..'
      )
    return nonlinear.repeat_form(base)
  if name in FORMS:
    form = FORMS[name]
    if floor is None:
      return form
    name = f'{name.removesuffix("_floor")}_pinned'
  stem = name.removesuffix('_pinned')
  if name.endswith('_pinned') and stem in ('power', 'chinchilla', 'gadre'):
    if floor is None:
      raise errors.ConfigError(f'form {name} needs --floor E')
    return forms.pin_floor(FORMS[stem], floor)  # type: ignore[arg-type]
  allowed = [
    *FORMS,
    'repeat',
    'power_pinned',
    'chinchilla_pinned',
    'gadre_pinned',
  ]
  raise errors.ConfigError(
    f'form {name!r} is unknown or cannot be pinned; use one of '
    f'{", ".join(allowed)}'
  )
