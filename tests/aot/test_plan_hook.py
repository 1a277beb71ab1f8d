"""Plans use what the compiler said, and ask it with --compile."""

import json

from pod_cases import GIB, compiled
import pytest

from varjax import errors
from varjax.aot import cache
from varjax.tools import aot
from varjax.tools import plan as tool

FIT = {
  'schema': 1, 'kind': 'varjax.fit', 'name': 'L(N, D)', 'form': 'chinchilla',
  'params': {'E': 5.0, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28},
  'n_convention': 'body', 'inputs': {'n': {'max': 3e8}, 'd': {'max': 3e11}},
  'y': {'name': 'L', 'unit': 'nats', 'kind': 'loss'}, 'bootstrap': None,
  'pinned': {}, 'sigma_log': 0.002, 'refusals': [],
}  # fmt: skip


@pytest.fixture
def plan(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'fit.json').write_text(json.dumps(FIT))

  def run(*argv):
    out = tmp_path / 'plan.json'
    argv = ('--budget', '1e20', '--topology', 'v5e:4x4', *argv)
    tool.main(['--fit', str(tmp_path), '--json', str(out), *argv])
    return json.loads(out.read_text()), capsys.readouterr().out

  return run


def test_a_plan_that_was_not_compiled_says_nothing(plan):
  found, text = plan('--remat', 'full')
  assert found['compiled'] is None
  assert 'compiler' not in text


def test_compile_asks_and_the_cache_answers_next_time(plan, monkeypatch):
  asked = []
  result = compiled(9.5 * GIB)

  def ask(request, slice_):
    asked.append(request)
    cache.save(request, slice_, 'program', result)
    return result

  monkeypatch.setattr(aot, 'ask', ask)
  found, text = plan('--remat', 'full', '--compile')
  assert len(asked) == 1
  assert found['compiled']['used_bytes'] == 9.5 * GIB
  assert 'accepted by the real compiler' in text
  assert 'peak 9.50 GiB a device' in text
  assert plan('--remat', 'full') == (found, text)
  assert len(asked) == 1


def test_the_compiler_overrules_the_estimate(plan, monkeypatch):
  # The estimate refuses this one.
  with pytest.raises(errors.FitRefused, match='about'):
    plan('--remat', 'none')
  monkeypatch.setattr(aot, 'ask', lambda *_: compiled(12 * GIB))
  assert plan('--remat', 'none', '--compile')[0]['compiled']['fits']
  monkeypatch.setattr(aot, 'ask', lambda *_: compiled(18 * GIB))
  with pytest.raises(errors.DoesNotFit, match=r'18\.00 GiB of 15\.75 GiB'):
    plan('--remat', 'full', '--compile')


def test_compile_needs_a_slice(tmp_path):
  (tmp_path / 'fit.json').write_text(json.dumps(FIT))
  argv = ['--fit', str(tmp_path), '--budget', '1e20', '--compile']
  with pytest.raises(errors.ConfigError, match='--compile needs --topology'):
    tool.main(argv)
