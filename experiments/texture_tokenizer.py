"""A tokenizer of 64 x 64 image crops, for one GPU.

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
`:steps=N` makes a shorter run.
"""

from varjax import config as config_lib


def get_config(arg=None):
  """Returns the config; arguments `epochs`, and `steps` in its place."""
  arg = config_lib.parse_arg(arg, epochs=60, steps=0)
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'reconstruct'
  config.name = 'texture-tokenizer'
  config.total = duration(epochs=arg.epochs)
  if arg.steps:
    config.total = duration(steps=arg.steps)
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
  return config
