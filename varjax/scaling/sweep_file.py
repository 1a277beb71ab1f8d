"""A designed sweep as the Python file that `varjax sweep` runs."""

from __future__ import annotations

from varjax.scaling.design import Design


def source(design: Design, template: str, docstring: str) -> str:
  """Python text with a `get_hyper` that lists exactly the design's runs.

  Args:
    design: the runs.
    template: experiment with `{size}` where the name of the size goes.
    docstring: its first lines, without triple quotes or backslashes.
  """
  ordered = sorted(design.cells, key=lambda c: -c.flops)
  rows = '\n'.join(
    f'  ({c.name!r}, {c.steps}),  # {c.flops:.3e} FLOPs, group {c.group}'
    for c in ordered
  )
  before, after = template.split('{size}')
  clean = docstring.replace('\\', '/').replace('"', "'")
  return f'''"""{clean}"""

# (size, updates), the longest first.
RUNS = (
{rows}
)


def get_hyper(hyper):
  """Returns the trials; each learning-rate schedule ends with its run."""
  del hyper
  return [
    {{
      'config': {before!r} + size + {after!r},
      'total.steps': steps,
      'name': f'{{size}}-{{steps}}',
    }}
    for size, steps in RUNS
  ]
'''
