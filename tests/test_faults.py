"""Machines that fail: what is said, and that the same command resumes.

Every run that was disturbed must end with the numbers of the one that was
not, bit for bit where the number of processes is the same.
"""

import re
import shutil

from faults import runs, storage
from faults.group import Group
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from varjax import checkpoint, cli, errors, explain, records, step
from varjax.data.watchdog import Watchdog
from varjax.runs import resolve
from varjax.workdir import Workdir

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  return runs.write_world(tmp_path_factory.mktemp('world'))


@pytest.fixture(scope='module')
def alone(world, tmp_path_factory):
  """One process that nothing disturbs: its record and workdir."""
  path = tmp_path_factory.mktemp('alone')
  return tiny.run_to_end(runs.small_run(world), path), path


def _assert_same(path, alone):
  """A resumed run ended as the undisturbed one did."""
  record = records.read(path / 'records.jsonl')
  assert len(record) == 1
  want, whole = alone
  assert record[0].val_loss_nats_per_token == want.val_loss_nats_per_token
  assert runs.losses(path) == runs.losses(whole)
  jax.tree.map(
    np.testing.assert_array_equal,
    *(checkpoint.load_params(p, ('params',)) for p in (path, whole)),
  )


def test_the_record_says_where_the_time_went(alone):
  record = alone[0]
  phases = ('setup', 'compile', 'data', 'step', 'evaluate', 'checkpoint')
  seconds = [getattr(record, f'{phase}_s') for phase in phases]
  assert all(value > 0 for value in seconds)
  assert record.restart_s == 0
  assert sum(seconds) <= record.wall_s
  # Of the time that the host spent taking batches, what the devices idled.
  loop = record.data_s + record.step_s
  assert 0 <= record.data_stall <= record.data_s / loop
  assert 0 <= record.eval_data_stall <= 1
  # The clock goes on between the two columns.
  share = record.step_s / record.wall_s
  assert record.goodput == pytest.approx(share, rel=1e-2)
  assert 0 <= record.compile_cache_hits <= record.compile_cache_requests
  assert record.compile_cache_requests > 0


@pytest.mark.parametrize('room', [400, 15_000])
def test_full_disk(world, alone, tmp_path, room):
  """With room for no log line, or for logs but no checkpoint."""
  run = runs.small_run(world)
  Workdir(tmp_path / 'run').claim(run, resolve(run).run_id)
  with storage.full_disk(room), pytest.raises(errors.NotWritten) as caught:
    tiny.run_to_end(run, tmp_path / 'run')
  said = str(caught.value)
  assert 'make room' in said
  assert str(tmp_path) in said
  assert '\n' not in said
  assert errors.NotWritten.exit_code == 75
  tiny.run_to_end(run, tmp_path / 'run')
  _assert_same(tmp_path / 'run', alone)


def test_full_disk_from_the_start(world, tmp_path, capsys):
  command = runs.command(world, tmp_path)
  with storage.full_disk(100):
    assert cli.main(command) == errors.NotWritten.exit_code
  said = capsys.readouterr().err
  assert re.fullmatch(r'varjax train: .*not be written.*make room.*\n', said)


@pytest.mark.parametrize('damage', [storage.flip_bit, shutil.rmtree])
def test_last_checkpoint_is_lost(world, alone, tmp_path, damage, capsys):
  path = tmp_path / 'run'
  shutil.copytree(alone[1], path)
  (path / 'records.jsonl').unlink()
  newest = path / 'checkpoints' / str(runs.STEPS)
  if damage is shutil.rmtree:
    damage(newest)
  else:
    damage(storage.largest_file(newest / 'state'))
  record = tiny.run_to_end(runs.small_run(world), path)
  if damage is not shutil.rmtree:
    assert 'continuing from step 4' in capsys.readouterr().out
  assert record.restarts == 1
  assert record.restart_s > 0
  _assert_same(path, alone)


def test_out_of_memory_names_what_would_help(world, tmp_path, monkeypatch):
  """A real refusal of the allocator, where the step would be."""

  def greedy(*_):
    return lambda *_: jax.jit(lambda: jnp.zeros((1 << 50,), jnp.uint8))()

  monkeypatch.setattr(step.Program, 'jitted', greedy)
  with pytest.raises(errors.DoesNotFit) as caught:
    tiny.run_to_end(runs.small_run(world), tmp_path / 'run')
  said = str(caught.value)
  for key in ('model.remat=light', 'optim.accumulate=2', 'mesh.fsdp=-1',
              'batch_size=4'):  # fmt: skip
    assert f'--config.{key}' in said
  assert '\n' not in said
  profile = tmp_path / 'run' / explain.MEMORY_PROFILE
  assert str(profile) in said
  assert profile.stat().st_size > 0


