"""Encoding, evaluation and sampling by two processes, as by one."""

import json

from faults import runs
from faults.group import Group
import numpy as np
import pytest
import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('one_device')]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A tokenizer's folder and that of a transformer on its codes."""
  root = tmp_path_factory.mktemp('trained')
  world = runs.write_world(root)
  tiny.run_to_end(runs.small_run(world, **{'total.steps': 1}), root / 'run')
  return world[1], root / 'run'


def _by_one_and_two(argv, folder):
  """Runs a command both ways; {FOLDER} is another folder each time."""
  found = []
  for count in (1, 2):
    place = folder / str(count)
    mine = [word.replace('{FOLDER}', str(place)) for word in argv]
    with Group(['none'] * count, mine, place) as group:
      assert group.wait() == [0] * count, [group.said(i) for i in range(count)]
      # Process 0 alone talks, apart from the CPU's collectives.
      for index in range(1, count):
        lines = group.said(index).splitlines()
        assert all('[Gloo]' in line for line in lines), lines
    found.append(place)
  return found


def test_encode(trained, tmp_path):
  one, two = _by_one_and_two(
    ['encode', '--tokenizer', str(trained[0]), '--out', '{FOLDER}/codes',
     '--views', '2', '--shard_images', '8', '--quiet'],
    tmp_path,
  )  # fmt: skip
  files = {
    path.relative_to(one): path.read_bytes()
    for path in (one / 'codes').rglob('*')
    if path.is_file() and not path.name.startswith('.')
  }
  assert len(files) > 8
  for name, content in files.items():
    assert (two / name).read_bytes() == content, name


def test_eval(trained, tmp_path):
  places = _by_one_and_two(
    ['eval', '--workdir', str(trained[1]), '--out', '{FOLDER}/eval.json'],
    tmp_path,
  )
  one, two = (json.loads((p / 'eval.json').read_text()) for p in places)
  assert one['images'] == two['images'] == 12
  for key, value in one['mean'].items():
    np.testing.assert_allclose(two['mean'][key], value, rtol=1e-5)


def test_sample_50k(trained, tmp_path):
  places = _by_one_and_two(
    ['sample-50k', '--workdir', str(trained[1]), '--out',
     '{FOLDER}/samples.npz', '--per_class', '3', '--group', '2'],
    tmp_path,
  )  # fmt: skip
  one, two = (np.load(p / 'samples.npz')['arr_0'] for p in places)
  assert one.shape[0] == 9
  np.testing.assert_array_equal(one, two)
