"""Configs: every key and type checked, errors of one sentence."""

import dataclasses

import hypothesis
from hypothesis import given
from hypothesis import strategies as st
import pytest

from varjax import config, errors
from varjax import spec as specs

SMALL = {
  'data.resolution': 32,
  'tokenizer.ch_mult': (1, 2, 2, 2),
  'tokenizer.scales': (1, 2, 4),
}


def small(**overrides):
  return config.override(config.default_config(), {**SMALL, **overrides})


def test_defaults_with_a_matching_resolution_are_valid():
  run = config.to_spec(
    config.override(config.default_config(), {'data.resolution': 256})
  )
  assert run.tokenizer.grids[-1] == (16, 16)
  assert run.model.depth == 16


def test_text_and_values_mean_the_same():
  text = small(**{'optim.lr': '3e-4', 'model.scan': 'false', 'seed': '7'})
  value = small(**{'optim.lr': 3e-4, 'model.scan': False, 'seed': 7})
  assert config.to_spec(text) == config.to_spec(value)


def test_a_field_of_a_duration_replaces_the_others():
  run = config.to_spec(small(**{'total.images': '1000'}))
  assert run.total == specs.Duration(images=1000)


@pytest.mark.parametrize(
  ('key', 'value', 'said'),
  [
    ('optim.lrr', 1.0, "unknown key 'lrr'"),
    ('model', 1, 'is a section'),
    ('optim.lr.x', 1, 'nothing, it is a value'),
    ('optim.lr', 'fast', 'must be a number, not str'),
    ('batch_size', 1.5, 'must be an integer'),
    ('model.scan', 1, 'must be true or false'),
    ('tokenizer.scales', '(1, "a")', 'tuple'),
    ('task', 5, 'str'),
  ],
)
def test_bad_override_names_the_key(key, value, said):
  with pytest.raises(errors.ConfigError) as caught:
    small(**{key: value})
  assert key.split('.')[0] in str(caught.value)
  assert said in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('overrides', 'said'),
  [
    ({'tokenizer.scales': (1, 2, 3)}, 'the last scale must be 4'),
    ({'model.depth': 4, 'model.unroll': 3}, 'must divide model.depth=4'),
    ({'model.unroll': -1}, 'model.unroll=-1'),
    ({'tokenizer.scales': (2, 1, 4)}, 'larger than the one before'),
    ({'tokenizer.scales': ()}, 'at least one scale'),
    ({'data.resolution': 36}, 'multiple of 8'),
    ({'model.heads': 7}, 'must divide model.width'),
    ({'model.head_factors': 5}, 'to the power of 5'),
    ({'model.depth_layers': 0}, 'model.depth_layers'),
    (
      {'tokenizer.kind': 'vq', 'tokenizer.scales': (4,)},
      'only tokenizer.kind=msvq has',
    ),
    ({'optim.accumulate': 5}, 'must divide batch_size'),
    ({'tokenizer.norm_groups': 33}, 'norm_groups'),
    ({'total.frac': 0.5}, 'share of itself'),
    ({'total.steps': 0}, 'set exactly one of'),
    ({'total.steps': 5, 'total.images': 5}, 'set exactly one of'),
    ({'task': 'classify'}, 'must be one of reconstruct, generate'),
    ({'role': 'test'}, 'must be one of fit, holdout, debug'),
    ({'model.remat': 'some'}, 'must be one of none, light, dots'),
    ({'batch_size': 0}, 'at least 1'),
    ({'data_prefetch': -2}, 'data_prefetch=-2: must be at least -1'),
    ({'checkpoint.frac': 1.5}, 'frac <= 1'),
  ],
)
def test_impossible_combination_is_refused(overrides, said):
  with pytest.raises(errors.ConfigError) as caught:
    config.to_spec(small(**overrides), 'x.py')
  assert said in str(caught.value)
  assert str(caught.value).startswith('x.py: ')


def test_unknown_key_in_a_file_names_the_file(tmp_path):
  file = tmp_path / 'exp.py'
  file.write_text(
    'from varjax import config\n'
    'def get_config(arg):\n'
    '  c = config.default_config()\n'
    '  c.model.dept = 3\n'
    '  return c\n'
  )
  with pytest.raises(errors.ConfigError, match=r'exp\.py.*dept'):
    config.to_spec(config.load(str(file)), str(file))


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('def nothing(): pass', 'defines no get_config'),
    ('def get_config(arg): return 3', 'must return'),
    ('def get_config(arg): return 1 / 0', 'ZeroDivisionError'),
    ('import no_such_module_here', 'cannot be imported'),
    ('def get_config(arg:', 'cannot be imported'),
  ],
)
def test_broken_experiment_file_is_one_sentence(tmp_path, text, said):
  file = tmp_path / 'broken.py'
  file.write_text(text)
  with pytest.raises(errors.ConfigError, match=said):
    config.load(str(file))
  with pytest.raises(errors.ConfigError, match='no such file'):
    config.load(str(tmp_path / 'missing.py'))


def test_parse_arg_takes_types_from_defaults():
  arg = config.parse_arg('size=d8,images=12', size='d4', images=5, lr=0.1)
  assert (arg.size, arg.images, arg.lr) == ('d8', 12, 0.1)
  with pytest.raises(errors.ConfigError, match='allowed: size=d4'):
    config.parse_arg('sise=d8', size='d4')
  with pytest.raises(errors.ConfigError, match='integer'):
    config.parse_arg('images=many', images=5)


def test_parse_size_lists_what_is_allowed():
  assert config.parse_size('d16', range(6, 31, 2)) == 16
  with pytest.raises(errors.ConfigError, match='d6, d8'):
    config.parse_size('d7', (6, 8))


@hypothesis.settings(deadline=None)  # A busy machine is no failure.
@given(
  lr=st.floats(1e-6, 1.0),
  steps=st.integers(1, 10**9),
  seed=st.integers(0, 2**31),
  drop=st.floats(0, 0.9),
)
def test_json_round_trip(lr, steps, seed, drop):
  run = config.to_spec(
    small(
      **{
        'optim.lr': lr,
        'total.steps': steps,
        'seed': seed,
        'model.label_drop': drop,
      }
    )
  )
  assert config.from_json(config.to_json(run)) == run


def test_every_field_of_every_spec_is_documented():
  for cls in vars(specs).values():
    if dataclasses.is_dataclass(cls) and cls not in (
      specs.OrderSpec,
      specs.MeshSpec,
      specs.ReconstructSpec,
      specs.SampleSpec,
    ):
      for field in dataclasses.fields(cls):
        # Sections carry their own docstring.
        if not dataclasses.is_dataclass(getattr(cls, field.name, None)) or (
          isinstance(getattr(cls, field.name, None), specs.Duration)
        ):
          assert field.name in cls.__doc__, f'{cls.__name__}.{field.name}'
