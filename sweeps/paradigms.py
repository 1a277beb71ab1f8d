"""Six orders of production at matched parameters and training FLOPs.

  varjax train --config experiments/paradigm_tokenizer.py \
    --workdir runs/paradigms/codes
  varjax encode --tokenizer runs/paradigms/codes \
    --out runs/paradigms/codes/cache
  varjax pixel-tokenizer \
    --config experiments/paradigm_tokenizer.py:kind=palette \
    --workdir runs/paradigms/colours
  varjax encode --tokenizer runs/paradigms/colours \
    --out runs/paradigms/colours/cache
  varjax pixel-tokenizer \
    --config experiments/paradigm_tokenizer.py:kind=pixel \
    --workdir runs/paradigms/channels
  varjax encode --tokenizer runs/paradigms/channels \
    --out runs/paradigms/channels/cache
  varjax sweep sweeps/paradigms.py --workdir runs/paradigms/sweep
  python benchmarks/paradigms.py runs/paradigms --out docs

Four sizes of each order, with equally many parameters in the blocks and
equally many training FLOPs within a size (experiments/paradigm.py). The
report is docs/paradigms.md. 64 x 64 images on one GPU: sweeps/paradigms_gpu.py.
"""

ORDERS = ('scale', 'raster', 'permuted', 'masked', 'pixels', 'channels')
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
