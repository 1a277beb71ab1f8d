"""Configs from shapes: what is inferred, what must be given, what clashes."""

import numpy as np
from official_states import CONFIG, states
import pytest

from varjax import errors
from varjax.interop import infer, official_vae, official_var
from varjax.orders import make_order
from varjax.spec import ModelSpec, OrderSpec, TokenizerSpec


@pytest.fixture(scope='module')
def pair():
  return states()


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'shared_aln': False, 'mlp_ratio': 4.0, 'num_classes': 1},
    {'share_quant_resi': 0, 'quant_conv_ks': 3, 'ch_mult': (1, 1, 2)},
    {'share_quant_resi': 1, 'num_res_blocks': 2},
    {'patch_nums': (2, 3, 4), 'num_heads': 4, 'depth': 1},
  ],
)
def test_everything_that_shapes_say_is_found(changes):
  vae, var = states(**changes)
  found = infer.infer_config(vae, var, norm_groups=4)
  for key, value in (CONFIG | changes).items():
    assert found[key] == value, key
  assert found['drop_path_rate'] == pytest.approx(0.1 * found['depth'] / 24)
  spec = official_vae.spec_from_config(found)
  official_vae.from_official(spec, vae)
  model = official_var.spec_from_config(found)
  layout = make_order(OrderSpec(), spec).layout
  official_var.from_official(model, layout, var)


def test_the_released_defaults_follow_from_shapes_alone():
  """d30 at 256 pixels, as shapes; nothing of that size exists."""
  tokenizer, model = TokenizerSpec(), ModelSpec(depth=30, width=1920, heads=30)
  layout = make_order(OrderSpec(), tokenizer).layout
  var = {}
  for path, (name, kind) in official_var.names(model).items():
    shape = official_var._shape(path, model, layout)
    for i in range(30 if '#' in name else 1):
      var[name.replace('#', str(i))] = _Shaped(
        official_var._official_shape(shape, kind)
      )
  vae = {
    name: _Shaped(official_vae._official_shape(shape))
    for path, whole in official_vae._shapes(tokenizer).items()
    for name, shape in official_vae._tensors(tokenizer, path, whole)
  }
  found = infer.infer_config(vae, var)
  assert official_vae.spec_from_config(found) == tokenizer
  expected = official_var.spec_from_config(
    {'depth': 30, 'embed_dim': 1920, 'num_heads': 30, 'num_classes': 1000,
     'drop_path_rate': 0.125}
  )  # fmt: skip
  assert official_var.spec_from_config(found) == expected


class _Shaped:
  """The shape of an array, without the array."""

  def __init__(self, shape):
    self.shape = shape

  def __array__(self, *_):
    raise AssertionError('only the shape may be read')


def test_a_schedule_without_the_buffer_must_be_known_or_given(pair):
  vae, var = pair
  var = {k: v for k, v in var.items() if k != 'lvl_1L'}
  with pytest.raises(errors.ConfigError, match='patch_nums: must be given'):
    infer.infer_config(vae, var, norm_groups=4)
  found = infer.infer_config(vae, var, (1, 2, 4), norm_groups=4)
  assert found['patch_nums'] == (1, 2, 4)
  found = infer.infer_config(vae, var, [[1, 1], [1, 4], (4, 4)], norm_groups=4)
  assert found['patch_nums'] == ((1, 1), (1, 4), (4, 4))


@pytest.mark.parametrize('schedule', infer.SCHEDULES.items())
def test_known_schedules(schedule):
  length, sides = schedule
  assert sum(side * side for side in sides) == length
  state = {
    'pos_1LC': np.zeros((1, length, 1)),
    'lvl_embed.weight': np.zeros((len(sides), 1)),
    'pos_start': np.zeros((1, 1, 1)),
  }
  assert infer._schedule(state, None) == sides


@pytest.mark.parametrize(
  ('patch_nums', 'said'),
  [
    ((1, 2, 3), 'pos_1LC: has 21 positions'),
    ((1, 2, [2, 4], [2, 4]), 'lvl_embed.weight: has 3 scales'),
    ((2, 1, 4), 'pos_start: has 1 positions'),
    ((), 'pos_1LC'),
  ],
)
def test_a_schedule_that_does_not_fit_is_named(pair, patch_nums, said):
  with pytest.raises(errors.CheckpointError, match=said):
    infer.infer_config(*pair, patch_nums, norm_groups=4)


def test_heads_without_l2_norm():
  vae, var = states(attn_l2_norm=False)
  with pytest.raises(errors.ConfigError, match='num_heads: must be given'):
    infer.infer_config(vae, var, norm_groups=4)
  found = infer.infer_config(vae, var, norm_groups=4, num_heads=6)
  assert found['num_heads'] == 6
  assert not found['attn_l2_norm']
  with pytest.raises(errors.ConfigError, match='must divide 24'):
    infer.infer_config(vae, var, norm_groups=4, num_heads=5)
  vae, var = states(attn_l2_norm=False, embed_dim=128, num_heads=2)
  assert infer.infer_config(vae, var, norm_groups=4)['num_heads'] == 2


def test_given_values_may_not_contradict_the_tensors(pair):
  with pytest.raises(
    errors.CheckpointError, match='scale_mul_1H11: says num_heads=3'
  ):
    infer.infer_config(*pair, norm_groups=4, num_heads=4)
  with pytest.raises(errors.ConfigError, match='colour: not a key'):
    infer.infer_config(*pair, norm_groups=4, colour='red')
  with pytest.raises(errors.ConfigError, match='norm_groups=32: must divide'):
    infer.infer_config(*pair)


@pytest.mark.parametrize(
  ('side', 'name', 'change', 'said'),
  [
    ('vae', 'quantize.embedding.weight', None, 'embedding.weight: missing'),
    ('vae', 'encoder.conv_in.weight', np.zeros(3), 'needs 4 axes'),
    ('vae', 'quantize.embedding.weight', np.zeros((17, 4)), 'V=16'),
    ('vae', 'quantize.embedding.weight', np.zeros((16, 5)), 'Cvae=4'),
    ('var', 'head.weight', np.zeros((0, 24)), 'no empty one'),
    ('var', 'word_embed.weight', None, 'word_embed.weight: missing'),
    ('var', 'blocks.7.attn.q_bias', np.zeros(24), 'without a gap'),
  ],
)
def test_bad_tensors_are_named(pair, side, name, change, said):
  vae, var = (dict(state) for state in pair)
  state = vae if side == 'vae' else var
  if change is None:
    del state[name]
  else:
    state[name] = change
  with pytest.raises(errors.CheckpointError, match=said):
    infer.infer_config(vae, var, norm_groups=4)


def test_files_in_the_wrong_order_are_noticed(pair):
  vae, var = pair
  with pytest.raises(errors.CheckpointError, match=r'conv_in\.weight: missing'):
    infer.infer_config(var, vae)
