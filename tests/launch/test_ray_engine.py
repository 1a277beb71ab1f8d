"""The Ray engine on a real cluster of several nodes on this machine."""

import os
import pathlib
import signal
import time

import fake_trainer
import pytest

from varjax import errors, records
from varjax.launch import manifest, options, policy, ray_engine

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PATIENCE_S = 120


@pytest.fixture(scope='module')
def cluster():
  """A head without CPUs and two nodes with one each."""
  from ray import cluster_utils

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', str(ROOT))
    patch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    made = cluster_utils.Cluster(
      initialize_head=True,
      head_node_args={'num_cpus': 0, 'include_dashboard': False},
    )
    for _ in range(2):
      made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def _run(bench, cluster, file, sweep_dir, *more):
  return bench.run(
    file, sweep_dir, '--engine=ray', f'--ray_address={cluster.address}', *more
  )


@pytest.mark.slow
def test_trials_are_judged_and_retried_like_local_ones(
  bench, cluster, tmp_path
):
  file = bench.named('steady', 'shaky', 'typed', 'killed')
  assert _run(bench, cluster, file, tmp_path, '--retries=2') == 1
  found = {r.name: r for r in records.read(tmp_path / 'records.jsonl')}
  assert {n: r.status for n, r in found.items()} == {
    'steady': 'complete', 'shaky': 'complete', 'typed': 'failed',
    'killed': 'failed',
  }  # fmt: skip
  attempts = {
    path.parent.name.rpartition('-')[0]: int(path.read_text())
    for path in tmp_path.glob('trials/*/attempts')
  }
  assert attempts == {'steady': 1, 'shaky': 3, 'typed': 1, 'killed': 3}
  assert found['typed'].error == 'varjax train: optim.lr=-1: must be positive'
  assert found['killed'].error.startswith('killed by SIGKILL')
  # Bound to as many cores as it has CPUs, told the name of the sweep.
  [log] = tmp_path.glob('trials/steady-*/log.txt')
  last = log.read_text().splitlines()[-1]
  assert last.startswith('cores [')
  assert last.count(',') == 0
  assert last.endswith('sweep ladder')


def _wait(condition):
  deadline = time.monotonic() + _PATIENCE_S
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


def _is_alive(pid):
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return stat.rpartition(')')[2].split()[0] not in 'ZX'


def _parent(pid):
  stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  return int(stat.rpartition(')')[2].split()[1])


@pytest.mark.slow
def test_a_lost_worker_and_a_lost_launcher_lose_nothing(
  bench, cluster, tmp_path, monkeypatch
):
  # The environment of the nodes is that of their start.
  options = ('--engine=ray', f'--ray_address={cluster.address}',
             '--env=FAKE_STEP_S=0.2')  # fmt: skip
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  file = bench.named('one', 'two')
  launcher = bench.start(file, tmp_path, '--backoff_s=0.1', *options)
  _wait(lambda: len(list(tmp_path.glob('trials/*/progress.json'))) == 2)
  running = manifest.running(tmp_path)
  assert len({entry['where'] for entry in running.values()}) == 2
  [pid_file] = tmp_path.glob('trials/one-*/pid')
  trial = int(pid_file.read_text())
  worker = _parent(_parent(trial))
  os.kill(worker, signal.SIGKILL)
  _wait(lambda: not _is_alive(trial))
  _wait(lambda: pid_file.read_text() not in ('', str(trial)))
  launcher.kill()
  launcher.communicate()
  pids = [int(p.read_text()) for p in tmp_path.glob('trials/*/pid')]
  _wait(lambda: not any(map(_is_alive, pids)))
  assert bench.run(file, tmp_path, *options[:2]) == 0
  found = records.read(tmp_path / 'records.jsonl')
  assert [(r.name, r.status) for r in found] == [
    ('one', 'complete'), ('two', 'complete'),
  ]  # fmt: skip
  calm = tmp_path / 'calm'
  assert bench.run(file, calm) == 0
  assert [r.val_loss_nats_per_token for r in found] == [
    r.val_loss_nats_per_token for r in records.read(calm / 'records.jsonl')
  ]


@pytest.mark.slow
def test_sigterm_reaches_the_trials_which_save(
  bench, cluster, tmp_path, monkeypatch
):
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  launcher = bench.start(
    bench.named('one', 'two', 'three'), tmp_path, '--engine=ray',
    f'--ray_address={cluster.address}', '--env=FAKE_STEP_S=0.3',
  )  # fmt: skip
  _wait(lambda: len(list(tmp_path.glob('trials/*/progress.json'))) == 2)
  launcher.send_signal(signal.SIGTERM)
  out = launcher.communicate(timeout=_PATIENCE_S)[0]
  assert launcher.returncode == 128 + signal.SIGTERM, out
  logs = [p.read_text() for p in tmp_path.glob('trials/*/log.txt')]
  assert len(logs) == 2
  assert all('stopped by SIGTERM, saved' in log for log in logs)


