"""One order of the comparison at matched parameters and training FLOPs.

  varjax train --config experiments/paradigm.py:order=raster,size=d3 \
    --workdir runs/paradigms/raster-d3

Orders: scale, raster, permuted and masked over the same codes of one
tokenizer (experiments/paradigm_tokenizer.py); pixels, raster over the colours
of a palette; channels, raster over the values of the three channels, which
loses nothing of an image. Size dK has K layers and K heads of the same width
in every order, so the blocks have equally many parameters. A run lasts as
many images as cost the FLOPs of `images` images in next-scale order. Weights
and codes are found under `root`. `version=gpu`: 64 x 64 images of a packed
archive (--config.data.data_dir), larger sizes; it has not been run.
"""

from varjax import config as config_lib
from varjax import flops
from varjax.orders import sequence_of
from varjax.spec import OrderSpec

TOKENIZER = 'experiments/paradigm_tokenizer.py'
# order: kind of its tokenizer, how it orders the codes
ORDERS = {
  'scale': ('msvq', OrderSpec('scale')),
  'raster': ('msvq', OrderSpec('raster')),
  'permuted': ('msvq', OrderSpec('permuted')),
  # Uniform numbers of masks make the loss a bound on the likelihood.
  'masked': ('msvq', OrderSpec('masked', mask_ratio='uniform')),
  'pixels': ('palette', OrderSpec('raster')),
  'channels': ('pixel', OrderSpec('raster')),
}
FOLDERS = {'msvq': 'codes', 'palette': 'colours', 'pixel': 'channels'}
# version: width per layer, images in next-scale order, peak rate, classes
VERSIONS = {'cpu': (12, 4000, 3e-3, 9), 'gpu': (64, 2_000_000, 4e-4, 19)}
# Images of an update. Long sequences have fewer, so that about as many codes
# make an update, or the same FLOPs would be too few updates.
BATCHES = {
  'cpu': dict.fromkeys(ORDERS, 16) | {'channels': 2},
  'gpu': dict.fromkeys(ORDERS, 128) | {'pixels': 16, 'channels': 4},
}


def get_config(arg=None):
  """Returns the config; `sets` and `scales` are of experiments/parallelism."""
  arg = config_lib.parse_arg(
    arg, order='scale', size='d3', version='cpu', root='runs/paradigms',
    sets=1, scales=0,
  )  # fmt: skip
  width, images, rate, classes = VERSIONS[arg.version]
  depth = config_lib.parse_size(arg.size, range(1, 13))
  kind, order = ORDERS[arg.order]
  batch = BATCHES[arg.version][arg.order]
  duration = config_lib.duration
  config = _tokenized(kind, arg.version, arg.scales)
  if arg.sets > 1:
    order = _split(config, arg.sets)
  folder = FOLDERS[kind] + (f'{arg.scales}' if arg.scales else '')
  config.tokenizer_dir = f'{arg.root}/{folder}'
  config.codes_dir = f'{arg.root}/{folder}/cache'
  config.task = 'generate'
  config.name = f'{arg.order}-d{depth}'
  config.order = config_lib.as_config(order)
  config.batch_size = batch
  config.eval_batch_size = 64
  model = config.model
  model.depth, model.heads, model.width = depth, depth, width * depth
  model.num_classes = classes
  model.drop_path = 0.0
  model.compute_dtype = 'float32' if arg.version == 'cpu' else 'bfloat16'
  optim = config.optim
  optim.lr = rate
  optim.schedule = 'lin0'
  optim.warmup = duration(frac=0.05)
  optim.final = 0.01
  optim.beta1, optim.beta2 = 0.9, 0.95
  optim.weight_decay = 0.05
  optim.clip_norm = 2.0
  config.evaluate = duration(frac=0.5)
  config.checkpoint = duration(frac=0.5)
  config.log = duration(frac=0.1)
  config.sample.cfg = 0.0
  reference = _tokenized('msvq', arg.version)
  config.total = duration(images=_matched(config, reference, images))
  return config


def _tokenized(kind, version, scales=0):
  """The config of a tokenizer of the comparison."""
  return config_lib.load(
    f'{TOKENIZER}:kind={kind},version={version},scales={scales}'
  )


def _split(config, sets):
  """Next-scale order with up to sets x sets sequential sets in a scale."""
  tokenizer = config_lib.to_spec(config, __file__).tokenizer
  sizes = sequence_of(OrderSpec(), tokenizer).block_sizes
  return OrderSpec('split', splits=tuple(min(size, sets**2) for size in sizes))


def _matched(config, reference, images):
  """Images, in whole batches, that cost what `images` cost by scales."""
  run = config_lib.to_spec(config, __file__)
  scales = config_lib.to_spec(reference, TOKENIZER).tokenizer
  work = flops.train_flops_per_image(
    run.model, sequence_of(OrderSpec(), scales)
  )
  own = flops.train_flops_per_image(
    run.model, sequence_of(run.order, run.tokenizer)
  )
  batches = images * work.total / own.total / run.batch_size
  return max(1, round(batches)) * run.batch_size
