"""Quality against parallelism: scales made in more sequential sets.

  varjax train --config experiments/parallelism.py:sets=4 \
    --workdir runs/paradigms/parallelism/sets4

Next-scale order over the codes of experiments/paradigm_tokenizer.py, where a
scale of n x n codes is made in min(n, sets)^2 sets, each of which reads those
before it: 4 steps with sets=1 (VAR), 13 with 2, 37 with 4, 85 with 8 (one
code at a time). Rows, parameters but for the step table, and so FLOPs are
the same, and all likelihoods are exact and of the same codes. For another
schedule of scales (`scales=1-2-4-6-8`) train a tokenizer with these scales
and give its folder as `root`.
"""

from varjax import config as config_lib


def get_config(arg=None):
  """Returns the config; arguments `sets`, `size`, `root`, `scales`."""
  arg = config_lib.parse_arg(
    arg, sets=1, size='d3', root='runs/paradigms', scales=''
  )
  config = config_lib.load(
    f'experiments/paradigm.py:order=scale,size={arg.size},root={arg.root}'
  )
  if arg.scales:
    config.tokenizer.scales = tuple(int(s) for s in arg.scales.split('-'))
  config.name = f'sets{arg.sets}-{arg.size}'
  config.order.name = 'split'
  config.order.splits = tuple(
    min(side, arg.sets) ** 2 for side in config.tokenizer.scales
  )
  return config
