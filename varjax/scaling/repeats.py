"""Plans under what a fit knows, and does not know, of repeated data.

R_D*, the epochs over which repeated data loses its worth (Muennighoff 2023,
arXiv 2305.16264), is barely determined by most data: published data leave
it anywhere between 12 and 500. So a plan is made three times, for the best
value and for both ends of its profile interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

from varjax import errors
from varjax.scaling.plan import Plan

# A constant at which a repeat is worth nothing: the profile has no lower end.
_WORTHLESS = 1e-6


@dataclasses.dataclass(frozen=True)
class Repeat:
  """R_D* of a fit of the form `repeat`.

  Attributes:
    best: the optimum.
    lo, hi: of the 95 % profile interval; None where the data set no limit.
    source: name of the fit.
    warnings: why it may not be trusted.
  """

  best: float
  lo: float | None
  hi: float | None
  source: str
  warnings: tuple[str, ...] = ()

  def cases(self) -> tuple[tuple[str, float | None], ...]:
    """(word, constant): lower, best and upper; None counts repeats as new."""
    lower = _WORTHLESS if self.lo is None else self.lo
    return ('lower', lower), ('best', self.best), ('upper', self.hi)


def of_fit(fit: Mapping[str, Any]) -> Repeat:
  """Reads R_D* and its profile from the contents of a fit.json.

  Raises:
    FitRefused: no fit of the form `repeat`, or one without a profile.
  """
  every = [fit, *(fit.get('fits') or [])]
  found = next((f for f in every if f.get('form') == 'repeat'), None)
  if found is None:
    raise errors.FitRefused(
      'the file of --repeat_fit holds no fit of repeated data: make one with '
      '`varjax fit --form repeat --base E=..,A=..,B=..,alpha=..,beta=..`'
    )
  best = (found.get('params') or {}).get('R_D')
  profile = (found.get('profiles') or {}).get('R_D')
  if not _positive(best) or not isinstance(profile, Mapping):
    raise errors.FitRefused(
      'the fit of repeated data has no R_D with a profile interval, without '
      'which its value means little'
    )
  ends = {
    k: v if _positive(v := profile.get(k)) else None for k in ('lo', 'hi')
  }
  warnings = [
    f'the fit of repeated data was refused and forced: {r.get("reason")}'
    for r in found.get('refusals') or []
  ]
  if ends['lo'] is None or ends['hi'] is None:
    open_ = [
      w for w, k in (('lower', 'lo'), ('upper', 'hi')) if ends[k] is None
    ]
    warnings.append(
      f'the data set no {" or ".join(open_)} limit to R_D*: the plan there '
      'counts repeats as worthless (lower) or as new data (upper)'
    )
  return Repeat(
    float(best), ends['lo'], ends['hi'], str(found.get('name') or 'repeat'),
    tuple(warnings),
  )  # fmt: skip


def compare(
  repeat: Repeat, planned: Callable[[float | None], Plan]
) -> dict[str, Any]:
  """The plans of the three constants, as plain values for plan.json.

  Args:
    repeat: from `of_fit`.
    planned: the plan for a constant, however far beyond the fit; None for
      repeats that count as new.
  """
  cases = []
  for word, constant in repeat.cases():
    made = planned(constant)
    best = made.best
    unlimited = word != 'best' and {'lower': repeat.lo, 'upper': repeat.hi}[
      word
    ] is None  # fmt: skip
    cases.append(
      {
        'case': word,
        'repeat_constant': None if unlimited else constant,
        'unlimited': unlimited,
        **{
          k: getattr(best, k)
          for k in ('name', 'rung', 'n', 'images', 'epochs', 'loss')
        },
        'effective_tokens': best.effective_tokens,
        'extrapolation': made.extrapolation,
      }
    )
  return {
    'source': repeat.source,
    'best': repeat.best,
    'lo': repeat.lo,
    'hi': repeat.hi,
    'cases': cases,
    'warnings': list(repeat.warnings),
  }


def _positive(value: Any) -> bool:
  return (
    isinstance(value, int | float) and math.isfinite(value) and value > 0
  )  # fmt: skip
