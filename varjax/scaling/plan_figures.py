"""Figures of a plan: what other sizes would give, and would waste."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from varjax.scaling import notation, plots
from varjax.scaling.exhibit import Exhibit


def build(plan: Mapping[str, Any] | None) -> list[Exhibit]:
  """Loss and deadweight compute over size at the planned budget.

  Args:
    plan: contents of plan.json, or None.
  """
  sizes = [s for s in (plan or {}).get('sizes') or [] if s['deadweight'] < 0.9]
  if plan is None or len(sizes) < 2:
    return []
  best = plan['best']
  budget = notation.scientific(plan['demand']['flops'])
  label = notation.label('n', (plan.get('law') or {}).get('n_convention'))
  x = [s['n'] for s in sizes]
  loss = {
    'name': 'predicted loss', 'x': x, 'y': [s['loss'] for s in sizes],
    'mark': (best['n'], best['loss']),
  }  # fmt: skip
  if all(notation.is_number(s['lo']) for s in sizes):
    loss |= {k: [s[k] for s in sizes] for k in ('lo', 'hi')}
  waste = {
    'name': 'wasted', 'x': x, 'y': [100 * s['deadweight'] for s in sizes],
    'mark': (best['n'], 100 * best['deadweight']),
  }  # fmt: skip
  data = pd.DataFrame(sizes)
  made = [
    Exhibit(
      'plan_loss',
      'plan',
      f'Loss over size at {budget} FLOPs',
      'Every size spends the whole budget; the star is planned. The band is '
      'the 95 % interval of a new run.',
      data,
      plots.lines([loss], label, notation.label('loss')),
    ),
    Exhibit(
      'plan_deadweight',
      'plan',
      'Compute wasted by over- and under-training',
      'Share of the budget that the best size would not have needed to '
      'reach the same loss. Sizes left of the star are over-trained: dearer '
      'to train, cheaper to sample.',
      data,
      plots.lines([waste], label, 'deadweight compute (%)', log_y=False),
    ),
  ]
  # Sizes that all reach one loss have no curve of losses.
  made = made if plan.get('target_loss') is None else made[1:]
  return made + _overtraining(plan, label)


def _overtraining(plan: Mapping[str, Any], label: str) -> list[Exhibit]:
  """Training and sampling FLOPs over size at the planned loss."""
  rows = [r for r in plan.get('equal_loss') or [] if r['overhead'] < 9]
  if len(rows) < 2:
    return []
  x = [r['n'] for r in rows]
  train = {'name': 'training', 'x': x, 'y': [1 + r['overhead'] for r in rows]}
  train['mark'] = (plan['best']['n'], 1.0)
  sample = {
    'name': 'one sample', 'x': x, 'y': [1 - r['sample_saving'] for r in rows],
  }  # fmt: skip
  return [
    Exhibit(
      'plan_overtraining',
      'plan',
      'The same loss with other sizes',
      'FLOPs over those of the planned size, at its predicted loss. A '
      'smaller model is trained on more tokens than it would need for its '
      'budget, and repays that with every sample; the file says from how '
      'many on.',
      pd.DataFrame(rows),
      plots.lines([train, sample], label, 'FLOPs over those of the plan'),
    )
  ]
