"""Processes of one run on this machine, which never outlive the test."""

import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER = pathlib.Path(__file__).with_name('worker.py')
# Programs that run for a moment: do not optimise their machine code.
QUICK = '--xla_backend_optimization_level=0'


class Group:
  """Starts `varjax` once for each fault, as processes 0, 1, ... of a run."""

  def __init__(
    self,
    faults: list[str],
    argv: list[str],
    folder: pathlib.Path,
    devices: int = 1,
  ):
    """`faults` as `worker` reads them; output goes to files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    flags = f'{QUICK} --xla_force_host_platform_device_count={devices}'
    environment = {
      **os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': flags,
      'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
    }  # fmt: skip
    self._files, self.processes = [], []
    for index, fault in enumerate(faults):
      place = [] if len(faults) == 1 else [
        f'--coordinator=127.0.0.1:{port}', f'--process_id={index}',
        f'--num_processes={len(faults)}',
      ]  # fmt: skip
      self._files.append(folder / f'{index}.txt')
      with open(self._files[-1], 'w') as out:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, str(WORKER), fault, *argv, *place],
            cwd=ROOT, env=environment, stdout=out, stderr=out,
          )
        )  # fmt: skip

  def __enter__(self) -> 'Group':
    return self

  def __exit__(self, *_: object) -> None:
    for process in self.processes:
      process.kill()
      process.wait()

  def wait(self, seconds: float = 240.0) -> list[int]:
    """Exit codes, negative for a signal; fails the test if one never ends."""
    deadline = time.monotonic() + seconds
    for index, process in enumerate(self.processes):
      try:
        process.wait(max(deadline - time.monotonic(), 0.1))
      except subprocess.TimeoutExpired:
        raise AssertionError(
          f'process {index} did not end within {seconds} s:\n{self.said(index)}'
        ) from None
    return [process.returncode for process in self.processes]

  def said(self, index: int) -> str:
    """What a process has printed."""
    return self._files[index].read_text()
