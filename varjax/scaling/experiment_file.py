"""A RunSpec as an experiment file that `varjax train --config` takes.

Only what differs from the defaults is written, so that the file reads like
one written by hand.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from varjax.spec import Duration, RunSpec


def source(run: RunSpec, docstring: str) -> str:
  """Python text with a `get_config` that gives exactly `run`.

  Args:
    run: what the file describes.
    docstring: its first lines; any text.
  """
  lines = [
    f'{_text(docstring)}',
    '',
    'from varjax import config as config_lib',
    '',
    '',
    'def get_config(arg=None):',
    '  """Returns the config; takes no argument."""',
    '  config_lib.parse_arg(arg)',
    '  duration = config_lib.duration',
    '  config = config_lib.default_config()',
    *_assignments(run, RunSpec(), 'config'),
    '  return config',
    '',
  ]
  return '\n'.join(lines)


def _assignments(value: Any, default: Any, prefix: str) -> list[str]:
  lines = []
  for field in dataclasses.fields(value):
    new, old = getattr(value, field.name), getattr(default, field.name)
    if new == old:
      continue
    key = f'{prefix}.{field.name}'
    if isinstance(new, Duration):
      lines.append(f'  {key} = {_duration(new)}')
    elif dataclasses.is_dataclass(new):
      lines += _assignments(new, old, key)
    else:
      lines.append(f'  {key} = {new!r}')
  return lines


def _duration(value: Duration) -> str:
  present = {k: v for k, v in dataclasses.asdict(value).items() if v}
  inside = ', '.join(f'{k}={v!r}' for k, v in present.items())
  return f'duration({inside})'


def _text(docstring: str) -> str:
  """A docstring literal; `repr` where quotes would end it early."""
  if '"""' in docstring or '\\' in docstring or docstring.endswith('"'):
    return repr(docstring)
  return f'"""{docstring}"""'
