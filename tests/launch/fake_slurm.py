"""Stands in for sbatch, srun, sacct, scancel and scontrol, by its name.

As much of Slurm as submitit uses: arrays, states, cancelling and requeues,
on this machine. Its state is a folder, $FAKE_SLURM, with one file per task.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(os.environ.get('FAKE_SLURM', ''))


def sbatch(argv):
  script = pathlib.Path(argv[-1])
  number = 100 + len(list(ROOT.glob('job-*')))
  (ROOT / f'job-{number}').write_text(script.read_text())
  array = re.search(r'^#SBATCH --array=0-(\d+)%', script.read_text(), re.M)
  tasks = range(int(array[1]) + 1) if array else [None]
  for task in tasks:
    name = f'{number}' if task is None else f'{number}_{task}'
    tell(name, 'PENDING')
    subprocess.Popen(
      [sys.executable, __file__, 'node', name],
      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
  print(f'Submitted batch job {number}')


def node(argv):
  """Runs one task, again after every requeue."""
  number, _, task = argv[0].partition('_')
  environment = {
    **os.environ,
    'SLURM_JOB_ID': number, 'SLURM_NTASKS': '1', 'SLURM_PROCID': '0',
    'SLURM_LOCALID': '0', 'SLURM_NODEID': '0', 'SLURM_JOB_NUM_NODES': '1',
  }  # fmt: skip
  if task:
    environment |= {'SLURM_ARRAY_JOB_ID': number, 'SLURM_ARRAY_TASK_ID': task}
  while True:
    process = subprocess.Popen(
      ['bash', str(ROOT / f'job-{number}')],
      env=environment,
      start_new_session=True,
    )
    tell(argv[0], 'RUNNING', process.pid)
    code = process.wait()
    if state(argv[0])['state'] != 'REQUEUED':
      break
  if state(argv[0])['state'] != 'CANCELLED':
    tell(argv[0], 'FAILED' if code else 'COMPLETED')


def srun(argv):
  command = argv[argv.index('--unbuffered') + 1 :]
  while command[0].startswith('--'):
    command = command[2:]  # --output X, --error Y
  os.execvp(command[0], command)


def sacct(argv):
  del argv
  print('JobID|State|NodeList')
  for path in sorted(ROOT.glob('state-*')):
    name = path.name.removeprefix('state-')
    print(f'{name}|{state(name)["state"]}|here')


def scancel(argv):
  wanted = argv[-1]
  for path in ROOT.glob(f'state-{wanted}*'):
    name = path.name.removeprefix('state-')
    pid = state(name).get('pid')
    tell(name, 'CANCELLED')
    if pid:
      os.killpg(pid, signal.SIGKILL)


def scontrol(argv):
  assert argv[0] == 'requeue', argv
  tell(argv[1], 'REQUEUED')


def tell(name, value, pid=None):
  path = ROOT / f'state-{name}'
  partial = ROOT / f'.{name}-{os.getpid()}'
  partial.write_text(json.dumps({'state': value, 'pid': pid}))
  os.replace(partial, path)


def state(name):
  return json.loads((ROOT / f'state-{name}').read_text())


def install(folder):
  """Puts the commands into a folder, for PATH."""
  folder.mkdir()
  for name in ('sbatch', 'srun', 'sacct', 'scancel', 'scontrol'):
    path = folder / name
    path.write_text(
      f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {name} "$@"\n'
    )
    path.chmod(0o755)


if __name__ == '__main__':
  time.sleep(0.05)
  globals()[sys.argv[1]](sys.argv[2:])
