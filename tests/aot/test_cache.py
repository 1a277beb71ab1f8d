"""Results by content: what changes the key, and what is read back."""

import dataclasses

from pod_cases import D30, V5E, compiled
import pytest

from varjax import identity, topology
from varjax.aot import cache, target
from varjax.aot.request import Request
from varjax.spec import Duration, MeshSpec, PrecisionSpec, SampleSpec


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path))
  return tmp_path / 'aot'


def test_a_result_is_found_again():
  assert cache.find(Request(D30), V5E) is None
  result = compiled(9e9, sent=1.5)
  cache.save(Request(D30), V5E, 'abc', result)
  assert cache.find(Request(D30), V5E) == result
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
  assert cache.request_key(Request(run), V5E) != cache.request_key(
    Request(D30), V5E
  )


def test_a_program_and_what_shapes_it_are_part_of_the_key():
  few = PrecisionSpec(weights='int8')
  requests = [
    Request(D30),
    *(Request(D30, name) for name in ('sample', 'encode', 'decode')),
    Request(D30, 'sample', images=1),
    Request(D30, 'sample', precision=few),
    Request(_changed(sample=SampleSpec(guided=(0, 3))), 'sample'),
    Request(_changed(model=dataclasses.replace(D30.model, depth=2)), 'sample'),
    Request(
      _changed(tokenizer=dataclasses.replace(D30.tokenizer, ch=32)), 'encode'
    ),
  ]
  keys = {cache.request_key(request, V5E) for request in requests}
  assert len(keys) == len(requests)
  # The default is said as well as not said; a batch of training is no batch
  # of a sampler, and a decoder has no transformer.
  for same, other in (
    (Request(D30, 'encode'), Request(D30, 'encode', images=64)),
    (Request(D30, 'sample'), Request(_changed(batch_size=8), 'sample')),
    (
      Request(D30, 'decode'),
      Request(
        _changed(model=dataclasses.replace(D30.model, depth=2)), 'decode'
      ),
    ),
  ):
    assert cache.request_key(same, V5E) == cache.request_key(other, V5E)


def test_what_changes_no_shape_changes_no_key():
  run = _changed(
    name='other',
    seed=3,
    total=Duration(steps=7),
    mesh=MeshSpec(-1, 4, 1),
    optim=dataclasses.replace(D30.optim, lr=3e-4, weight_decay=0.1),
  )
  assert cache.request_key(Request(run), V5E) == cache.request_key(
    Request(D30), V5E
  )


def test_slice_code_and_versions_are_part_of_the_key(monkeypatch):
  before = cache.request_key(Request(D30), V5E)
  assert cache.request_key(Request(D30), topology.parse('v6e:2x2')) != before
  with monkeypatch.context() as patch:
    patch.setattr(identity, 'code_version', lambda: 'edited')
    assert cache.request_key(Request(D30), V5E) != before
  monkeypatch.setattr(target, 'versions', lambda _: {'libtpu': 'next'})
  assert cache.request_key(Request(D30), V5E) != before
  keys = {
    cache.program_key('train', 'x', V5E, [0, 1], {}),
    cache.program_key('train', 'y', V5E, [0, 1], {}),
    cache.program_key('train', 'x', V5E, [1, 0], {}),
    cache.program_key('train', 'x', V5E, [0, 1], {'flag': '1'}),
    cache.program_key('sample', 'x', V5E, [0, 1], {}),
  }
  assert len(keys) == 5


@pytest.mark.parametrize('text', ['', '{', '[]', '{"schema": 0}', '{"a": 1}'])
def test_a_spoilt_file_is_a_miss(folder, text):
  cache.save(Request(D30), V5E, 'abc', compiled(9e9))
  (file,) = (folder / 'programs').iterdir()
  file.write_text(text)
  assert cache.find(Request(D30), V5E) is None
  cache.save(Request(D30), V5E, 'abc', compiled(9e9))
  (file,) = (folder / 'runs').iterdir()
  file.write_text(text)
  assert cache.find(Request(D30), V5E) is None
