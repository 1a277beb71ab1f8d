"""LlamaGen's single-scale VQ tokenizer on ImageNet (arXiv 2406.06525).

  varjax train --config experiments/vq_imagenet.py --workdir W/vq16

Images of 256 x 256 to 16 x 16 codes, or 32 x 32 with `:downsample=8`; 16,384
codes of 8 channels and unit length. The networks of the released `VQ-16` and
`VQ-8`, with the authors' optimiser, epochs and bfloat16 convolutions, but
*without* LPIPS and the discriminator, which need weights that ship in no
package: reconstructions are smoother than the released ones.

`imagenet2012` is a tfds builder whose archives must be downloaded by hand.

Cost at 40 % of the nominal bf16 peak, by `python benchmarks/cost_table.py`
(an expectation, not a measurement):

  run               parameters  epochs    FLOPs   h100 h    v5p h    v6e h
  vq-16             71,883,403      40  6.0e+19       42       91       45
  vq-8              70,109,835      40  1.1e+20       76      164       82
"""

from varjax import config as config_lib
from varjax import errors

# Down-sampling to channel multipliers.
NETWORKS = {16: (1, 1, 2, 2, 4), 8: (1, 2, 2, 4)}


def get_config(arg=None):
  """Returns the config; arguments `downsample` (16 or 8) and `epochs`."""
  arg = config_lib.parse_arg(arg, downsample=16, epochs=40)
  if arg.downsample not in NETWORKS:
    raise errors.ConfigError(
      f'downsample={arg.downsample}: must be one of 16, 8'
    )
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'reconstruct'
  config.name = f'vq-{arg.downsample}'
  config.total = duration(epochs=arg.epochs)
  config.batch_size = 128
  config.data.name = 'imagenet2012'
  config.data.resolution = 256
  config.data.resize_ratio = 1.1
  config.data.flip = True
  tokenizer = config.tokenizer
  tokenizer.kind = 'vq'
  tokenizer.ch = 128
  tokenizer.ch_mult = NETWORKS[arg.downsample]
  tokenizer.latent_dim = 256
  tokenizer.quant_conv_size = 1
  tokenizer.code_dim = 8
  tokenizer.znorm = True
  tokenizer.vocab = 16_384
  tokenizer.scales = (256 // arg.downsample,)
  tokenizer.compute_dtype = 'bfloat16'
  config.reconstruct.l1 = 0.0
  config.reconstruct.l2 = 1.0
  optim = config.optim
  optim.lr = 1e-4
  optim.schedule = 'lin00'
  optim.warmup = duration(steps=1)
  optim.final = 1.0
  optim.beta1, optim.beta2 = 0.9, 0.95
  optim.weight_decay = 0.0
  optim.clip_norm = 1.0
  config.evaluate = duration(epochs=4)
  config.checkpoint = duration(epochs=2)
  return config
