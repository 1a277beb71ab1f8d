"""One order of the comparison at matched parameters and training FLOPs.

  varjax train --config experiments/paradigm.py:order=raster,size=d3 \
    --workdir runs/paradigms/raster-d3

Orders: scale, raster, permuted and masked over the same codes of one
tokenizer (experiments/paradigm_tokenizer.py); residual, raster over stacks of
codes with a depth transformer; pixels, raster over the colours of a palette;
channels, raster over the values of the three channels, which loses nothing of
an image. Size dK has K layers and K heads of the same width in every order,
so the blocks have equally many parameters; in residual order one of the
layers is the depth transformer, which has no AdaLN, and wider MLPs make up
for that (to 1 %). A run lasts as
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
  'residual': ('rq', OrderSpec('residual')),
  'pixels': ('palette', OrderSpec('raster')),
  'channels': ('pixel', OrderSpec('raster')),
}
FOLDERS = {
  'msvq': 'codes', 'rq': 'stacks', 'palette': 'colours', 'pixel': 'channels',
}  # fmt: skip
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
  scales = config_lib.to_spec(_tokenized('msvq', arg.version), TOKENIZER)
  budget = images * _flops(config, OrderSpec(), scales.tokenizer)
  if arg.order == 'residual':
    # 6 w^2 weights of the AdaLN of a layer, over the MLPs of all of them.
    model.depth, model.depth_layers = depth - 1, 1
    model.mlp_ratio = 4 + 3 / depth
  tokenizer = config_lib.to_spec(config, __file__).tokenizer
  batches = budget / _flops(config, order, tokenizer) / batch
  config.total = duration(images=max(1, round(batches)) * batch)
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


def _flops(config, order, tokenizer):
  """Training FLOPs of an image by the model of a config."""
  model = config_lib.to_spec(config, __file__).model
  return flops.train_flops_per_image(model, sequence_of(order, tokenizer)).total
