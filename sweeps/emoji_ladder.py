"""The ladder of `make demo`: six sizes of one family, largest held out.

  varjax sweep sweeps/emoji_ladder.py --workdir runs/demo \
    --config.tokenizer_dir=runs/demo/tokenizer \
    --config.codes_dir=runs/demo/codes

Every size sees the same images, so the ladder supports a law of loss
against parameters and nothing else: with D constant, the data term of a
surface L(N, D) cannot be identified.
"""

SIZES = ('d2', 'd3', 'd4', 'd5', 'd6', 'd7')
HELD_OUT = ('d7',)


def get_hyper(hyper):
  """Returns the trials, largest first: the longest should start first."""
  configs = hyper.sweep(
    'config',
    [f'experiments/emoji_var.py:size={size}' for size in reversed(SIZES)],
  )
  return hyper.derive(
    configs,
    'role',
    lambda trial: 'holdout' if trial['config'].endswith(HELD_OUT) else 'fit',
  )
