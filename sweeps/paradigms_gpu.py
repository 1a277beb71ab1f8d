"""The comparison of orders on 64 x 64 images, for one GPU. Not run.

  A=data.data_dir=texture64.npz
  T=experiments/paradigm_tokenizer.py:version=gpu
  for kind in msvq:codes rq:stacks; do
    varjax train --config $T,kind=${kind%:*} --config.$A \
      --workdir runs/paradigms_gpu/${kind#*:}
  done
  for kind in palette:colours pixel:channels; do
    varjax pixel-tokenizer --config $T,kind=${kind%:*} --config.$A \
      --workdir runs/paradigms_gpu/${kind#*:}
  done
  for folder in codes stacks colours channels; do
    varjax encode --tokenizer runs/paradigms_gpu/$folder \
      --out runs/paradigms_gpu/$folder/cache
  done
  varjax sweep sweeps/paradigms_gpu.py --config.$A \
    --workdir runs/paradigms_gpu/sweep
  python benchmarks/paradigms.py runs/paradigms_gpu --out docs

As sweeps/paradigms.py, with sizes of 3 to 38 million parameters and two
million images in next-scale order. Any packed archive will do
(varjax/data/packed.py). `--dry_run` prints parameters and FLOPs of all runs;
docs/paradigms.md has them with the memory of the estimate.
"""

ORDERS = (
  'scale', 'raster', 'permuted', 'masked', 'residual', 'pixels', 'channels',
)  # fmt: skip
SIZES = ('d8', 'd6', 'd4', 'd3')


def get_hyper(hyper):
  """Returns the trials, largest first: the longest should start first."""
  trials = [(order, size) for size in SIZES for order in ORDERS]
  path = 'experiments/paradigm.py:version=gpu,root=runs/paradigms_gpu'
  return hyper.zipit(
    hyper.sweep(
      'config',
      [f'{path},order={order},size={size}' for order, size in trials],
    ),
    hyper.sweep('name', [f'{order}-{size}' for order, size in trials]),
  )
