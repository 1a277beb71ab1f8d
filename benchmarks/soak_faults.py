"""The faults of soak.py: each disturbs a sweep that runs, or one at rest.

A fault gets a `Scene`, does its harm at a random moment and returns what it
did, or None when the sweep had ended before the moment came. It says what a
person must be able to read about it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import time

from soak_world import NAMES, Launcher, Trial, World, wait_until


@dataclasses.dataclass
class Scene:
  """A sweep under attack.

  Attributes:
    world: of the soak.
    sweep_dir: of the round.
    rng: of the fault.
    launcher: running, or just ended.
    said: output of the launchers of this round that have ended.
  """

  world: World
  sweep_dir: pathlib.Path
  rng: random.Random
  launcher: Launcher
  said: list[str] = dataclasses.field(default_factory=list)

  def trial(self) -> Trial:
    """One that has not left a record, by chance."""
    left = [
      t for name in NAMES if not (t := Trial(name, self.sweep_dir)).has_record()
    ]
    return self.rng.choice(left or [Trial(NAMES[0], self.sweep_dir)])

  def relaunch(self, *options: str, **inject: float) -> None:
    """Runs the same command again."""
    assert not self.launcher.is_alive()
    self.said.append(self.launcher.text())
    self.launcher = Launcher(self.world, self.sweep_dir, *options, **inject)

  def rest(self) -> bool:
    """Stops the sweep in the middle, with two checkpoints of some trial."""
    trial = self.trial()
    if not wait_until(
      lambda: len(trial.checkpoints()) >= 2 and trial.pid(), self.launcher
    ):
      return False
    time.sleep(self.rng.uniform(0, 1.0))
    self.launcher.process.send_signal(signal.SIGTERM)
    self.launcher.wait()
    return not all(Trial(n, self.sweep_dir).has_record() for n in NAMES)

  def everything_said(self) -> str:
    logs = [Trial(name, self.sweep_dir).log() for name in NAMES]
    return '\n'.join([*self.said, self.launcher.text(), *logs])


@dataclasses.dataclass(frozen=True)
class Harm:
  """What was done.

  Attributes:
    moment: when, for a person.
    message: pattern of a line that must be said about it; '' where a
      correct program has nothing to say.
    said: the line itself, where the fault has already seen it.
  """

  moment: str
  message: str = ''
  said: str = ''


_FULL = r'No space left on device|could not be written'
_HUNG = r'gave no batch for data_timeout_s'
_DIED = r'launcher before this one \(process \d+.*ended without letting go'

Fault = Callable[[Scene], Harm | None]


def _at_random(scene: Scene, trial: Trial) -> str | None:
  """Waits for a random moment in the life of a trial; what moment it was."""
  if not wait_until(lambda: trial.pid() is not None, scene.launcher):
    return None
  if scene.rng.random() < 0.3:
    delay = scene.rng.uniform(0.0, 4.0)
    time.sleep(delay)
    moment = f'{delay:.1f} s after its start'
  else:
    before = trial.step()
    step = scene.rng.randrange(min(before + 2, 36), 38, 2)
    if not wait_until(lambda: trial.step() >= step, scene.launcher):
      return None
    time.sleep(scene.rng.uniform(0.0, 0.2))
    moment = f'after update {trial.step()}'
  if trial.has_record() or trial.pid() is None:
    return None
  return moment


def _while_writing(scene: Scene, trial: Trial) -> str | None:
  """Waits until a checkpoint of the trial is half written."""
  skip = scene.rng.randrange(0, 4)
  if not wait_until(lambda: len(trial.checkpoints()) >= skip, scene.launcher):
    return None
  done = trial.checkpoints()[-1:]
  if not wait_until(trial.is_writing, scene.launcher, 60.0):
    return None
  return f'while writing the checkpoint after {done[0] if done else "none"}'


def _hit(scene: Scene, number: int, wait, message: str) -> Harm | None:
  """Sends a signal to a trial at the moment that `wait` waits for."""
  trial = scene.trial()
  moment = wait(scene, trial)
  pid = trial.pid()
  if moment is None or pid is None:
    return None
  try:
    os.kill(pid, number)
  except ProcessLookupError:
    return None
  # It may save first; the next fault must not end that, or nobody could tell
  # which of the two was spoken about.
  wait_until(lambda: trial.pid() != pid, scene.launcher, 120.0)
  return Harm(f'{trial.name}: {moment}', message)


def sigterm_trial(scene: Scene) -> Harm | None:
  # A process that Python has not come up in yet dies of the signal.
  return _hit(scene, signal.SIGTERM, _at_random,
              r'stopped by SIGTERM|killed by SIGTERM')  # fmt: skip


def kill_trial(scene: Scene) -> Harm | None:
  return _hit(scene, signal.SIGKILL, _at_random, r'killed by SIGKILL')


def sigterm_in_checkpoint(scene: Scene) -> Harm | None:
  return _hit(scene, signal.SIGTERM, _while_writing, r'stopped by SIGTERM')


def kill_in_checkpoint(scene: Scene) -> Harm | None:
  return _hit(scene, signal.SIGKILL, _while_writing, r'killed by SIGKILL')


def sigterm_launcher(scene: Scene) -> Harm | None:
  moment = _at_random(scene, scene.trial())
  if moment is None or not scene.launcher.is_alive():
    return None
  scene.launcher.process.send_signal(signal.SIGTERM)
  scene.launcher.wait()
  scene.relaunch()
  return Harm(moment, r'SIGTERM: waiting for \d+ trials? to save and exit')


def kill_launcher(scene: Scene) -> Harm | None:
  moment = _at_random(scene, scene.trial())
  return _kill_and_relaunch(scene, moment)


def kill_launcher_before_merge(scene: Scene) -> Harm | None:
  trial = scene.trial()
  if not wait_until(trial.has_record, scene.launcher):
    return None
  return _kill_and_relaunch(scene, f'{trial.name} has left its record')


def _kill_and_relaunch(scene: Scene, moment: str | None) -> Harm | None:
  if moment is None or not scene.launcher.is_alive():
    return None
  scene.launcher.process.kill()
  scene.launcher.wait()
  scene.relaunch()
  # The dead say nothing; the next one tells what it found.
  return Harm(moment, _DIED)


def second_launcher(scene: Scene) -> Harm | None:
  trial = scene.trial()
  if not wait_until(lambda: trial.step() > 0, scene.launcher):
    return None
  rival = Launcher(scene.world, scene.sweep_dir)
  code = rival.wait()
  said = rival.text().strip()
  if code == 0 and 'already complete' in said:
    return None  # the first one had ended meanwhile
  assert code == 2, said
  return Harm(f'{trial.name} trains', r'another launcher \(process \d+\) runs',
              said.splitlines()[-1])  # fmt: skip


def corrupt_checkpoint(scene: Scene) -> Harm | None:
  """Flips bytes of the newest step, or cuts or removes one of its files."""
  found = _newest_step(scene)
  if found is None:
    return None
  trial, step, folder = found
  # The largest holds weights; orbax leaves smaller ones that nobody reads.
  files = [p for p in sorted(folder.rglob('*')) if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  how = scene.rng.choice(['flipped', 'cut', 'removed'])
  content = bytearray(path.read_bytes())
  if how == 'flipped':
    for _ in range(16):
      content[scene.rng.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)
  elif how == 'cut':
    path.write_bytes(content[: len(content) // 2])
  else:
    path.unlink()
  scene.relaunch()
  return Harm(f'{trial.name}: {how} a file of step {step} at rest',
              rf'checkpoint .*{step} cannot be read')  # fmt: skip


def missing_checkpoint(scene: Scene) -> Harm | None:
  found = _newest_step(scene)
  if found is None:
    return None
  trial, step, folder = found
  shutil.rmtree(folder)
  scene.relaunch()
  # An older step is the newest now; there is nothing to say about it.
  return Harm(f'{trial.name}: removed step {step} at rest')


def _newest_step(scene: Scene) -> tuple[Trial, int, pathlib.Path] | None:
  if not scene.rest():
    return None
  for name in NAMES:
    trial = Trial(name, scene.sweep_dir)
    steps = trial.checkpoints()
    if len(steps) >= 2 and not trial.has_record():
      assert trial.folder is not None
      return trial, steps[-1], trial.folder / 'checkpoints' / str(steps[-1])
  scene.relaunch()
  return None


def corrupt_codes(scene: Scene) -> Harm | None:
  """Damages the shared codes while the sweep rests, and mends them."""
  if not scene.rest():
    return None
  files = sorted(
    p for p in scene.world.codes.rglob('*')
    if p.is_file() and p.suffix != '.json' and p.stat().st_size > 64
  )  # fmt: skip
  path = scene.rng.choice(files)
  whole = path.read_bytes()
  content = bytearray(whole)
  for _ in range(16):
    content[scene.rng.randrange(len(content))] ^= 0xFF
  try:
    path.write_bytes(content)
    scene.relaunch()
    code = scene.launcher.wait()
    said = scene.launcher.text().strip().splitlines()[-1]
    assert code != 0, 'ran on damaged codes'
  finally:
    path.write_bytes(whole)
  scene.relaunch()
  return Harm(f'{path.name} at rest', r'codes', said)


def torn_record(scene: Scene) -> Harm | None:
  """What a kill in the middle of writing a record leaves."""
  if not scene.rest():
    return None
  trial = scene.trial()
  assert trial.folder is not None
  line = '{"schema": 1, "run_id": "' + trial.folder.name[-12:] + '", "sta'
  with open(trial.folder / 'records.jsonl', 'a') as file:
    file.write(line)
  (trial.folder / 'progress.json').write_text('{"step": 1')
  scene.relaunch()
  return Harm(f'{trial.name}: half a line at rest')


def full_disk(scene: Scene) -> Harm | None:
  """Fills the disk in the middle, and frees it when the sweep has ended."""
  trial = scene.trial()
  moment = _at_random(scene, trial)
  if moment is None:
    return None
  filler = scene.sweep_dir / 'filler'
  left = scene.rng.choice([0, 0, 65536])
  with contextlib.suppress(OSError), open(filler, 'wb', buffering=0) as file:
    while True:
      file.write(bytes(65536))
  if left:
    os.truncate(filler, max(0, filler.stat().st_size - left))
  try:
    _wait_for_word(scene, _FULL)
  finally:
    filler.unlink()
  _relaunch_if_failed(scene)
  return Harm(f'{moment}, {left} bytes left', _FULL)


def hung_data(scene: Scene) -> Harm | None:
  """No batch comes any more, as from a mount that has gone."""
  moment = _at_random(scene, scene.trial())
  if moment is None:
    return None
  scene.world.hang.touch()
  try:
    _wait_for_word(scene, _HUNG)
  finally:
    scene.world.hang.unlink()
  _relaunch_if_failed(scene)
  return Harm(moment, _HUNG)


def _wait_for_word(scene: Scene, pattern: str) -> None:
  """Waits until something is said, or the sweep has ended."""
  before = len(re.findall(pattern, scene.everything_said()))
  wait_until(
    lambda: (
      time.sleep(0.3)
      or len(re.findall(pattern, scene.everything_said())) > before
    ),
    scene.launcher,
    240.0,
  )


def _relaunch_if_failed(scene: Scene) -> None:
  if not scene.launcher.is_alive() and scene.launcher.wait() != 0:
    scene.relaunch()


def hung_trial(scene: Scene) -> Harm | None:
  """Stops a trial as a stuck file system would; the launcher notices."""
  if not scene.rest():
    return None
  scene.relaunch('--silent_s=150', '--restart_stragglers', '--grace_s=1')
  trial = scene.trial()
  before = trial.step()
  if not wait_until(lambda: trial.step() > before, scene.launcher):
    return None
  pid = trial.pid()
  if pid is None:
    return None
  os.kill(pid, signal.SIGSTOP)
  moment = f'{trial.name}: stands still after update {trial.step()}'
  wait_until(lambda: trial.pid() not in (pid, None), scene.launcher)
  return Harm(moment, r'straggler restarted: has made no progress for')


def clock_skew(scene: Scene) -> Harm | None:
  """Goes on with a clock that is wrong by days, in files' times as well."""
  if not scene.rest():
    return None
  skew = scene.rng.choice([-1, 1]) * scene.rng.uniform(1, 400) * 86400
  then = time.time() + skew
  for path in scene.sweep_dir.rglob('*'):
    if path.is_file():
      os.utime(path, (then, then))
  scene.relaunch(clock_s=-skew)
  return Harm(f'by {-skew / 86400:+.0f} days, files by {skew / 86400:+.0f}')