@pytest.mark.slow
def test_processes_of_a_trial_each_get_a_node_and_find_each_other(
  bench, cluster, tmp_path
):
  assert _run(bench, cluster, bench.named('gang'), tmp_path,
              '--processes=2') == 0  # fmt: skip
  [workdir] = tmp_path.glob('trials/gang-*')
  fake_trainer.check_gang(workdir, 2)


@pytest.mark.slow
def test_a_trial_on_a_slice_reserves_all_its_hosts(bench, tmp_path):
  """Nodes that say they are TPU hosts; their chips are never used."""
  from ray import cluster_utils

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PYTHONPATH', str(ROOT))
    patch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    # As on GKE: how a node tells which slice it belongs to.
    patch.setenv('TPU_NAME', 'slice-0')
    made = cluster_utils.Cluster(
      initialize_head=True,
      head_node_args={'num_cpus': 0, 'include_dashboard': False},
    )
    try:
      for worker in range(2):
        made.add_node(
          num_cpus=2,
          resources={
            'TPU': 4, **({} if worker else {'TPU-v4-16-head': 1}),
          },
          labels={
            'ray.io/tpu-slice-name': 'slice-0',
            'ray.io/tpu-worker-id': str(worker),
            'ray.io/tpu-pod-type': 'v4-16',
            'ray.io/tpu-topology': '2x2x2',
          },
        )  # fmt: skip
      assert _run(bench, made, bench.named('gang'), tmp_path,
                  '--tpu=v4:2x2x2') == 0  # fmt: skip
    finally:
      made.shutdown()
  [workdir] = tmp_path.glob('trials/gang-*')
  assert len(list(workdir.glob('gang-*.env'))) == 2


def _engine(**values):
  given = {'policy': policy.Policy(), **values}
  return ray_engine.RayEngine.from_options(options.Options(**given))


class _Nodes:
  """As much of Ray as counting nodes takes."""

  def __init__(self, *resources, dead=()):
    self._nodes = [
      {'Alive': i not in dead, 'Resources': r} for i, r in enumerate(resources)
    ]

  def nodes(self):
    return self._nodes

  def remote(self, cls):
    return cls


@pytest.mark.parametrize(
  ('values', 'nodes', 'room'),
  [
    ({}, [{'CPU': 4.0}, {'CPU': 1.0}], 5),
    ({'resources': {'CPU': 2}}, [{'CPU': 5.0}, {'CPU': 1.0}], 2),
    ({'resources': {'GPU': 1}}, [{'CPU': 64.0, 'GPU': 8.0}, {'CPU': 9.0}], 8),
    ({'processes': 2}, [{'CPU': 8.0}, {'CPU': 8.0}, {'CPU': 8.0}], 1),
    # Nothing fits, but one asks, for a cluster that grows on demand.
    ({'resources': {'GPU': 1}}, [{'CPU': 4.0}], 1),
    (
      {'resources': {'TPU': 4, 'TPU-v5litepod-16-head': 1}, 'processes': 2},
      [{'CPU': 9.0, 'TPU': 4.0, 'TPU-v5litepod-16-head': 1.0},
       {'CPU': 9.0, 'TPU': 4.0}],
      1,
    ),
  ],
)  # fmt: skip
def test_as_many_trials_as_the_living_nodes_have_room_for(values, nodes, room):
  class Silent:
    def note(self, text):
      assert 'waiting for one' in text

  dead = {'CPU': 99.0, 'GPU': 99.0}
  ray = _Nodes(*nodes, dead, dead=(len(nodes),))
  host = ray_engine._Cluster(_engine(**values), ray, Silent())
  assert host.slots() == room


def test_accelerator_hosts_are_not_bound_to_cores():
  assert _engine().cores() == 1
  assert _engine(resources={'CPU': 4}).cores() == 4
  assert _engine(resources={'CPU': 0.5}).cores() == 0
  assert _engine(resources={'GPU': 1}).cores() == 0
  assert _engine(pin_cores=False).cores() == 0
  assert _engine(tpu='v5e:4x4').cores() == 0


def test_a_slice_decides_its_processes():
  with pytest.raises(errors.ConfigError, match='decides how many hosts'):
    _engine(tpu='v5e:4x4', processes=4)
  assert 'one v5e:4x4 slice' in _engine(tpu='v5e:4x4').plan([])
  assert '2 x CPU=1, GPU=1' in _engine(resources={'GPU': 1}, processes=2).plan(
    []
  )
