"""One order of the comparison at matched parameters and training FLOPs.

  varjax train --config experiments/paradigm.py:order=raster,size=d3 \
    --workdir runs/paradigms/raster-d3

Orders: scale, raster, permuted and masked over the same 85 codes of one
tokenizer (experiments/paradigm_tokenizer.py), and pixels, raster over the
colours of a palette. Size dK has K layers and K heads of the same width in
every order, so the blocks have equally many parameters. A run lasts as many
images as cost the FLOPs of `images` images in next-scale order. Weights and
codes are found under `root`. `version=gpu`: larger sizes, 64 x 64 images in
a folder (--config.data.data_dir); it has not been run.
"""

from varjax import config as config_lib
from varjax import flops
from varjax.orders import sequence_of
from varjax.spec import OrderSpec

TOKENIZER = 'experiments/paradigm_tokenizer.py'
ORDERS = {
  'scale': OrderSpec('scale'),
  'raster': OrderSpec('raster'),
  'permuted': OrderSpec('permuted'),
  # Uniform numbers of masks make the loss a bound on the likelihood.
  'masked': OrderSpec('masked', mask_ratio='uniform'),
  'pixels': OrderSpec('raster'),
}
# version: width per layer, images in next-scale order, batch, peak rate
VERSIONS = {'cpu': (12, 4000, 16, 3e-3), 'gpu': (64, 10_000_000, 256, 4e-4)}


def get_config(arg=None):
  """Returns the config; arguments `order`, `size`, `version`, `root`."""
  arg = config_lib.parse_arg(
    arg, order='scale', size='d3', version='cpu', root='runs/paradigms'
  )
  width, images, batch, rate = VERSIONS[arg.version]
  depth = config_lib.parse_size(arg.size, range(1, 13))
  order = ORDERS[arg.order]
  duration = config_lib.duration
  kind = 'palette' if arg.order == 'pixels' else 'msvq'
  config = config_lib.load(f'{TOKENIZER}:kind={kind},version={arg.version}')
  codes = 'colours' if kind == 'palette' else 'codes'
  config.tokenizer_dir = f'{arg.root}/{codes}'
  config.codes_dir = f'{arg.root}/{codes}/cache'
  config.task = 'generate'
  config.name = f'{arg.order}-d{depth}'
  config.order = config_lib.as_config(order)
  config.batch_size = batch
  config.eval_batch_size = 64
  model = config.model
  model.depth, model.heads, model.width = depth, depth, width * depth
  model.num_classes = 9 if arg.version == 'cpu' else 1000
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
  config.total = duration(images=_matched(config, order, images, batch))
  return config


def _matched(config, order, images, batch):
  """Images, in whole batches, that cost what `images` cost by scales."""
  run = config_lib.to_spec(config, __file__)
  reference = config_lib.load(f'{TOKENIZER}:version={_version(config)}')
  scales = config_lib.to_spec(reference, TOKENIZER).tokenizer
  work = flops.train_flops_per_image(
    run.model, sequence_of(OrderSpec(), scales)
  )
  own = flops.train_flops_per_image(
    run.model, sequence_of(order, run.tokenizer)
  )
  return max(1, round(images * work.total / own.total / batch)) * batch


def _version(config):
  """Which version a config is of, by its resolution."""
  return 'cpu' if config.data.resolution == 16 else 'gpu'
