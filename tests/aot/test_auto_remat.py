"""`varjax aot` resolves remat by the memory that its verdict goes by."""

import pytest

from varjax import errors, memory, topology
from varjax.aot import cuda, search, target
from varjax.tools import aot

H100 = topology.parse('h100:1')
D30 = [
  '--config', 'experiments/var_imagenet256.py:size=d30', '--topology',
  'h100:1', '--config.batch_size=32', '--config.model.remat=auto',
]  # fmt: skip


class _Asked(Exception):
  """Carries the run that the compiler would have been asked about."""


def _asked(argv, monkeypatch):
  def ask(request, slice_):
    del slice_
    raise _Asked(request.run)

  monkeypatch.setattr(aot, 'ask', ask)
  with pytest.raises(_Asked) as found:
    aot.main(argv)
  return found.value.args[0]


def test_auto_is_what_fits_the_share_that_jax_takes(monkeypatch):
  monkeypatch.setenv(cuda.FRACTION, '0.95')
  assert _asked(D30, monkeypatch).model.remat == 'light'
  monkeypatch.delenv(cuda.FRACTION)
  run = _asked(D30, monkeypatch)
  assert run.model.remat == 'slim'
  needed = memory.memory_estimate(run, 1, platform='gpu').total
  assert needed < cuda.usable_bytes(H100)
  monkeypatch.setenv(cuda.FRACTION, '0.3')
  with pytest.raises(errors.ConfigError, match='even full needs'):
    _asked(D30, monkeypatch)


def test_suggestions_fit_that_share_too(monkeypatch):
  monkeypatch.setenv(cuda.FRACTION, '0.95')
  run = _asked(D30, monkeypatch)
  one = search.suggestions(run, H100)[0]
  assert one.estimate_bytes <= 0.8 * target.usable_bytes(H100)
  monkeypatch.setenv(cuda.FRACTION, '0.6')
  other = search.suggestions(run, H100)[0]
  assert other.estimate_bytes <= 0.8 * target.usable_bytes(H100)
  assert other.flags != one.flags


def test_a_tpu_says_nothing_and_the_table_stands():
  v5e = topology.parse('v5e:4x4')
  assert target.usable_bytes(v5e) == v5e.device.memory_bytes
