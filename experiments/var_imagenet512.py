"""VAR on ImageNet at 512 x 512: d36-s, 2.35 B parameters (2404.02905).

  varjax train --config experiments/msvq_imagenet.py:resolution=512 \
    --workdir W/tokenizer512
  varjax encode --tokenizer W/tokenizer512 --out W/codes512
  varjax train --config experiments/var_imagenet512.py --workdir W/d36-s \
    --config.tokenizer_dir=W/tokenizer512 --config.codes_dir=W/codes512

Ten scales up to 32 x 32, 2,240 positions; one AdaLN projection is shared by
all blocks ("-s"). The official model reuses the weights of the tokenizer
trained at 256 x 256; the command above trains one at 512. Otherwise the
same differences from the official code as at 256 x 256.

Published result of the released weights (README of the official code):
FID 2.63. The authors report about 4 days on 256 A100 for a progressive run.

Cost of training on cached codes at 40 % of the nominal bf16 peak, by
`python benchmarks/cost_table.py` (an expectation, not a measurement):

  run               parameters  epochs    FLOPs   h100 h    v5p h    v6e h
  var-d36-s      2,353,893,904     350  1.5e+22   10,769   23,205   11,602
"""

import pathlib

from varjax import config as config_lib
from varjax import errors

FOLDER = pathlib.Path(__file__).parent


def get_config(arg=None):
  """Returns the config of d36-s; takes no argument but `size=d36-s`."""
  arg = config_lib.parse_arg(arg, size='d36-s')
  if arg.size != 'd36-s':
    raise errors.ConfigError(
      f'size={arg.size!r}: must be d36-s, the one published 512 px model'
    )
  at_256 = config_lib.load_module(str(FOLDER / 'var_imagenet256.py'), 'family')
  config = at_256.family(36, 768, 350, 8e-5, 5e-6, 0.01, 0.08)
  config.name = 'var-d36-s'
  config.data.resolution = 512
  config.tokenizer = config_lib.load(
    f'{FOLDER / "msvq_imagenet.py"}:resolution=512'
  ).tokenizer
  config.model.shared_adaln = True
  return config
