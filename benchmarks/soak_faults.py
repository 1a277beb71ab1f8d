"""The faults of soak.py by name, and how often each is dealt.

Those of processes are in soak_signals.py, those of files in soak_damage.py;
here are those of the machine around them: its disk and its data source.
"""

from __future__ import annotations

import contextlib
import os

import soak_damage as damage
from soak_scene import (
  Fault,
  Harm,
  Scene,
  at_random,
  relaunch_if_failed,
  wait_for_word,
)
import soak_signals as signals

_FULL = r'No space left on device|could not be written'
_HUNG = r'gave no batch for data_timeout_s'


def full_disk(scene: Scene) -> Harm | None:
  """Fills the disk in the middle, and frees it when the sweep has ended."""
  trial = scene.trial()
  moment = at_random(scene, trial)
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
    wait_for_word(scene, _FULL)
  finally:
    filler.unlink()
  relaunch_if_failed(scene)
  return Harm(f'{moment}, {left} bytes left', _FULL)


def hung_data(scene: Scene) -> Harm | None:
  """No batch comes any more, as from a mount that has gone."""
  moment = at_random(scene, scene.trial())
  if moment is None:
    return None
  scene.world.hang.touch()
  try:
    wait_for_word(scene, _HUNG)
  finally:
    scene.world.hang.unlink()
  relaunch_if_failed(scene)
  return Harm(moment, _HUNG)


# How often each is dealt in a deck of 60.
FAULTS: dict[str, tuple[Fault, int]] = {
  'kill -9 a trial': (signals.kill_trial, 8),
  'SIGTERM to a trial': (signals.sigterm_trial, 5),
  'kill -9 in a checkpoint write': (signals.kill_in_checkpoint, 6),
  'SIGTERM in a checkpoint write': (signals.sigterm_in_checkpoint, 4),
  'kill -9 the launcher': (signals.kill_launcher, 5),
  'SIGTERM to the launcher': (signals.sigterm_launcher, 4),
  'kill -9 between record and merge': (signals.kill_launcher_before_merge, 4),
  'a second launcher': (signals.second_launcher, 3),
  'corrupt checkpoint step': (damage.corrupt_checkpoint, 4),
  'missing checkpoint step': (damage.missing_checkpoint, 2),
  'corrupt code shard': (damage.corrupt_codes, 3),
  'torn record and progress': (damage.torn_record, 2),
  'full disk': (full_disk, 3),
  'hung data source': (hung_data, 2),
  'hung trial': (signals.hung_trial, 1),
  'clock skew': (damage.clock_skew, 2),
  'stale lock of another machine': (damage.foreign_lock, 2),
}
