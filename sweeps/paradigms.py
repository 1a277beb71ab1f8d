"""Seven orders of production at matched parameters and training FLOPs.

  for kind in msvq:codes rq:stacks; do
    varjax train --workdir runs/paradigms/${kind#*:} \
      --config experiments/paradigm_tokenizer.py:kind=${kind%:*}
  done
  for kind in palette:colours pixel:channels; do
    varjax pixel-tokenizer --workdir runs/paradigms/${kind#*:} \
      --config experiments/paradigm_tokenizer.py:kind=${kind%:*}
  done
  for folder in codes stacks colours channels; do
    varjax encode --tokenizer runs/paradigms/$folder \
      --out runs/paradigms/$folder/cache
  done
  varjax sweep sweeps/paradigms.py --workdir runs/paradigms/sweep
  python benchmarks/paradigms.py runs/paradigms --out docs

Four sizes of each order, with equally many parameters in the blocks and
equally many training FLOPs within a size (experiments/paradigm.py). The
report is docs/paradigms.md. 64 x 64 images on one GPU: sweeps/paradigms_gpu.py.
"""

ORDERS = (
  'scale', 'raster', 'permuted', 'masked', 'residual', 'pixels', 'channels',
)  # fmt: skip
SIZES = ('d5', 'd4', 'd3', 'd2')


def get_hyper(hyper):
  """Returns the trials, largest first: the longest should start first."""
  return hyper.sweep(
    'config',
    [
      f'experiments/paradigm.py:order={order},size={size}'
      for size in SIZES
      for order in ORDERS
    ],
  )
