"""A real ladder on a Ray cluster that loses a node, against `local`."""

import pytest
import tiny_ladder
from tiny_ladder import finish, table, varjax, wait_for

from varjax.launch import manifest


@pytest.mark.slow
def test_a_ladder_that_loses_a_node_ends_with_the_records_of_local(
  tmp_path, monkeypatch
):
  from ray import cluster_utils

  sweep = tiny_ladder.write(tmp_path, models=6, steps=40)
  calm, rough = tmp_path / 'calm', tmp_path / 'rough'
  # One core per trial, on both engines.
  finish(varjax('sweep', sweep, '--workdir', calm, '--parallel', '2'))

  for name, value in tiny_ladder.environment().items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
  cluster = cluster_utils.Cluster(
    initialize_head=True,
    head_node_args={'num_cpus': 0, 'include_dashboard': False},
  )
  try:
    nodes = {n.node_id[:8]: n for n in (cluster.add_node(), cluster.add_node())}
    process = varjax(
      'sweep', sweep, '--workdir', rough, '--engine', 'ray',
      '--ray_address', cluster.address, '--backoff_s', '0.1',
    )  # fmt: skip
    _, victim = _wait_for_a_trial_in_the_middle(rough, nodes, process)
    cluster.remove_node(nodes[victim], allow_graceful=False)
    finish(process)
  finally:
    cluster.shutdown()
  assert len(table(calm)) == 6
  assert table(rough) == table(calm)
  logs = [p.read_text() for p in rough.glob('trials/*/log.txt')]
  assert len(logs) == 6
  # The trial of the dead node ran again, and nothing else did.
  assert sum('--- attempt 2' in log for log in logs) == 1


def _wait_for_a_trial_in_the_middle(sweep_dir, nodes, process):
  """(trial, node) of a running trial that has a checkpoint."""
  found = []

  def look():
    if not (sweep_dir / manifest.MANIFEST).is_file():
      return False
    _, trials, _ = manifest.read(sweep_dir)
    running = manifest.running(sweep_dir)
    for trial in trials:
      where = running.get(trial.run_id, {}).get('where') or ''
      begun = list(trial.workdir.glob('checkpoints/[0-9]*'))
      if begun and not trial.records.is_file():
        found.extend((trial, node) for node in nodes if node in where)
    return bool(found)

  wait_for(look, process)
  return found[0]
