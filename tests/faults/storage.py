"""Damage to what a run has written, and disks that take no more."""

from collections.abc import Iterator
import contextlib
import pathlib
import resource


def largest_file(folder: pathlib.Path) -> pathlib.Path:
  """The file below `folder` that most likely holds weights or codes."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def truncate(path: pathlib.Path) -> None:
  """Cuts a file in half."""
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path: pathlib.Path) -> None:
  """Changes one bit in the middle of a file."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@contextlib.contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
  """No file of this process may grow beyond `bytes_left`.

  The kernel refuses the write (RLIMIT_FSIZE, EFBIG), as a full disk does.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
