"""Faults of processes: trials and launchers that are signalled or doubled."""

from __future__ import annotations

import os
import signal

from soak_scene import Harm, Scene, at_random, while_writing
from soak_world import Launcher, wait_until

# What the launcher says that comes after one that has died.
DIED = r'launcher before this one \(process \d+.*ended without letting go'


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
  return _hit(scene, signal.SIGTERM, at_random,
              r'stopped by SIGTERM|killed by SIGTERM')  # fmt: skip


def kill_trial(scene: Scene) -> Harm | None:
  return _hit(scene, signal.SIGKILL, at_random, r'killed by SIGKILL')


def sigterm_in_checkpoint(scene: Scene) -> Harm | None:
  return _hit(scene, signal.SIGTERM, while_writing, r'stopped by SIGTERM')


def kill_in_checkpoint(scene: Scene) -> Harm | None:
  return _hit(scene, signal.SIGKILL, while_writing, r'killed by SIGKILL')


def sigterm_launcher(scene: Scene) -> Harm | None:
  moment = at_random(scene, scene.trial())
  if moment is None or not scene.launcher.is_alive():
    return None
  scene.launcher.process.send_signal(signal.SIGTERM)
  scene.launcher.wait()
  scene.relaunch()
  return Harm(moment, r'SIGTERM: waiting for \d+ trials? to save and exit')


def kill_launcher(scene: Scene) -> Harm | None:
  moment = at_random(scene, scene.trial())
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
  return Harm(moment, DIED)


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
