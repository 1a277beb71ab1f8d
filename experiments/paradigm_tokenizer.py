"""The tokenizers of the comparison of orders (sweeps/paradigms.py).

  varjax train --config experiments/paradigm_tokenizer.py \
    --workdir runs/paradigms/codes
  varjax train --config experiments/paradigm_tokenizer.py:kind=rq \
    --workdir runs/paradigms/stacks
  varjax pixel-tokenizer \
    --config experiments/paradigm_tokenizer.py:kind=palette \
    --workdir runs/paradigms/colours
  varjax pixel-tokenizer \
    --config experiments/paradigm_tokenizer.py:kind=pixel \
    --workdir runs/paradigms/channels

One multi-scale tokenizer (`kind=msvq`) whose 85 codes four orders share, so
that they differ in nothing but the order; stacks of four codes (`kind=rq`) for
residual order; a palette of colours, and the values of the channels, for
next-pixel prediction. `scales=K` has K scales of the same
finest grid instead (experiments/parallelism.py). `version=gpu` is for a
packed archive of 64 x 64 images (--config.data.data_dir) on one GPU.
"""

from varjax import config as config_lib
from varjax.scale_schedules import scale_schedule

# version: resolution, channels, multipliers, scales, codes, code size, colours
VERSIONS = {
  'cpu': (16, 12, (1, 2), (1, 2, 4, 8), 128, 8, 64),
  'gpu': (64, 96, (1, 2, 4), (1, 2, 4, 6, 8, 12, 16), 4096, 32, 512),
}
DEPTH = 4  # Codes of a position of residual stacks, as in RQ-Transformer.


def get_config(arg=None):
  """Returns the config; arguments `kind`, `version=cpu|gpu`, `scales`."""
  arg = config_lib.parse_arg(arg, kind='msvq', version='cpu', scales=0, steps=0)
  resolution, ch, ch_mult, scales, vocab, code_dim, colours = VERSIONS[
    arg.version
  ]
  if arg.scales:
    scales = scale_schedule(scales[-1], arg.scales)
  small = arg.version == 'cpu'
  duration = config_lib.duration
  config = config_lib.default_config()
  config.name = f'paradigm-{arg.kind}'
  # Nothing trains a palette; the config then says what its codes are of.
  trained = arg.kind in ('msvq', 'rq')
  config.task = 'reconstruct' if trained else 'generate'
  config.total = duration(steps=arg.steps or (300 if small else 40_000))
  config.batch_size = 32 if small else 128
  config.eval_batch_size = 128
  config.data.name = 'emoji' if small else 'npz'
  config.data.resolution = resolution
  tokenizer = config.tokenizer
  tokenizer.kind = arg.kind
  if trained:
    tokenizer.ch = ch
    tokenizer.ch_mult = ch_mult
    tokenizer.num_res_blocks = 1 if small else 2
    tokenizer.norm_groups = 4 if small else 32
    tokenizer.attention = not small
    tokenizer.code_dim = code_dim
    tokenizer.vocab = vocab
    tokenizer.scales = scales if arg.kind == 'msvq' else scales[-1:]
    tokenizer.codes_per_position = 1 if arg.kind == 'msvq' else DEPTH
    tokenizer.revive_every = 25 if small else 200
  else:
    tokenizer.ch_mult = (1,)
    tokenizer.scales = (resolution,)
    tokenizer.vocab = colours if arg.kind == 'palette' else 256
    tokenizer.codes_per_position = 1 if arg.kind == 'palette' else 3
    config.order.name = 'raster'
  optim = config.optim
  optim.lr = 2e-3 if small else 2e-4
  optim.schedule = 'cos'
  optim.warmup = duration(frac=0.05)
  optim.final = 0.05
  optim.beta1, optim.beta2 = 0.5, 0.9
  optim.weight_decay = 0.005
  optim.clip_norm = 10.0
  config.evaluate = duration(frac=0.5)
  config.checkpoint = duration(frac=0.5)
  config.log = duration(frac=0.1)
  return config
