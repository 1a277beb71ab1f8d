"""Starts one trial so that it cannot outlive its launcher.

Executed as a script, `child.py PARENT_PID CORES COMMAND...`: binds itself to
the launcher's life and to its cores, then becomes the command. A process of
its own, because Python code between fork and exec is unsafe in a launcher
that has threads. Only the standard library, so that it starts fast.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: list[str]) -> int:
  """Never returns, unless the launcher is already gone (code 1)."""
  parent, cores, command = int(argv[0]), argv[1], argv[2:]
  if sys.platform == 'linux':
    # SIGKILL and not SIGTERM: a trial that is still saving would share its
    # workdir with the one that a relaunched sweep starts.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if cores:
      os.sched_setaffinity(0, {int(core) for core in cores.split(',')})
  if os.getppid() != parent:  # died before the request above was made
    return 1
  os.execvp(command[0], command)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
