"""VAR on slices of TPUs: the paper's recipes, laid out so that they fit.

  varjax aot --config experiments/var_pod.py:size=d30,slice=v5p-4x4x4 \
    --topology v5p:4x4x4
  varjax train --config experiments/var_pod.py:size=d30,slice=v5p-4x4x4 \
    --workdir W/d30 --config.tokenizer_dir=W/tokenizer \
    --config.codes_dir=W/codes

Sizes d16, d20, d24 and d30 on ImageNet at 256 x 256 (var_imagenet256.py),
and d36-s at 512 x 512 (var_imagenet512.py). Recipes are not changed, only
how a run lies on its slice. What the TPU compiler said of each pair, and
what was not asked of it, is in docs/pods.md; no TPU has run any.
"""

import pathlib

from varjax import config as config_lib
from varjax import errors

FOLDER = pathlib.Path(__file__).parent
# size, slice: (data, fsdp, tensor), remat policy, parts of a batch
SLICES = {
  ('d16', 'v5e-4x4'): ((1, 16, 1), 'dots', 1),
  ('d20', 'v5e-4x8'): ((1, 32, 1), 'dots', 1),
  ('d24', 'v5e-8x8'): ((1, 64, 1), 'dots', 1),
  # 256 does not divide the width of d30, 1920.
  ('d30', 'v5e-16x16'): ((2, 128, 1), 'dots', 1),
  ('d36-s', 'v5e-16x16'): ((1, 256, 1), 'dots', 1),
  ('d16', 'v5p-2x2x4'): ((1, 16, 1), 'dots', 1),
  ('d20', 'v5p-2x4x4'): ((1, 32, 1), 'dots', 1),
  ('d24', 'v5p-4x4x4'): ((1, 64, 1), 'dots', 1),
  ('d30', 'v5p-4x4x4'): ((1, 64, 1), 'dots', 1),
  ('d36-s', 'v5p-4x4x8'): ((1, 128, 1), 'dots', 1),
  ('d16', 'v6e-4x4'): ((1, 16, 1), 'dots', 1),
  ('d20', 'v6e-4x4'): ((1, 16, 1), 'dots', 1),
  ('d24', 'v6e-4x8'): ((1, 32, 1), 'dots', 1),
  ('d30', 'v6e-8x8'): ((1, 64, 1), 'dots', 1),
  ('d36-s', 'v6e-16x16'): ((1, 256, 1), 'dots', 1),
}


def get_config(arg=None):
  """Returns the config of a size on a slice, as `size=d16,slice=v5e-4x4`."""
  arg = config_lib.parse_arg(arg, size='d16', slice='v5e-4x4')
  if (arg.size, arg.slice) not in SLICES:
    known = ' '.join(f'{size}@{where}' for size, where in SLICES)
    raise errors.ConfigError(
      f'size={arg.size!r}, slice={arg.slice!r}: must be one of {known}; '
      '`varjax aot --search` finds others'
    )
  file, size = ('var_imagenet256.py', arg.size)
  if arg.size == 'd36-s':
    file = 'var_imagenet512.py'
  config = config_lib.load(f'{FOLDER / file}:size={size}')
  mesh, remat, parts = SLICES[arg.size, arg.slice]
  config.name = f'var-{arg.size}-{arg.slice}'
  config.mesh.data, config.mesh.fsdp, config.mesh.tensor = mesh
  config.model.remat = remat
  config.optim.accumulate = parts
  return config
