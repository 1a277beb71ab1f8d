"""A tokenizer of 64 x 64 image crops, for one GPU, or smaller for a CPU.

  varjax train --config experiments/texture_tokenizer.py \\
    --config.data.data_dir=texture64.npz --workdir W/texture_tokenizer

Any packed archive will do (docs/tokenizer_training.md): the one this recipe
was written for holds 41,793 crops of photographed materials, of which 39,662
are for training; 7,133 emoji of the same size are another. The whole recipe
of stage 1: pixel, quantiser, perceptual (in the maps of the packaged
EfficientNet-Lite0) and adversarial (PatchGAN) losses, an average of the
weights, bfloat16; scales (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 680 codes an
image as in VAR-256, and a codebook that starts at k-means centres.

18,592 updates of 128 images on that set. Not run: there was no GPU at hand.

Argument `size=cpu` is the same recipe for one core of a CPU and about an
hour: the same codes an image from a smaller network and codebook, 4,000
updates of 8 images, the adversarial loss in the last 30 % of them. What was
run of it, and its result, is in docs/tokenizer_training.md.

  varjax train --config experiments/texture_tokenizer.py:size=cpu \\
    --config.data.data_dir=texture64.npz --workdir W/texture_cpu

`steps=N` or `epochs=N` set another length.
"""

from varjax import config as config_lib
from varjax import errors

SIZES = ('gpu', 'cpu')


def get_config(arg=None):
  """Returns the config.

  Arguments: `size`, one of `SIZES`; `epochs`, or `steps` in its place, with
  0 for the size's own.
  """
  arg = config_lib.parse_arg(arg, size='gpu', epochs=0, steps=0)
  if arg.size not in SIZES:
    raise errors.ConfigError(
      f'size={arg.size}: must be one of {", ".join(SIZES)}'
    )
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'reconstruct'
  config.name = 'texture-tokenizer'
  config.batch_size = 128
  config.ema = 0.9999
  config.data.name = 'npz'
  config.data.resolution = 64
  config.data.flip = True
  tokenizer = config.tokenizer
  tokenizer.ch = 64
  tokenizer.ch_mult = (1, 2, 4)
  tokenizer.code_dim = 32
  tokenizer.vocab = 4096
  tokenizer.scales = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
  tokenizer.revive_every = 200
  tokenizer.kmeans_updates = 200
  tokenizer.compute_dtype = 'bfloat16'
  losses = config.reconstruct
  losses.perceptual.backbone = 'efflite0'
  losses.perceptual.weight = 4.0
  losses.adversarial.discriminator = 'patch'
  losses.adversarial.layers = 2
  optim = config.optim
  optim.lr = 3e-4
  optim.schedule = 'cos'
  optim.warmup = duration(frac=0.01)
  optim.final = 0.3
  optim.beta1, optim.beta2 = 0.5, 0.9
  optim.weight_decay = 0.005
  optim.clip_norm = 10.0
  config.evaluate = duration(frac=0.05)
  config.checkpoint = duration(frac=0.05)
  config.total = duration(epochs=60)
  if arg.size == 'cpu':
    _shrink(config)
  if arg.epochs:
    config.total = duration(epochs=arg.epochs)
  if arg.steps:
    config.total = duration(steps=arg.steps)
  return config


def _shrink(config):
  """What one core can train in about an hour."""
  duration = config_lib.duration
  config.name = 'texture-tokenizer-cpu'
  config.total = duration(steps=4000)
  config.batch_size = 8
  config.eval_batch_size = 32
  config.ema = 0.999
  tokenizer = config.tokenizer
  tokenizer.ch = 16
  tokenizer.num_res_blocks = 1
  tokenizer.norm_groups = 8
  tokenizer.attention = False
  tokenizer.code_dim = 16
  tokenizer.vocab = 1024
  tokenizer.revive_every = 100
  tokenizer.kmeans_updates = 100
  tokenizer.compute_dtype = 'float32'
  losses = config.reconstruct
  losses.perceptual.weight = 1.0
  losses.adversarial.ch = 32
  losses.adversarial.start = duration(frac=0.7)
  config.optim.lr = 1e-3
  config.optim.final = 0.05
  # An evaluation decodes every validation image once a scale.
  config.evaluate = duration(frac=1.0)
  config.log = duration(steps=25)
