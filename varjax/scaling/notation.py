"""How quantities are named and written: one place for labels and units.

Reports, plots and plans print the same column with the same words, and a
missing value as a dash, never as 0 or NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any, TypeGuard

MISSING = '–'

# Column or short symbol -> what a person reads, unit included.
_LABELS = {
  'n': 'parameters N',
  'params': 'parameters N',
  'params_total': 'parameters, total',
  'params_body': 'parameters, transformer body',
  'params_adaln': 'parameters, AdaLN',
  'params_embed_head': 'parameters, embeddings and head',
  'params_no_adaln': 'parameters, body without AdaLN',
  'd': 'training tokens D',
  'tokens': 'training tokens D',
  'tokens_seen': 'training tokens seen D',
  'images_seen': 'training images seen',
  'unique_images': 'unique training images',
  'c': 'training compute C (FLOPs)',
  'u': 'unique training tokens',
  'flops': 'training compute C (FLOPs)',
  'flops_train_total': 'training compute C (FLOPs)',
  'flops_train_body': 'training compute, body (FLOPs)',
  'loss': 'loss (nats/token)',
  'l': 'loss (nats/token)',
  'val_loss_nats_per_token': 'validation loss (nats/token)',
  'val_loss_last_nats_per_token': 'validation loss, last scale (nats/token)',
  'val_loss_uncond_nats_per_token': 'unconditional loss (nats/token)',
  'l_mean': 'validation loss, mean (nats/token)',
  'l_last': 'validation loss, last scale (nats/token)',
  'err_mean': 'token error rate, mean',
  'err_last': 'token error rate, last scale',
  'val_err': 'token error rate',
  'val_err_last': 'token error rate, last scale',
}
_SUPERSCRIPT = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')
_GREEK = {
  'alpha': 'α', 'beta': 'β', 'gamma': 'γ', 'delta': 'δ', 'sigma': 'σ',
}  # fmt: skip


def label(
  axis: str | Mapping[str, Any] | None, convention: str | None = None
) -> str:
  """Words for a column, or for an `{'name', 'unit'}` axis of a fit.

  Args:
    axis: a column name, or an axis.
    convention: what it counts, `key: words`; the key is put in brackets.
  """
  name, unit = axis, None
  if isinstance(axis, Mapping):
    name, unit = axis.get('name'), axis.get('unit')
  name = str(name or '')
  text = _LABELS.get(name.lower())
  if text is None:
    text = name.replace('_', ' ') or 'value'
    text += f' ({unit})' if unit else ''
  key = str(convention or '').partition(':')[0]
  return f'{text} [{key}]' if key and len(key) < 20 else text


def symbol(parameter: str) -> str:
  """`alpha` -> `α`, `alpha_N` -> `α_N`; other names are unchanged."""
  head, _, tail = parameter.partition('_')
  head = _GREEK.get(head, head)
  return f'{head}_{tail}' if tail else head


def is_number(value: Any) -> TypeGuard[float]:
  """True for a finite real number; missing values of pandas are not."""
  if isinstance(value, bool) or value is None:
    return False
  try:
    return math.isfinite(float(value))
  except (TypeError, ValueError):
    return False


def number(value: Any, digits: int = 4) -> str:
  """A real number with `digits` significant digits, `1.2×10¹⁸` if large."""
  if not is_number(value):
    return MISSING
  value = float(value)
  if value == 0:
    return '0'
  if 1e-3 <= abs(value) < 1e5:
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f'{value:.{decimals}f}'
  return scientific(value, min(digits, 3))


def scientific(value: Any, digits: int = 3) -> str:
  """`1.23×10¹⁸`."""
  if not is_number(value):
    return MISSING
  mantissa, exponent = f'{float(value):.{digits - 1}e}'.split('e')
  power = str(int(exponent)).translate(_SUPERSCRIPT)
  return f'{mantissa}×10{power}'


def count(value: Any, digits: int = 3) -> str:
  """`18.5M`, `2.01B`: parameters, images, tokens."""
  if not is_number(value):
    return MISSING
  value = float(value)
  if abs(value) >= 1e15:
    return scientific(value)
  for limit, suffix in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
    if abs(value) >= limit * 0.9995:
      scaled = value / limit
      whole = len(str(int(abs(scaled))))
      return f'{scaled:.{max(0, digits - whole)}f}{suffix}'
  return f'{value:.{digits}g}'


def whole(value: Any) -> str:
  """`1,281,167`."""
  return f'{round(float(value)):,}' if is_number(value) else MISSING


def percent(value: Any, digits: int = 2, signed: bool = False) -> str:
  """A fraction as a percentage."""
  if not is_number(value):
    return MISSING
  sign = '+' if signed else ''
  return f'{100 * float(value):{sign}.{digits}f} %'


def duration(seconds: Any) -> str:
  """`45 s`, `12 min`, `3.2 h`, `5.1 days`."""
  if not is_number(seconds):
    return MISSING
  seconds = float(seconds)
  if seconds < 100:
    return f'{seconds:.0f} s' if seconds >= 10 else f'{seconds:.1f} s'
  if seconds < 6000:
    return f'{seconds / 60:.0f} min'
  if seconds < 100 * 3600:
    return f'{seconds / 3600:.1f} h'
  return f'{seconds / 86400:.1f} days'


def interval(bounds: Any, digits: int = 3) -> str:
  """`[0.18, 0.25]` from `{'lo', 'hi'}` or a pair; a dash if either lacks."""
  lo, hi = ends(bounds)
  if lo is None or hi is None:
    return MISSING
  return f'[{number(lo, digits)}, {number(hi, digits)}]'


def ends(bounds: Any) -> tuple[float | None, float | None]:
  """The two ends of an interval, None where one is open or missing."""
  if isinstance(bounds, Mapping):
    pair = (bounds.get('lo'), bounds.get('hi'))
  elif isinstance(bounds, list | tuple) and len(bounds) >= 2:
    pair = (bounds[0], bounds[1])
  else:
    return None, None
  lo, hi = (float(v) if is_number(v) else None for v in pair)
  return lo, hi


def sentence(item: Any) -> str:
  """A refusal or warning, given as text or as a mapping, in one line."""
  if not isinstance(item, Mapping):
    return ' '.join(str(item).split())
  kind, reason = item.get('type'), item.get('reason') or item.get('message')
  text = ': '.join(str(v) for v in (item.get('name'), kind, reason) if v)
  if item.get('next'):
    text = f'{text.rstrip(".")}. Next: {item["next"]}'
  if item.get('forced'):
    text += ' (forced)'
  return ' '.join(text.split())
