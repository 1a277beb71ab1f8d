"""Faults of files: what lies damaged or is gone when a sweep goes on."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import time

from soak_scene import Harm, Scene
from soak_signals import DIED
from soak_world import NAMES, Trial


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
  return Harm('a lock of another machine at rest', DIED.replace(r'\d+', '1'))
