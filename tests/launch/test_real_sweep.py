"""A real sweep, killed three times, ends with the undisturbed table."""

import signal

import pytest
from tiny_ladder import checkpoints, finish, table, varjax, wait_for, write


@pytest.mark.slow
def test_kill_9_at_three_moments_gives_the_undisturbed_table(tmp_path):
  sweep = write(tmp_path, models=3)
  calm, rough = tmp_path / 'calm', tmp_path / 'rough'
  finish(varjax('sweep', sweep, '--workdir', calm, '--parallel', '1'))

  moments = (
    # A first checkpoint is there: in the middle of training.
    lambda: checkpoints(rough, 'one'),
    # The first run is complete and merged, the second has begun.
    lambda: checkpoints(rough, 'two'),
    # A record is written, its merge may not be.
    lambda: list(rough.glob('trials/three-*/records.jsonl')),
  )
  for moment in moments:
    process = varjax('sweep', sweep, '--workdir', rough, '--parallel', '1')
    wait_for(moment, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
  finish(varjax('sweep', sweep, '--workdir', rough, '--parallel', '1'))
  assert len(table(calm)) == 3
  assert table(rough) == table(calm)
