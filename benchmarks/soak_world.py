"""The small world of soak.py: a sweep of two runs, and one that runs it.

Real tokenizer, codes and runs of real `varjax` processes; the runs sleep a
little in every update, so that there is time to disturb them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = ROOT / 'tests'
NAMES = ('one', 'two')
STEPS = 40
# A trial that a fault ends is tried again at once, and often enough.
_PATIENT = ('--parallel=2', '--retries=30', '--backoff_s=0.1',
            '--config.data_timeout_s=20')  # fmt: skip

_EXPERIMENT = """
import json
import os
import pathlib
import time

import tiny
from varjax import config, progress
from varjax.data import pipeline

_inject = json.loads(os.environ.get('SOAK_INJECT', '{{}}'))

if _inject and not hasattr(progress.Progress, 'disturbed'):
  update, now = progress.Progress.update, time.time
  following = pipeline.TrainBatches.__next__

  def slow_update(self, step, loss=None):
    time.sleep(_inject['step_s'])
    update(self, step, loss)

  def next_that_hangs(self):
    while os.path.exists(_inject['hang']):
      time.sleep(0.1)
    return following(self)

  progress.Progress.update = slow_update
  pipeline.TrainBatches.__next__ = next_that_hangs
  progress.Progress.disturbed = True
  time.time = lambda: now() + _inject['clock_s']


def get_config(arg):
  arg = config.parse_arg(arg, lr=0.01)
  run = tiny.var_run(*map(pathlib.Path, {places!r}), **{{
    'model.depth': 1, 'optim.lr': arg.lr, 'total.steps': {steps},
    'evaluate.steps': 20, 'checkpoint.steps': 4,
  }})
  return config.as_config(run)
"""

_TOKENIZER = """
import pathlib
import tiny
from varjax import config

def get_config(arg):
  return config.as_config(tiny.tokenizer_run(pathlib.Path({images!r})))
"""

_SWEEP = """
def get_hyper(hyper):
  return hyper.zipit(
    hyper.sweep('config', [f'{experiment}:lr={{r}}' for r in (0.01, 0.02)]),
    hyper.sweep('name', {names!r}),
  )
