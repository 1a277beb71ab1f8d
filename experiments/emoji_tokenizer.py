"""Multi-scale VQ-VAE on the built-in emoji, 32 x 32 pixels, for a CPU.

The first stage of `make demo`: 4 scales (1, 2, 3, 4), 30 codes an image.

  varjax train --config experiments/emoji_tokenizer.py --workdir runs/tok

Same recipe as the ImageNet tokenizer without the adversarial part, with a
network small enough for two CPU cores and revival of unused codes, which a
codebook needs when it sees only a few thousand images.

Argument `loss=full` adds a perceptual loss in the maps of the packaged
EfficientNet-Lite0 and a small PatchGAN, `loss=measured` only measures that
perceptual distance; both keep an average of the weights. With the same
`steps` they are the two arms of docs/tokenizer_training.md.

  varjax train --config experiments/emoji_tokenizer.py:loss=full,steps=1000 \\
    --workdir runs/tok_full

Argument `kind` takes another quantizer in the same network, on one 4 x 4
grid with 9 bits a code; docs/tokenizers.md compares them.

  varjax train --config experiments/emoji_tokenizer.py:kind=fsq \\
    --workdir runs/fsq
"""

from varjax import config as config_lib
from varjax import errors

LOSSES = ('pixel', 'measured', 'full')
_LEARNED = {'kmeans_updates': 20, 'revive_every': 50}
_BITS = {'code_dim': 9, 'entropy': 0.02, 'entropy_bits': 9}
# What a kind changes of the multi-scale tokenizer.
KINDS = {
  'msvq': {},
  'vq': {**_LEARNED, 'code_dim': 8, 'latent_dim': 16, 'znorm': True},
  'rq': {**_LEARNED, 'codes_per_position': 2},
  'fsq': {'code_dim': 3, 'levels': (8, 8, 8), 'latent_dim': 16},
  'lfq': {**_BITS, 'entropy_temperature': 1.0, 'latent_dim': 16},
  'bsq': {**_BITS, 'entropy_temperature': 0.1, 'latent_dim': 16},
}


def get_config(arg=None):
  """Returns the config.

  Arguments: `steps`, `loss`, one of `LOSSES`, and `kind`, a key of `KINDS`.
  """
  arg = config_lib.parse_arg(arg, steps=400, loss='pixel', kind='msvq')
  for key, allowed in (('loss', LOSSES), ('kind', KINDS)):
    if getattr(arg, key) not in allowed:
      raise errors.ConfigError(
        f'{key}={getattr(arg, key)}: must be one of {", ".join(allowed)}'
      )
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'reconstruct'
  config.name = 'emoji-tokenizer'
  config.total = duration(steps=arg.steps)
  config.batch_size = 32
  config.eval_batch_size = 64
  config.data.name = 'emoji'
  config.data.resolution = 32
  tokenizer = config.tokenizer
  tokenizer.ch = 16
  tokenizer.ch_mult = (1, 1, 2, 4)
  tokenizer.num_res_blocks = 1
  tokenizer.norm_groups = 8
  tokenizer.attention = False
  tokenizer.code_dim = 16
  tokenizer.vocab = 512
  tokenizer.scales = (1, 2, 3, 4)
  tokenizer.revive_every = 50
  if arg.kind != 'msvq':
    config.name = f'emoji-{arg.kind}'
    tokenizer.kind = arg.kind
    tokenizer.scales = (4,)
    tokenizer.quant_conv_size = 1
    tokenizer.revive_every = 0
    tokenizer.update(KINDS[arg.kind])
  losses = config.reconstruct
  if arg.loss != 'pixel':
    config.ema = 0.999
    losses.perceptual.backbone = 'efflite0'
    losses.perceptual.weight = 0.0
  if arg.loss == 'full':
    losses.perceptual.weight = 4.0
    losses.adversarial.discriminator = 'patch'
    losses.adversarial.ch = 32
    losses.adversarial.layers = 2
  optim = config.optim
  optim.lr = 2e-3
  optim.schedule = 'cos'
  optim.warmup = duration(frac=0.05)
  optim.final = 0.05
  optim.beta1, optim.beta2 = 0.5, 0.9
  optim.weight_decay = 0.005
  optim.clip_norm = 10.0
  config.evaluate = duration(frac=0.25)
  config.checkpoint = duration(frac=0.25)
  config.log = duration(steps=25)
  return config