def foreign_lock(scene: Scene) -> Harm | None:
  """As if the launcher had been killed on another machine."""
  if not scene.rest():
    return None
  owner = {'host': 'elsewhere', 'boot': 'b', 'pid': 1, 'token': 't'}
  (scene.sweep_dir / 'sweep.lock').write_text(json.dumps(owner) + '\n')
  (scene.sweep_dir / 'sweep.beat').write_text('t 7\n')
  scene.relaunch()
  return Harm('a lock of another machine at rest', _DIED.replace(r'\d+', '1'))


# How often each is dealt in a deck of 60.
FAULTS: dict[str, tuple[Fault, int]] = {
  'kill -9 a trial': (kill_trial, 8),
  'SIGTERM to a trial': (sigterm_trial, 5),
  'kill -9 in a checkpoint write': (kill_in_checkpoint, 6),
  'SIGTERM in a checkpoint write': (sigterm_in_checkpoint, 4),
  'kill -9 the launcher': (kill_launcher, 5),
  'SIGTERM to the launcher': (sigterm_launcher, 4),
  'kill -9 between record and merge': (kill_launcher_before_merge, 4),
  'a second launcher': (second_launcher, 3),
  'corrupt checkpoint step': (corrupt_checkpoint, 4),
  'missing checkpoint step': (missing_checkpoint, 2),
  'corrupt code shard': (corrupt_codes, 3),
  'torn record and progress': (torn_record, 2),
  'full disk': (full_disk, 3),
  'hung data source': (hung_data, 2),
  'hung trial': (hung_trial, 1),
  'clock skew': (clock_skew, 2),
  'stale lock of another machine': (foreign_lock, 2),
}