"""


@dataclasses.dataclass
class World:
  """Paths; everything below `root` can be made again."""

  root: pathlib.Path

  @property
  def sweep(self) -> pathlib.Path:
    return self.root / 'ladder.py'

  @property
  def codes(self) -> pathlib.Path:
    return self.root / 'codes'

  @property
  def hang(self) -> pathlib.Path:
    """While this file is there, no run gets a batch."""
    return self.root / 'hang'

  def build(self) -> None:
    """Images, tokenizer, codes and the sweep file, where they are not yet."""
    if self.sweep.is_file():
      return
    sys.path.insert(0, str(TESTS))
    import tiny

    self.root.mkdir(parents=True, exist_ok=True)
    images = tiny.write_images(self.root / 'images')
    tokenizer = self.root / 'tok'
    file = self.root / 'tok.py'
    file.write_text(_TOKENIZER.format(images=str(images)))
    self._varjax('train', '--config', file, '--workdir', tokenizer)
    self._varjax('encode', '--tokenizer', tokenizer, '--out', self.codes)
    places = [str(images), str(tokenizer), str(self.codes)]
    experiment = self.root / 'exp.py'
    experiment.write_text(_EXPERIMENT.format(places=places, steps=STEPS))
    self.sweep.write_text(
      _SWEEP.format(experiment=experiment, names=list(NAMES))
    )

  def environment(self, **inject: float) -> dict[str, str]:
    """One device, one compile cache, and what the experiment injects."""
    return {
      **os.environ,
      'PYTHONPATH': os.pathsep.join([str(ROOT), str(TESTS)]),
      'XLA_FLAGS': '',
      'JAX_PLATFORMS': 'cpu',
      'VARJAX_CACHE': str(self.root / 'cache'),
      'SOAK_INJECT': json.dumps(
        {'step_s': 0.1, 'clock_s': 0.0, 'hang': str(self.hang), **inject}
      ),
    }

  def _varjax(self, *argv: object) -> None:
    subprocess.run(
      [sys.executable, '-m', 'varjax', *map(str, argv)],
      env=self.environment(), cwd=ROOT, check=True,
      stdout=subprocess.DEVNULL,
    )  # fmt: skip


class Launcher:
  """One `varjax sweep` process; what it says goes to a file of its own.

  The file lies outside the sweep directory, whose disk may be full.
  """

  count = 0

  def __init__(
    self, world: World, sweep_dir: pathlib.Path, *options: str, **inject: float
  ):
    Launcher.count += 1
    self.sweep_dir = sweep_dir
    self._out = world.root / f'launcher-{os.getpid()}-{Launcher.count}.txt'
    with open(self._out, 'wb') as out:
      self.process = subprocess.Popen(
        [sys.executable, '-m', 'varjax', 'sweep', str(world.sweep),
         '--workdir', str(sweep_dir), *_PATIENT, *options],
        env=world.environment(**inject), cwd=ROOT, stdout=out,
        stderr=subprocess.STDOUT, start_new_session=True,
      )  # fmt: skip

  def text(self) -> str:
    return self._out.read_text(errors='replace')

  def is_alive(self) -> bool:
    return self.process.poll() is None

  def wait(self, timeout_s: float = 600.0) -> int:
    return self.process.wait(timeout_s)


@dataclasses.dataclass
class Trial:
  """What can be seen of a trial from outside."""

  name: str
  sweep_dir: pathlib.Path

  @property
  def folder(self) -> pathlib.Path | None:
    return next(iter(self.sweep_dir.glob(f'trials/{self.name}-*')), None)

  def pid(self) -> int | None:
    """Of its process, as the launcher tells."""
    running = _json(self.sweep_dir / 'running.json') or []
    for entry in running:
      folder = self.folder
      if folder and folder.name.endswith(entry['run_id']):
        found = re.fullmatch(r'process (\d+)', entry['where'] or '')
        # The list may be of a launcher that is dead, and so the process.
        if found and _runs_in(int(found[1]), folder):
          return int(found[1])
    return None

  def step(self) -> int:
    """Updates made, as far as they are in its metrics."""
    folder = self.folder
    path = folder / 'metrics.jsonl' if folder else None
    if path is None or not path.is_file():
      return 0
    steps = re.findall(r'^\{"step": (\d+)', path.read_text(), re.M)
    return int(steps[-1]) if steps else 0

  def checkpoints(self) -> list[int]:
    """Complete steps, in order."""
    folder = self.folder
    found = folder.glob('checkpoints/[0-9]*') if folder else ()
    return sorted(int(p.name) for p in found if p.name.isdigit())

  def is_writing(self) -> bool:
    """Whether a checkpoint is half written."""
    folder = self.folder
    return bool(folder and any(folder.glob('checkpoints/*tmp*')))

  def has_record(self) -> bool:
    folder = self.folder
    return bool(folder and (folder / 'records.jsonl').is_file())

  def log(self) -> str:
    folder = self.folder
    path = folder / 'log.txt' if folder else None
    return path.read_text(errors='replace') if path and path.is_file() else ''


def wait_until(condition, launcher: Launcher, timeout_s: float = 300.0) -> bool:
  """Whether it came true before the launcher ended."""
  deadline = time.monotonic() + timeout_s
  while time.monotonic() < deadline:
    if condition():
      return True
    if not launcher.is_alive():
      return False
    time.sleep(0.002)
  return False


def results(sweep_dir: pathlib.Path) -> dict[str, object]:
  """Everything that two undisturbed sweeps have in common, to the bit."""
  own = ('status', 'steps', 'val_loss_nats_per_token', 'val_loss_scales',
         'val_err', 'val_loss_sem', 'train_loss_nats_per_token',
         'tokens_seen')  # fmt: skip
  records = [
    [row['run_id'], row['name'], *(row[key] for key in own)]
    for row in _lines(sweep_dir / 'records.jsonl')
  ]
  curves = [
    [row['run_id'], *(row[key] for key in own)]
    for row in _lines(sweep_dir / 'curves.jsonl')
  ]
  metrics = {
    name: _lines(next(sweep_dir.glob(f'trials/{name}-*')) / 'metrics.jsonl')
    for name in NAMES
  }
  return {'records': records, 'curves': curves, 'metrics': metrics}


def _runs_in(pid: int, workdir: pathlib.Path) -> bool:
  try:
    words = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')
  except OSError:
    return False
  # A zombie has no command line.
  return str(workdir).encode() in words


def _lines(path: pathlib.Path) -> list[dict]:
  return [json.loads(x) for x in path.read_text().splitlines() if x.strip()]


def _json(path: pathlib.Path):
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None
