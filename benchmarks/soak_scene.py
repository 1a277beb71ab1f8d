"""A sweep under attack, and the moments to wait for.

A fault of soak.py gets a `Scene`, does its harm at a random moment and
returns what it did, or None when the sweep had ended before the moment came.
It says what a person must be able to read about it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import pathlib
import random
import re
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


Fault = Callable[[Scene], Harm | None]


def at_random(scene: Scene, trial: Trial) -> str | None:
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


def while_writing(scene: Scene, trial: Trial) -> str | None:
  """Waits until a checkpoint of the trial is half written."""
  skip = scene.rng.randrange(0, 4)
  if not wait_until(lambda: len(trial.checkpoints()) >= skip, scene.launcher):
    return None
  done = trial.checkpoints()[-1:]
  if not wait_until(trial.is_writing, scene.launcher, 60.0):
    return None
  return f'while writing the checkpoint after {done[0] if done else "none"}'


def wait_for_word(scene: Scene, pattern: str) -> None:
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


def relaunch_if_failed(scene: Scene) -> None:
  if not scene.launcher.is_alive() and scene.launcher.wait() != 0:
    scene.relaunch()
