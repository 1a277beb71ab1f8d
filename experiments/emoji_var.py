"""VAR on the built-in emoji: the family of `make demo`, for a CPU.

  varjax train --config experiments/emoji_var.py:size=d4 --workdir runs/d4 \
    --config.tokenizer_dir=runs/tok --config.codes_dir=runs/codes

Needs a tokenizer (experiments/emoji_tokenizer.py) and its codes (`varjax
encode`). Size dK has K layers, K heads and width 12 K instead of VAR's 64 K,
so that sizes d2 to d7 fit two CPU cores and still span 1.6 decades of body
parameters (about 2,600 K^3).
"""

from varjax import config as config_lib

WIDTH_PER_LAYER = 12


def get_config(arg=None):
  """Returns the config of one size; argument `size=d2` ... `size=d12`."""
  arg = config_lib.parse_arg(arg, size='d4', images=22_400)
  depth = config_lib.parse_size(arg.size, range(1, 13))
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'generate'
  config.name = f'emoji-d{depth}'
  config.total = duration(images=arg.images)
  config.batch_size = 32
  config.eval_batch_size = 128
  config.data.name = 'emoji'
  config.data.resolution = 32
  tokenizer = config_lib.load('experiments/emoji_tokenizer.py').tokenizer
  config.tokenizer = tokenizer
  model = config.model
  model.depth = depth
  model.width = WIDTH_PER_LAYER * depth
  model.heads = depth
  model.num_classes = 9
  model.drop_path = 0.0
  model.compute_dtype = 'float32'
  optim = config.optim
  optim.lr = 3e-3
  optim.schedule = 'lin0'
  optim.warmup = duration(frac=0.05)
  optim.final = 0.01
  config.evaluate = duration(frac=0.2)
  config.checkpoint = duration(frac=0.25)
  config.log = duration(steps=25)
  config.sample.cfg = 2.0
  config.sample.top_k = 100
  return config
