"""One launcher for a sweep directory, on one machine or on several.

On one machine the kernel's file lock decides, and frees itself however the
launcher dies. Between machines that share a file system it may or may not
work (NFS 4: yes; many mounted object stores: no), so a launcher also beats:
it counts up in a file. A lock that is free while its owner of another
machine still beats is not free. Beats are compared with each other and never
with a clock, because the clocks of two machines differ.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from typing import TextIO
import uuid

from varjax import errors

LOCK = 'sweep.lock'
BEAT = 'sweep.beat'
BEAT_EVERY_S = 5.0
# A launcher of another machine that has not beaten for so long is dead.
_DEAD_AFTER_S = 3 * BEAT_EVERY_S
_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Owner:
  """Who holds, or held, a sweep directory.

  Attributes:
    host: name of the machine.
    boot: the machine's boot id, where it has one: containers may share
      names.
    pid: process on it.
    token: drawn anew by every launcher.
  """

  host: str
  boot: str
  pid: int
  token: str

  def __str__(self) -> str:
    place = '' if self.is_here else f' on {self.host}'
    return f'process {self.pid}{place}'

  @property
  def is_here(self) -> bool:
    """Whether it runs, or ran, on this machine since it was started."""
    return (self.host, self.boot) == _this_machine()


class Hold:
  """A directory that this launcher holds.

  Attributes:
    owner: this launcher.
    died: the one before it, if that one ended without letting go.
  """

  def __init__(self, sweep_dir: pathlib.Path, owner: Owner, died: Owner | None):
    self.owner, self.died = owner, died
    self._sweep_dir = sweep_dir
    self._stop = threading.Event()
    self._robber = ''
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises when the directory is no longer this launcher's.

    Raises:
      LaunchError: this launcher stood still for so long that one on another
        machine took it for dead.
    """
    if self._robber:
      raise errors.LaunchError(
        f'{self._sweep_dir}: this launcher stood still, and another one has '
        'taken over the sweep; its trials go on there'
      )

  def let_go(self) -> None:
    """Stops beating."""
    self._stop.set()
    self._thread.join()

  def _beat(self) -> None:
    path = self._sweep_dir / BEAT
    count = 0
    while True:
      beaten = _read(path).partition(' ')[0]
      if count and beaten not in ('', self.owner.token):
        self._robber = beaten
        return
      count += 1
      # A missed beat is made good by the next one; a launcher that cannot
      # write for long enough must count as dead.
      with contextlib.suppress(OSError):
        partial = path.with_suffix('.beat.partial')
        partial.write_text(f'{self.owner.token} {count}\n')
        os.replace(partial, path)
      if self._stop.wait(BEAT_EVERY_S):
        return


@contextlib.contextmanager
def held(sweep_dir: pathlib.Path) -> Iterator[Hold]:
  """Holds the directory for this launcher; freed however it dies.

  Waits a few seconds when the last owner was on another machine and left
  without letting go, to see whether it is alive.

  Raises:
    LaunchError: another launcher holds it.
  """
  sweep_dir.mkdir(parents=True, exist_ok=True)
  with open(sweep_dir / LOCK, 'a+') as file:
    acquired = _acquire(file.fileno())
    named = _owners(file)
    if not acquired:
      raise _refusal(sweep_dir, named[-1] if named else None)
    before = named[0] if named else None
    owner = Owner(*_this_machine(), os.getpid(), uuid.uuid4().hex)
    if before is not None and not before.is_here:
      # Both are named meanwhile: who is refused must hear of this launcher,
      # and if it dies here the next one must hear of the other.
      _write(file, before, owner)
      _refuse_if_alive(sweep_dir, before)
    _write(file, owner)
    hold = Hold(sweep_dir, owner, before)
    try:
      yield hold
    finally:
      hold.let_go()
      # Emptied on the way out: a lock that still names its owner was left
      # by one that died. A full disk can still shrink a file.
      file.truncate(0)


def is_held(sweep_dir: pathlib.Path) -> bool:
  """Whether a launcher is at work there, as far as this machine can tell.

  A launcher on another machine counts as long as its lock names it and the
  file system lets its lock be seen, or its last beat is recent by this
  machine's clock: for a display that is near enough.
  """
  path = sweep_dir / LOCK
  if not path.is_file():
    return False
  with open(path) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return True
    named = _owners(file)
  if not named or named[0].is_here:
    return False
  return abs(time.time() - _changed_at(sweep_dir / BEAT)) < 2 * _DEAD_AFTER_S


def _refuse_if_alive(sweep_dir: pathlib.Path, owner: Owner) -> None:
  path = sweep_dir / BEAT
  first = _read(path)
  if not first:
    return
  deadline = time.monotonic() + _DEAD_AFTER_S
  while time.monotonic() < deadline:
    if _read(path) not in ('', first):
      raise _refusal(sweep_dir, owner)
    time.sleep(0.2)


def _refusal(
  sweep_dir: pathlib.Path, owner: Owner | None
) -> errors.LaunchError:
  who = 'process unknown' if owner is None else str(owner)
  return errors.LaunchError(
    f'{sweep_dir}: another launcher ({who}) runs this sweep; wait for it, '
    'stop it, or use another --workdir'
  )


def _this_machine() -> tuple[str, str]:
  return socket.gethostname(), _read(
    pathlib.Path('/proc/sys/kernel/random/boot_id')
  )


def _acquire(descriptor: int) -> bool:
  for _ in range(_TRIES):  # `is_held` holds it for an instant
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      time.sleep(0.1)
    else:
      return True
  return False


def _owners(file: TextIO) -> list[Owner]:
  """Whom the lock file names; nobody when it was left in order."""
  file.seek(0)
  try:
    return [Owner(**json.loads(line)) for line in file.read().splitlines()]
  except (ValueError, TypeError):
    return []


def _write(file: TextIO, *owners: Owner) -> None:
  file.seek(0)
  file.truncate(0)
  for owner in owners:
    file.write(json.dumps(dataclasses.asdict(owner)) + '\n')
  file.flush()


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text().strip()
  except OSError:
    return ''


def _changed_at(path: pathlib.Path) -> float:
  try:
    return path.stat().st_mtime
  except OSError:
    return 0.0
