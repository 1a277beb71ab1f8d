"""What a disk that takes no more means, in one sentence."""

from __future__ import annotations

import errno

from varjax import errors

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def no_room(error: OSError, place: str) -> errors.NotWritten | None:
  """The error to raise where a write found no room; None for others.

  Args:
    error: of the operating system; it names a file only sometimes.
    place: where the file was going to be.
  """
  if error.errno not in _FULL:
    return None
  return errors.NotWritten(
    f'{error.filename or place}: could not be written ({error.strerror}); '
    'make room and run the same command again, which goes on where it was'
  )
