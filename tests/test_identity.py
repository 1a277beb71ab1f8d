"""Run ids: change exactly when the result could."""

import pytest

from varjax import config, identity


def run_with(**overrides):
  base = {
    'data.resolution': 32,
    'tokenizer.ch_mult': (1, 2, 2, 2),
    'tokenizer.scales': (1, 2, 4),
  }
  merged = {**base, **overrides}
  return config.to_spec(config.override(config.default_config(), merged))


@pytest.mark.parametrize(
  'overrides',
  [
    {'name': 'other'},
    {'role': 'holdout'},
    {'tokenizer_dir': 'elsewhere'},
    {'log.steps': 3},
    {'checkpoint.steps': 3},
    {'sample.cfg': 9.0},
    {'mesh.data': 1},
    {'reconstruct.l1': 9.0},
  ],
)
def test_what_does_not_change_the_result_keeps_the_id(overrides):
  assert identity.run_id(run_with(**overrides)) == identity.run_id(run_with())


@pytest.mark.parametrize(
  'overrides',
  [
    {'seed': 1},
    {'optim.lr': 2e-4},
    {'model.depth': 3},
    {'total.steps': 3},
    {'tokenizer.vocab': 64},
    {'data.flip': True},
  ],
)
def test_what_changes_the_result_changes_the_id(overrides):
  assert identity.run_id(run_with(**overrides)) != identity.run_id(run_with())


def test_inputs_are_part_of_the_id():
  run = run_with()
  ids = {
    identity.run_id(run),
    identity.run_id(run, {'tokenizer': 'a'}),
    identity.run_id(run, {'tokenizer': 'b'}),
  }
  assert len(ids) == 3


def test_stage_one_does_not_depend_on_the_transformer():
  one = run_with(task='reconstruct')
  other = run_with(task='reconstruct', **{'model.depth': 3})
  assert identity.run_id(one) == identity.run_id(other)


def test_every_listed_source_exists():
  import pathlib

  root = pathlib.Path(identity.__file__).parent
  for name in identity._CODE_OF_A_RUN:
    assert (root / name).exists(), name
