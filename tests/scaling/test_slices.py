"""Plans on a slice: device-hours are kept, and what fits is found."""

import dataclasses
import json

import planted
import pytest

from varjax import config, errors, memory, records, topology
from varjax.scaling import ladder, proposal, recipe, slices
from varjax.spec import MeshSpec
from varjax.tools import plan as tool

FIT = {
  'schema': 1, 'kind': 'varjax.fit', 'name': 'L_mean(N, D)',
  'form': 'chinchilla', 'pinned': {}, 'sigma_log': 0.002, 'refusals': [],
  'params': {'E': 5.0, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28},
  'bootstrap': None, 'n_convention': 'body: parameters of the blocks',
  'inputs': {'n': {'max': 3e8}, 'd': {'max': 3e11}},
  'y': {'name': 'L_mean', 'unit': 'nats per token', 'kind': 'loss'},
}  # fmt: skip


@pytest.fixture
def command(tmp_path, capsys):
  (tmp_path / 'fit.json').write_text(json.dumps(FIT))

  def run(*argv):
    out = tmp_path / 'p.json'
    tool.main(['--fit', str(tmp_path), '--json', str(out), *argv])
    return json.loads(out.read_text()), capsys.readouterr().out

  return run


@pytest.fixture(scope='module')
def d30():
  return recipe.var(ladder.of_run(proposal.var_family()).run(30))


@pytest.mark.parametrize('slice_', ['v5p:4x4x4', 'v6e:8x8', 'v4:4x4x4'])
def test_device_hours_are_kept_at_the_roofline(command, slice_):
  found, text = command('--device_hours', '500', '--topology', slice_)
  best, machine = found['best'], found['machine']
  assert 0.97 * 500 < best['cost']['device_hours'] <= 500 * (1 + 1e-9)
  assert machine['mfu_source'] == 'roofline' in text
  assert machine['count'] == topology.parse(slice_).count
  assert machine['mesh'] == {'data': 1, 'fsdp': 64, 'tensor': 1}
  roof = best['cost']['roofline']
  parts = [roof[k] for k in ('compute_s', 'hbm_s', 'link_s')]
  assert best['cost']['step_s'] == pytest.approx(max(parts))
  assert machine['serial_step_s'] == pytest.approx(sum(parts))
  assert machine['assumed']['link_source'] in text
  assert best['cost']['memory_bytes'] < machine['memory_bytes']


def test_a_given_or_measured_mfu_wins(command, tmp_path):
  argv = ('--budget', '1e20', '--topology', 'h100:8', '--remat', 'full')
  found, _ = command(*argv, '--mfu', '0.3')
  assert found['machine']['mfu'] == 0.3
  assert found['machine']['mfu_source'] == 'given'
  best = found['best']
  speed = best['flops_train'] / best['steps'] / best['cost']['step_s']
  assert speed == pytest.approx(8 * 989e12 * 0.3)
  file = tmp_path / 'records.jsonl'
  kind = 'NVIDIA H100 80GB HBM3'
  text = config.to_json(proposal.var_family())
  for depth in (4, 6):
    run = planted.run(
      depth, device_kind=kind, mfu=0.05 * depth, config_json=text
    )
    records.append(file, run)
  found, _ = command(*argv, '--records', str(file), '--extrapolate')
  assert found['machine']['mfu'] == pytest.approx(0.3)
  assert found['machine']['mfu_source'].startswith('measured in')
  found, _ = command(
    '--budget', '1e18', '--topology', 'v5e:4x4', '--records', str(file),
    '--extrapolate',
  )  # fmt: skip
  assert 'hold no run on v5e' in found['machine']['mfu_source']


def test_what_does_not_fit_is_refused_with_what_does(command):
  with pytest.raises(errors.FitRefused, match='--mesh 1,16,1 --remat full'):
    command('--device_hours', '2000', '--topology', 'v5e:4x4')
  found, _ = command(
    '--device_hours', '2000', '--topology', 'v5e:4x4', '--mesh', '1,16,1',
    '--remat', 'full',
  )  # fmt: skip
  assert found['best']['cost']['memory_bytes'] <= 16 * 2**30


def test_the_suggestion_fits_and_changes_as_little_as_it_can(d30):
  slice_ = topology.parse('h100:8')
  copies = dataclasses.replace(d30, mesh=MeshSpec(8, 1, 1))
  found = slices.suggest(copies, slice_)
  assert found.mesh == MeshSpec(1, 8, 1)
  assert found.optim.accumulate == 1
  assert memory.memory_estimate(found, 8).total <= 80e9
  assert slices.suggest(d30, topology.parse('v5e:1x1')) is None
  slices.check_memory(found, slice_)
  with pytest.raises(errors.FitRefused, match='larger slice'):
    slices.check_memory(d30, topology.parse('v5e:1x1'))


def test_arguments_that_contradict_are_refused(command):
  with pytest.raises(errors.ConfigError, match='give --topology, or'):
    command('--budget', '1e20', '--topology', 'h100:8', '--device', 'h100')
  with pytest.raises(errors.ConfigError, match='must be positive'):
    command('--device_hours', '-1', '--topology', 'h100:8')
  with pytest.raises(errors.ConfigError, match='write data,fsdp,tensor'):
    command('--budget', '1e20', '--topology', 'h100:8', '--mesh', '8')
  with pytest.raises(errors.ConfigError, match='pass --mesh 1,-1,1'):
    command('--budget', '1e20', '--topology', 'h100:8', '--mesh', '1,3,1')
