"""VAR's ladder on ImageNet at 256 x 256: 12 sizes, 18 M to 2 B parameters.

  varjax sweep sweeps/var_ladder.py --workdir W/ladder \
    --config.tokenizer_dir=W/tokenizer --config.codes_dir=W/codes
  varjax fit W/ladder --out W/ladder/fit

The paper (arXiv 2404.02905, section 5) names twelve sizes "from 18M to 2B"
but not their depths: here the even depths from 6 to 30 without 28. The two
largest are held out, so the fit on ten predicts 1.3 B and 2.0 B.

Each size trains with its recipe, as published: 200 to 350 epochs, so the
larger sizes also see more images and L(N) is not at constant D. Add
`--config.total.epochs=200` for a ladder at constant D (its surface L(N, D)
is then not identified, only L(N) is).

Published laws, reducible loss (4.5 and 5.0 nats subtracted by the authors),
N in billions: L_last = (2.0 N)^-0.23, L_mean = (2.5 N)^-0.20.

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
  var-d30        2,010,020,356     350  2.5e+21    1,779    3,832    1,916
  all: 7.7e+21 FLOPs, 5,405 h100-hours, 11,646 v5p-hours, 5,823 v6e-hours
"""

DEPTHS = (6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 30)
HELD_OUT = (26, 30)


def get_hyper(hyper):
  """Returns the trials, largest first: the longest should start first."""
  experiment = 'experiments/var_imagenet256.py:size=d'
  configs = hyper.sweep('config', [f'{experiment}{d}' for d in DEPTHS[::-1]])
  held_out = tuple(f'size=d{depth}' for depth in HELD_OUT)
  return hyper.derive(
    configs,
    'role',
    lambda trial: 'holdout' if trial['config'].endswith(held_out) else 'fit',
  )
