"""Runs one attempt of a trial on a machine that is not the launcher's.

Executed as a script with the path of a JSON file (`Orders`). Between the
trial and the rest of the world it keeps these promises:

- Two attempts never write to one workdir at a time. The launcher names the
  attempt that may in `lease.json`; a keeper whose attempt is no longer named
  kills its trial, and one that starts waits until no other keeper beats.
- A stop that the launcher writes there reaches the trial as SIGTERM.
- A trial does not outlive its launcher: when the launcher's own beat stands
  still (see lock.py), the trial is killed. Nor does it outlive the keeper.
- How it ended is left in `ending-PROCESS.json`, whoever is there to ask.

Times are this machine's monotonic clock alone: clocks of two machines differ.
Only the standard library, so that it starts fast.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

LOOK_EVERY_S = 1.0
# Longer than a file may need to become visible on another machine.
OTHER_IS_DEAD_AFTER_S = 10.0


def orders_file(workdir: pathlib.Path, process: int) -> pathlib.Path:
  """Where the orders for one process of a trial lie."""
  return workdir / f'orders-{process}.json'


def ending_file(workdir: pathlib.Path, process: int) -> pathlib.Path:
  """Where a keeper leaves how its process ended."""
  return workdir / f'ending-{process}.json'


def beat_file(workdir: pathlib.Path, process: int) -> pathlib.Path:
  """Where a keeper tells that it is alive, and where."""
  return workdir / f'keeper-{process}.json'


def lease_file(workdir: pathlib.Path) -> pathlib.Path:
  """Names the attempt that may write to the workdir, and may stop it."""
  return workdir / 'lease.json'


def main(argv: list[str]) -> int:
  """Runs the attempt; returns its exit code, 128 + n after signal n."""
  orders = json.loads(pathlib.Path(argv[0]).read_text())
  # Stop signals must not be lost while the trial is not there yet.
  stops: list[int] = []
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda signum, _: stops.append(signum))
  keeper = _Keeper(orders, stops)
  code, why = keeper.run()
  write_json(
    ending_file(pathlib.Path(orders['workdir']), orders['process']),
    {'token': orders['token'], 'exit_code': code, 'why': why},
  )
  return 128 - code if code is not None and code < 0 else code or int(bool(why))


class _Keeper:
  def __init__(self, orders: dict[str, Any], stops: list[int]):
    self._orders, self._stops = orders, stops
    self._workdir = pathlib.Path(orders['workdir'])
    self._beat_file = beat_file(self._workdir, orders['process'])
    self._launcher = _Beat(pathlib.Path(orders['launcher_beat']))
    self._lease = lease_file(self._workdir)
    self._count = 0

  def run(self) -> tuple[int | None, str | None]:
    """(exit code, why it is not the trial's own doing)."""
    with contextlib.suppress(FileNotFoundError):
      ending_file(self._workdir, self._orders['process']).unlink()
    why = self._wait_for_others()
    if why or self._stops:
      return None, why or 'was told to stop before it began'
    cwd = pathlib.Path(self._orders['cwd'])
    if not cwd.is_dir():
      return None, (
        f'{cwd} is not on {socket.gethostname()}; all machines must see the '
        'folder that the launcher was started in'
      )
    with contextlib.ExitStack() as stack:
      share = claim_cores(self._orders['cores'], stack)
      log = stack.enter_context(open(self._orders['log'], 'ab'))
      environment = {**os.environ, **self._orders['environment']}
      pinned = ','.join(map(str, share))
      if share:
        # XLA sizes its pools by the cores it may use; BLAS does not.
        environment['OMP_NUM_THREADS'] = str(len(share))
      child = str(pathlib.Path(__file__).with_name('child.py'))
      try:
        process = subprocess.Popen(
          [sys.executable, '-I', '-S', child, str(os.getpid()), pinned,
           *self._orders['command']],
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          env=environment,
          cwd=cwd,
          start_new_session=True,
        )  # fmt: skip
      except OSError as error:
        return None, f'could not be started: {error}'
      try:
        return self._keep(process)
      finally:
        _kill(process)
        with contextlib.suppress(FileNotFoundError):
          self._beat_file.unlink()

  def _wait_for_others(self) -> str | None:
    """Waits until no other attempt's keeper beats; why not to start."""
    other = _Beat(self._beat_file)
    while not self._stops:
      why = self._forbidden()
      if why:
        return why
      token = _content(self._beat_file).get('token')
      if token in (None, self._orders['token']):
        return None
      if other.silent_s() > OTHER_IS_DEAD_AFTER_S:
        return None
      time.sleep(LOOK_EVERY_S / 4)
    return None

  def _keep(
    self, process: subprocess.Popen[bytes]
  ) -> tuple[int | None, str | None]:
    told = 0
    looked = -LOOK_EVERY_S
    while True:
      now = time.monotonic()
      if now - looked >= LOOK_EVERY_S:
        looked = now
        self._beat()
        why = self._forbidden()
        if why:
          _kill(process)
          return None, why
        if not self._stops and _content(self._lease).get('stop'):
          self._stops.append(signal.SIGTERM)
      code = process.poll()
      if code is not None:
        return code, None
      if told < len(self._stops):
        told = len(self._stops)
        process.terminate()
      time.sleep(0.05)

  def _forbidden(self) -> str | None:
    token = _content(self._lease).get('token')
    # An absent lease is a file system that is not there for a moment.
    if token and token != self._orders['token']:
      return 'another attempt has taken over'
    silent = self._launcher.silent_s()
    if silent > self._orders['orphan_s']:
      return f'the launcher has given no sign of life for {silent:.0f} s'
    return None

  def _beat(self) -> None:
    self._count += 1
    # A missed beat on a full disk is made good by the next one.
    with contextlib.suppress(OSError):
      write_json(
        self._beat_file,
        {
          'token': self._orders['token'],
          'beat': self._count,
          'host': socket.gethostname(),
          'pid': os.getpid(),
        },
      )


class _Beat:
  """How long the content of a file has stood still, as seen from here."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._content: str | None = None
    self._changed = time.monotonic()

  def silent_s(self) -> float:
    """Seconds since the content last changed."""
    content = _read(self._path)
    if content != self._content:
      self._content, self._changed = content, time.monotonic()
    return time.monotonic() - self._changed


def claim_cores(count: int, stack: contextlib.ExitStack) -> list[int]:
  """Cores of this machine for one trial, held until `stack` unwinds.

  Keepers of one machine share its cores through locked files, so that their
  trials get disjoint ones while there are enough; after that cores are
  shared. The number is always the same: the threads of a pool decide how XLA
  splits sums on a CPU.

  Args:
    count: how many; 0, or more than there are: no binding.
    stack: closes the locks.
  """
  if not count or not hasattr(os, 'sched_getaffinity'):
    return []
  available = sorted(os.sched_getaffinity(0))
  if count > len(available):
    return []
  # One folder per user: another user's files could not be opened.
  folder = pathlib.Path(tempfile.gettempdir()) / f'varjax-cores-{os.getuid()}'
  folder.mkdir(mode=0o700, exist_ok=True)
  claimed: list[int] = []
  for core in available:
    if len(claimed) == count:
      break
    descriptor = os.open(folder / str(core), os.O_WRONLY | os.O_CREAT, 0o600)
    stack.callback(os.close, descriptor)
    with contextlib.suppress(BlockingIOError):
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      claimed.append(core)
  rest = [core for core in available if core not in claimed]
  return sorted(claimed + rest[: count - len(claimed)])


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes atomically."""
  partial = path.with_name(f'{path.name}.partial')
  with open(partial, 'w') as file:
    json.dump(content, file)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def _kill(process: subprocess.Popen[bytes]) -> None:
  if process.poll() is None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _content(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object in a file; empty where there is none to be read."""
  try:
    content = json.loads(_read(path))
  except ValueError:
    return {}
  return content if isinstance(content, dict) else {}


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text()
  except OSError:
    return ''


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