def test_other_defects_keep_their_traceback(world, tmp_path):
  run = runs.small_run(world)
  with pytest.raises(ZeroDivisionError), explain.failures(run, tmp_path):
    raise ZeroDivisionError
  with pytest.raises(FileNotFoundError), explain.failures(run, tmp_path):
    (tmp_path / 'nothing').read_text()


# --- data that does not come --------------------------------------------------


def test_the_watchdog_changes_nothing_else():
  def failing():
    yield 1
    raise ValueError('corrupt')

  iterator = failing()
  dog = Watchdog(30.0, 'x')
  assert dog.take(iterator) == 1
  with pytest.raises(ValueError, match='corrupt'):
    dog.take(iterator)
  with pytest.raises(StopIteration):
    dog.take(iterator)
  assert Watchdog(0.0, 'x').take(iter([5])) == 5


@pytest.mark.slow
def test_a_run_on_a_hung_source_ends_and_resumes(world, alone, tmp_path):
  command = runs.command(world, tmp_path, data_timeout_s=4.0)
  with Group(['hang@3'], command, tmp_path) as one:
    assert one.wait() == [75]
    assert f'codes_dir={world[2]}: gave no batch' in one.said(0)
    assert 'Traceback' not in one.said(0)
  assert cli.main(command) == 0
  # The worker compiled without optimisation, which rounds differently.
  mine, theirs = runs.losses(tmp_path / 'run'), runs.losses(alone[1])
  assert list(mine) == list(theirs)
  assert list(mine.values()) == pytest.approx(list(theirs.values()), rel=1e-5)


# --- two processes ------------------------------------------------------------


def test_two_stop_together_and_one_goes_on(world, alone, tmp_path):
  """SIGTERM to one stops both at one update; one process resumes alone."""
  with Group(
    ['none', 'term@3'], runs.command(world, tmp_path), tmp_path
  ) as pair:
    assert pair.wait() == [143, 143], pair.said(0) + pair.said(1)
    assert 'stopped by SIGTERM' in pair.said(1)
    assert 'a signal to another process' in pair.said(0)
  saved = checkpoint.latest_step(tmp_path / 'run')
  assert 3 <= saved < 6
  assert not (tmp_path / 'run' / 'records.jsonl').exists()
  again = tiny.run_to_end(runs.small_run(world), tmp_path / 'run')
  record, path = alone
  assert again.restarts == 1
  assert again.images_seen == record.images_seen
  assert again.val_images == record.val_images == 12
  assert again.val_loss_nats_per_token == pytest.approx(
    record.val_loss_nats_per_token, rel=1e-5
  )
  mine, theirs = runs.losses(tmp_path / 'run'), runs.losses(path)
  assert list(mine) == list(theirs) == [1, 2, 3, 4, 5, 6]
  assert list(mine.values()) == pytest.approx(list(theirs.values()), rel=1e-5)


@pytest.mark.slow
def test_one_of_two_dies_and_the_pair_resumes_bit_for_bit(world, tmp_path):
  command = runs.command(world, tmp_path / 'whole')
  with Group(['none', 'none'], command, tmp_path / 'whole') as pair:
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    assert 'complete' in pair.said(0)
    # The other says nothing; the lines are those of the CPU's collectives.
    assert all('[Gloo]' in line for line in pair.said(1).splitlines())
  command = runs.command(world, tmp_path / 'cut')
  with Group(['none', 'kill@4'], command, tmp_path / 'cut') as pair:
    assert pair.wait() == [75, -9], pair.said(0)
    assert 'another process is gone' in pair.said(0)
    assert 'Traceback' not in pair.said(0)
  with Group(['none', 'none'], command, tmp_path / 'cut') as pair:
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
  whole, cut = tmp_path / 'whole' / 'run', tmp_path / 'cut' / 'run'
  assert runs.losses(whole) == runs.losses(cut)
  found = [records.read(path / 'records.jsonl') for path in (whole, cut)]
  assert [len(f) for f in found] == [1, 1]
  assert (
    found[0][0].val_loss_nats_per_token == found[1][0].val_loss_nats_per_token
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    *(checkpoint.load_params(path, ('params',)) for path in (whole, cut)),
  )


@pytest.mark.slow
def test_two_resume_what_one_began(world, alone, tmp_path):
  command = runs.command(world, tmp_path)
  with Group(['term@3'], command, tmp_path) as one:
    assert one.wait() == [143], one.said(0)
  with Group(['none', 'none'], command, tmp_path) as pair:
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
  record = records.read(tmp_path / 'run' / 'records.jsonl')[-1]
  assert record.restarts == 1
  assert record.device_count == 2
  assert record.val_loss_nats_per_token == pytest.approx(
    alone[0].val_loss_nats_per_token, rel=1e-5
  )
