"""Published families: counts by shapes, by formula and as published."""

from flax.core import meta
import jax
import pytest

from varjax import families, flops
from varjax.errors import ConfigError
from varjax.orders import sequence_of
from varjax.spec import RunSpec
from varjax.tasks.generate import GenerateTask

MEMBERS = tuple(families.names())
# The others of a family differ in size alone; the formula covers all.
INITIALISED = [
  'var-d6',
  'var-d36',
  'llamagen-B',
  'llamagen-3B',
  'imagegpt-S',
  'rq-355M',
  'maskgit',
]
# Published with two digits, see `test_var_is_published_with_two_digits`.
TWO_DIGITS = {'var-d36': 0.03, 'var-d24': 0.04}


def _formula(member):
  sequence = sequence_of(member.order, member.tokenizer)
  return flops.parameter_counts(member.model, sequence)


@pytest.mark.parametrize('name', INITIALISED)
def test_the_formula_counts_what_the_model_initialises(name):
  member = families.member(name)
  run = RunSpec(
    order=member.order, tokenizer=member.tokenizer, model=member.model
  )
  shapes, _ = jax.eval_shape(GenerateTask(run).init, jax.random.key(0))
  shapes = meta.unbox(shapes)
  small = shapes['head'].pop('depth', {'blocks': {}})
  shapes |= {'depth': small.pop('blocks'), 'embed': [shapes['embed'], small]}
  found = {
    part: sum(leaf.size for leaf in jax.tree.leaves(tree))
    for part, tree in shapes.items()
  }
  counts = _formula(member)
  assert found['blocks'] == counts.linear
  assert found.get('adaln', 0) == counts.adaln
  assert found['depth'] == counts.depth
  assert found['embed'] == counts.input_embed + counts.tables
  assert found['head'] == counts.head + counts.head_adaln


@pytest.mark.parametrize('name', MEMBERS)
def test_counts_are_the_published_ones(name):
  member = families.member(name)
  total = _formula(member).total
  if member.published:
    allowed = TWO_DIGITS.get(name, 0.01)
    assert abs(total / member.published - 1) < allowed, total


def test_var_is_published_with_two_digits():
  """Why d24 and d36 are 3.3 % and 2.3 % above 1.0 B and 2.3 B.

  The totals are those of the official modules. Rounded to two digits they
  are the published sizes, but for d36, whose 2.354 B would be 2.4. No part
  left out explains the deviation of d24: its blocks alone are 2.0 % above.
  Without its position table d36 would round to 2.3 B.
  """
  for depth in (16, 20, 24, 30, 36):
    member, shared = families.var(depth), depth == 36
    counts, d = _formula(member), 64 * depth
    sides = member.tokenizer.scales
    positions = sum(side**2 for side in sides)
    block = 12 * d**2 + 8 * d + depth  # the last is scale_mul
    adaln = 6 * d**2 + 6 * d
    adaln = adaln + 6 * d * depth if shared else adaln * depth
    tables = (1001 + 1 + positions + len(sides)) * d
    ends = 33 * d + 2 * d**2 + 2 * d + 4096 * (d + 1)
    assert counts.total == block * depth + adaln + tables + ends
    unit = 10 ** (len(str(member.published)) - 2)
    if not shared:
      assert round(counts.total / unit) * unit == member.published
    else:
      assert round(counts.total / unit) * unit == 2_400_000_000
      without = counts.total - positions * d
      assert round(without / unit) * unit == member.published
  assert _formula(families.var(24)).body / 1e9 > 1.019


@pytest.mark.parametrize('size', [n for n in MEMBERS if n.startswith('rq-')])
def test_rq_has_the_public_layers(size):
  member = families.member(size)
  model, vocab = member.model, member.tokenizer.vocab
  d, layers = model.width, model.depth + model.depth_layers
  tables = max(model.num_classes, 1) + 1 + 64 + 4
  public = layers * (12 * d**2 + 13 * d) + tables * d
  public += 2 * (256 + 1) * d + 2 * d + vocab * (d + 1)
  # No bias of the keys, and a row for "no class"; see `families.rq`.
  keys = layers * d - d * (model.num_classes > 0)
  assert _formula(member).total == public - keys


@pytest.mark.parametrize(
  ('size', 'depth', 'width', 'hidden'),
  [
    ('B', 12, 768, 2048),
    ('L', 24, 1024, 2816),
    ('XL', 36, 1280, 3584),
    ('XXL', 48, 1536, 4096),
    ('3B', 24, 3200, 8704),
  ],
)
def test_llamagen_has_the_public_layers(size, depth, width, hidden):
  block = 4 * width**2 + 3 * width * hidden + 2 * width
  tables = (2 * 16_384 + 1001) * width
  public = depth * block + tables + width
  # One start symbol more, see `families.llamagen`.
  assert _formula(families.member(f'llamagen-{size}')).total == public + width


def test_maskgit_and_its_tokenizer_have_227_million():
  d = 768
  block = 4 * (d * d + d) + (d * 3072 + 3072) + (3072 * d + d) + 4 * d
  tables = (1024 + 1000 + 1) * d + 257 * d + 2 * d
  head = d * d + d + 2 * d + 2025
  transformer = 24 * block + tables + head
  assert transformer == families.member('maskgit').published
  channels, tokenizer = [128, 128, 256, 256, 512], 0

  def block_of(before, after):
    shortcut = before * after if before != after else 0
    return 9 * before * after + 9 * after * after + shortcut

  before = 128
  for width in channels:
    tokenizer += block_of(before, width) + block_of(width, width)
    before = width
  tokenizer += 4 * block_of(512, 512)  # both middles
  for width in reversed(channels):
    tokenizer += block_of(before, width) + block_of(width, width)
    before = width
  tokenizer += 9 * (128**2 + 2 * 256**2 + 512**2)  # after each enlarging
  tokenizer += 2 * 9 * 3 * 128 + 512 * 256 + 9 * 256 * 512 + 1024 * 256
  assert abs((transformer + tokenizer) / 227e6 - 1) < 0.01


def test_an_unknown_member_is_named():
  with pytest.raises(ConfigError, match='llamagen-XS'):
    families.member('llamagen-XS')
