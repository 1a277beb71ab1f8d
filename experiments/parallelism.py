"""Quality against parallelism: more sequential sets, or more scales.

  varjax train --config experiments/parallelism.py:sets=4 \
    --workdir runs/paradigms/parallelism/sets4
  varjax train --config experiments/parallelism.py:scales=10 \
    --workdir runs/paradigms/parallelism/scales10

`sets` cuts the scales of one tokenizer (experiments/paradigm_tokenizer.py): a
scale of n x n codes is made in min(n, sets)^2 sets, each of which reads those
before it: 4 steps with sets=1 (VAR), 13 with 2, 37 with 4, 85 with 8 (one
code at a time). Rows and parameters but for the step table are the same, and
all likelihoods are exact and of the same codes.

`scales=K` takes the tokenizer with K scales (`:scales=K` of its experiment,
trained into `root`/codesK). Every run has as many images as cost the FLOPs of
4 scales in 4 steps: more scales are more codes, so fewer images. Codes of
different tokenizers have no common loss; runs with other scales compare by
their samples and by bits per dimension.
"""

from varjax import config as config_lib


def get_config(arg=None):
  """Returns the config; arguments `sets`, `scales`, `size`, `root`."""
  arg = config_lib.parse_arg(
    arg, sets=1, scales=0, size='d4', root='runs/paradigms'
  )
  config = config_lib.load(
    f'experiments/paradigm.py:order=scale,size={arg.size},root={arg.root},'
    f'sets={arg.sets},scales={arg.scales}'
  )
  changed = f'scales{arg.scales}' if arg.scales else f'sets{arg.sets}'
  config.name = f'{changed}-{arg.size}'
  return config
