"""VAR on the codes of your own images, for one GPU.

  varjax train --config experiments/folder_var.py:size=d8,classes=12 \\
    --workdir W/d8 --config.data.data_dir=photos \\
    --config.tokenizer_dir=W/tokenizer --config.codes_dir=W/codes

Needs the tokenizer of experiments/folder_tokenizer.py with the same
`resolution`, and its codes (`varjax encode`). `classes` is the number of
class folders. Sizes and rates follow VAR: dK has K layers, K heads and width
64 K. Not run at this size: there was no GPU at hand.
"""

from varjax import config as config_lib


def get_config(arg=None):
  """Returns the config; arguments size, resolution, classes and epochs."""
  arg = config_lib.parse_arg(
    arg, size='d8', resolution=128, classes=1, epochs=100
  )
  depth = config_lib.parse_size(arg.size, range(2, 31))
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'generate'
  config.name = f'folder-d{depth}'
  config.total = duration(epochs=arg.epochs)
  config.batch_size = 256
  config.ema = 0.999
  like = config_lib.load(
    f'experiments/folder_tokenizer.py:resolution={arg.resolution}'
  )
  config.data = like.data
  config.tokenizer = like.tokenizer
  model = config.model
  model.depth = depth
  model.width = 64 * depth
  model.heads = depth
  model.num_classes = arg.classes
  model.drop_path = 0.1 * depth / 24
  optim = config.optim
  optim.lr = 1e-4
  optim.lr_reference_batch = 256
  optim.warmup = duration(frac=0.02)
  return config
