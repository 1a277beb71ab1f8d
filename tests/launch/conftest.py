"""A sweep directory with a fast stand-in for the trainer."""

import pathlib
import subprocess
import sys

import pytest

from varjax import identity
from varjax import spec as specs
from varjax.tools import sweep as sweep_tool

_HERE = pathlib.Path(__file__).parent
TRAINER = (sys.executable, str(_HERE / 'fake_trainer.py'))

_EXPERIMENT = """
from varjax import config

def get_config(arg=None):
  parsed = config.parse_arg(arg, depth=2)
  c = config.default_config()
  c.model.depth = parsed.depth
  c.data.resolution = 256
  c.tokenizer_dir = 'tok'
  c.codes_dir = 'codes'
  c.total.epochs = 0.0
  c.total.steps = 20
  return c
"""

_LAUNCHER = """
import sys
sys.path.insert(0, sys.argv[2])
from conftest import resolve
from varjax import errors
from varjax.tools import sweep
try:
  code = sweep.main(
    sys.argv[3:],
    resolve_run_id=resolve,
    trainer=(sys.executable, sys.argv[1]),
  )
except errors.VarjaxError as error:
  print(f'varjax sweep: {error}', file=sys.stderr)
  code = error.exit_code
sys.exit(code)
"""


def resolve(run: specs.RunSpec) -> str:
  """A run id without the code's hash: sources may change between tests."""
  return identity.digest(identity.identity(run))[:12]


class Bench:
  """A folder with an experiment, sweep files and sweep directories."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    (root / 'experiments').mkdir()
    (root / 'sweeps').mkdir()
    (root / 'experiments' / 'x.py').write_text(_EXPERIMENT)

  def sweep_file(self, trials: str, name: str = 'ladder') -> str:
    """Writes a sweep file whose trials are the given expression."""
    path = self.root / 'sweeps' / f'{name}.py'
    path.write_text(f'def get_hyper(hyper):\n  return {trials}\n')
    return str(path)

  def named(self, *names: str) -> str:
    """A sweep file with one trial per name, all of different rates."""
    rates = [0.1 * (i + 1) for i in range(len(names))]
    return self.sweep_file(
      "hyper.product(hyper.fixed('config', 'experiments/x.py'), "
      f"hyper.zipit(hyper.sweep('name', {list(names)}), "
      f"hyper.sweep('optim.lr', {rates})))"
    )

  def run(self, sweep_file: str, sweep_dir: pathlib.Path, *options: str) -> int:
    """`varjax sweep` in this process."""
    return sweep_tool.main(
      [sweep_file, '--workdir', str(sweep_dir), '--backoff_s=0.01', *options],
      resolve_run_id=resolve,
      trainer=TRAINER,
    )

  def start(
    self, sweep_file: str, sweep_dir: pathlib.Path, *options: str
  ) -> subprocess.Popen:
    """`varjax sweep` as a process of its own."""
    argv = [sweep_file, '--workdir', str(sweep_dir), *options]
    return subprocess.Popen(
      [sys.executable, '-c', _LAUNCHER, TRAINER[1], str(_HERE), *argv],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )


@pytest.fixture(scope='module')
def bench(tmp_path_factory) -> Bench:
  return Bench(tmp_path_factory.mktemp('bench'))
