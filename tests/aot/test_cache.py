"""Results by content: what changes the key, and what is read back."""

import dataclasses

from pod_cases import D30, V5E, compiled
import pytest

from varjax import identity, topology
from varjax.aot import cache, target
from varjax.spec import Duration, MeshSpec


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path))
  return tmp_path / 'aot'


def test_a_result_is_found_again():
  assert cache.find(D30, V5E) is None
  result = compiled(9e9, sent=1.5)
  cache.save(D30, V5E, 'abc', result)
  assert cache.find(D30, V5E) == result
  assert cache.find_program('abc') == result
  assert cache.find_program('other') is None


def _changed(**values):
  return dataclasses.replace(D30, **values)


@pytest.mark.parametrize(
  'run',
  [
    _changed(batch_size=512),
    _changed(mesh=MeshSpec(2, -1, 1)),
    _changed(model=dataclasses.replace(D30.model, remat='dots')),
    _changed(model=dataclasses.replace(D30.model, attention='xla')),
    _changed(optim=dataclasses.replace(D30.optim, accumulate=2)),
    _changed(tokenizer=dataclasses.replace(D30.tokenizer, vocab=8192)),
  ],
)
def test_another_program_is_another_key(run):
  assert cache.run_key(run, V5E) != cache.run_key(D30, V5E)


def test_what_changes_no_shape_changes_no_key():
  run = _changed(
    name='other',
    seed=3,
    total=Duration(steps=7),
    mesh=MeshSpec(-1, 4, 1),
    optim=dataclasses.replace(D30.optim, lr=3e-4, weight_decay=0.1),
  )
  assert cache.run_key(run, V5E) == cache.run_key(D30, V5E)


def test_slice_code_and_versions_are_part_of_the_key(monkeypatch):
  before = cache.run_key(D30, V5E)
  assert cache.run_key(D30, topology.parse('v6e:2x2')) != before
  with monkeypatch.context() as patch:
    patch.setattr(identity, 'code_version', lambda: 'edited')
    assert cache.run_key(D30, V5E) != before
  monkeypatch.setattr(target, 'versions', lambda _: {'libtpu': 'next'})
  assert cache.run_key(D30, V5E) != before
  keys = {
    cache.program_key('x', V5E, [0, 1], {}),
    cache.program_key('y', V5E, [0, 1], {}),
    cache.program_key('x', V5E, [1, 0], {}),
    cache.program_key('x', V5E, [0, 1], {'flag': '1'}),
  }
  assert len(keys) == 4


@pytest.mark.parametrize('text', ['', '{', '[]', '{"schema": 0}', '{"a": 1}'])
def test_a_spoilt_file_is_a_miss(folder, text):
  cache.save(D30, V5E, 'abc', compiled(9e9))
  (file,) = (folder / 'programs').iterdir()
  file.write_text(text)
  assert cache.find(D30, V5E) is None
  cache.save(D30, V5E, 'abc', compiled(9e9))
  (file,) = (folder / 'runs').iterdir()
  file.write_text(text)
  assert cache.find(D30, V5E) is None
