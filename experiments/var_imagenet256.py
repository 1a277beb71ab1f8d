"""VAR on ImageNet at 256 x 256, sizes d6 to d30 (arXiv 2404.02905).

  varjax train --config experiments/msvq_imagenet.py --workdir W/tokenizer
  varjax encode --tokenizer W/tokenizer --out W/codes
  varjax train --config experiments/var_imagenet256.py:size=d16 \
    --workdir W/d16 --config.tokenizer_dir=W/tokenizer \
    --config.codes_dir=W/codes

`imagenet2012` is a tfds builder whose archives must be downloaded by hand.
d16, d20, d24 and d30 have published recipes; the other sizes take that of
the nearest one, the smaller at a tie. Differences from the official code:
bf16 instead of fp16, codes made once instead of in every step, labels are
not dropped in evaluation.

Published result of the released weights (README of the official code, its
own tokenizer, evaluator of guided-diffusion, cfg 1.5, top-k 900, top-p
0.96): FID 3.55 (d16), 2.95 (d20), 2.33 (d24), 1.97 (d30). An independent
d16 run of 200 epochs (the log that VAR-CLIP published) reached 6.05 nats
per token, and 5.34 at the last scale.

Cost of training on cached codes at 40 % of the nominal bf16 peak, by
`python benchmarks/cost_table.py` (an expectation, not a measurement):

  run               parameters  epochs    FLOPs   h100 h    v5p h    v6e h
  var-d6            18,492,580     200  1.5e+19       10       22       11
  var-d8            41,315,904     200  3.2e+19       23       49       24
  var-d10           78,367,716     200  6.0e+19       42       91       45
  var-d12          133,186,960     200  1.0e+20       70      152       76
  var-d14          209,312,580     200  1.6e+20      110      236      118
  var-d16          310,283,520     200  2.3e+20      161      347      174
  var-d18          439,638,724     200  3.2e+20      227      489      244
  var-d20          600,917,136     250  5.5e+20      386      831      416
  var-d22          797,657,700     250  7.3e+20      510    1,099      549
  var-d24        1,033,399,360     350  1.3e+21      922    1,986      993
  var-d26        1,311,681,060     350  1.7e+21    1,166    2,513    1,256
  var-d28        1,636,041,744     350  2.1e+21    1,451    3,126    1,563
  var-d30        2,010,020,356     350  2.5e+21    1,779    3,832    1,916
"""

import pathlib

from varjax import config as config_lib

TOKENIZER = pathlib.Path(__file__).with_name('msvq_imagenet.py')
DEPTHS = range(6, 31, 2)
# depth: batch, epochs, lr per 256 images, init_gamma, final lr, final decay
RECIPES = {
  16: (768, 200, 1e-4, 1e-3, 0.1, 0.05),
  20: (768, 250, 1e-4, 1e-3, 0.1, 0.05),
  24: (768, 350, 8e-5, 1e-4, 0.01, 0.05),
  30: (1024, 350, 8e-5, 1e-5, 0.01, 0.08),
}


def get_config(arg=None):
  """Returns the config of one size; argument `size=d6` ... `size=d30`."""
  arg = config_lib.parse_arg(arg, size='d16')
  depth = config_lib.parse_size(arg.size, DEPTHS)
  nearest = min(RECIPES, key=lambda known: (abs(known - depth), known))
  return family(depth, *RECIPES[nearest])


def family(depth, batch, epochs, lr, init_gamma, final, weight_decay_end):
  """Returns the config of the family member of `depth` with a recipe."""
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'generate'
  config.name = f'var-d{depth}'
  config.total = duration(epochs=epochs)
  config.batch_size = batch
  config.data.name = 'imagenet2012'
  config.data.resolution = 256
  config.data.resize_ratio = 1.125
  config.data.flip = False
  config.tokenizer = config_lib.load(str(TOKENIZER)).tokenizer
  model = config.model
  model.depth = depth
  model.width = 64 * depth
  model.heads = depth
  model.num_classes = 1000
  model.drop_path = 0.1 * depth / 24
  model.label_drop = 0.1
  model.init_gamma = init_gamma
  model.remat = 'dots'
  optim = config.optim
  optim.lr = lr
  optim.lr_reference_batch = 256
  optim.schedule = 'lin0'
  optim.warmup = duration(frac=1 / 50)
  optim.warmup_start = 0.005
  optim.final = final
  optim.weight_decay = 0.05
  optim.weight_decay_end = weight_decay_end
  optim.clip_norm = 2.0
  # Weights over all devices: the same on one device, and fits on many.
  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.evaluate = duration(epochs=10)
  config.checkpoint = duration(epochs=10)
  config.sample.cfg = 1.5
  config.sample.top_k = 900
  config.sample.top_p = 0.96
  return config
