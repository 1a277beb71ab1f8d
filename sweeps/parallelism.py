"""Quality against parallelism: 4, 13 and 37 sequential sets.

  varjax sweep sweeps/parallelism.py --workdir runs/paradigms/parallelism
  python benchmarks/parallelism.py runs/paradigms/parallelism \
    --plot docs/images/parallelism.png

Needs the codes of sweeps/paradigms.py (experiments/parallelism.py).
"""

SETS = (1, 2, 4)


def get_hyper(hyper):
  """Returns the trials, most sequential first."""
  return hyper.sweep(
    'config',
    [f'experiments/parallelism.py:sets={sets}' for sets in reversed(SETS)],
  )
