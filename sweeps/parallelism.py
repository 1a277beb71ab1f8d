"""Quality against parallelism: 4 to 85 sequential sets, 4 to 15 scales.

  for scales in 6 10 15; do
    varjax train \
      --config experiments/paradigm_tokenizer.py:scales=$scales \
      --workdir runs/paradigms/codes$scales
    varjax encode --tokenizer runs/paradigms/codes$scales \
      --out runs/paradigms/codes$scales/cache
  done
  varjax sweep sweeps/parallelism.py --workdir runs/paradigms/parallelism
  python benchmarks/parallelism.py runs/paradigms --out docs

Needs the codes of sweeps/paradigms.py (experiments/parallelism.py). 15 scales
are the most that a grid of 8 x 8 has.
"""

SETS = (1, 2, 4, 8)
SCALES = (6, 10, 15)


def get_hyper(hyper):
  """Returns the trials, most sequential first."""
  path = 'experiments/parallelism.py'
  return hyper.sweep(
    'config',
    [f'{path}:sets={sets}' for sets in reversed(SETS)]
    + [f'{path}:scales={scales}' for scales in reversed(SCALES)],
  )
