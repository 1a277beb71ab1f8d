"""A tokenizer of your own images, for one GPU.

  varjax train --config experiments/folder_tokenizer.py:resolution=128 \\
    --config.data.data_dir=photos --workdir W/tokenizer

`photos` holds `train/CLASS/` and `validation/CLASS/` with image files of any
size; they are resized and cropped to squares of `resolution` 64, 128 or 256.
The recipe of experiments/texture_tokenizer.py, with a network that always
ends at 16 x 16 features: 680 codes an image. docs/tokenizer_training.md goes
on from here to codes, a VAR, samples and metrics. Not run at this size:
there was no GPU at hand.
"""

from varjax import config as config_lib
from varjax import errors

# Channel multipliers by resolution: 16 x 16 features at the end.
CH_MULT = {64: (1, 2, 4), 128: (1, 1, 2, 4), 256: (1, 1, 2, 2, 4)}


def get_config(arg=None):
  """Returns the config; arguments `resolution` and `epochs`."""
  arg = config_lib.parse_arg(arg, resolution=128, epochs=60)
  if arg.resolution not in CH_MULT:
    raise errors.ConfigError(
      f'resolution={arg.resolution}: must be one of 64, 128, 256'
    )
  config = config_lib.load('experiments/texture_tokenizer.py')
  config.name = f'folder-tokenizer-{arg.resolution}'
  config.total = config_lib.duration(epochs=arg.epochs)
  config.data.name = 'folder'
  config.data.resolution = arg.resolution
  config.data.flip = False
  config.tokenizer.ch_mult = CH_MULT[arg.resolution]
  config.reconstruct.adversarial.layers = 3 if arg.resolution > 64 else 2
  return config
