"""Stands in for `varjax train`: seconds of a run in milliseconds.

Keeps the contract that the launcher relies on: resumes from its own state
in --workdir, writes progress.json atomically, saves and exits 143 on
SIGTERM, leaves a record. Its 'loss' depends on every step it ever made, so
a lost or repeated step shows. How it misbehaves follows from its name.
"""

import json
import os
import pathlib
import signal
import sys
import time

STEPS = 20


def main():
  options = dict(
    item.removeprefix('--config.').split('=', 1)
    for item in sys.argv
    if item.startswith('--config.')
  )
  name = options['name']
  workdir = pathlib.Path(sys.argv[sys.argv.index('--workdir') + 1])
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / 'pid').write_text(str(os.getpid()))
  attempts = workdir / 'attempts'
  attempt = int(attempts.read_text()) + 1 if attempts.exists() else 1
  attempts.write_text(str(attempt))
  if name == 'typed':
    print('varjax train: optim.lr=-1: must be positive', file=sys.stderr)
    return 2
  if name == 'hopeless' or (name == 'shaky' and attempt < 3):
    raise RuntimeError(f'out of luck in attempt {attempt}')
  if name == 'mute':
    return 0
  if name == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
  if name in ('gang', 'halved'):
    told = {k: v for k, v in os.environ.items() if k.startswith('JAX_')}
    rank = told.get('JAX_PROCESS_ID', '0')
    text = ' '.join(f'{k}={v}' for k, v in told.items())
    (workdir / f'gang-{rank}.env').write_text(text)
    if rank != '0':
      if name == 'halved' and not (workdir / 'died').exists():
        while not (workdir / 'progress.json').exists():
          time.sleep(0.01)
        (workdir / 'died').touch()
        os.kill(os.getpid(), signal.SIGKILL)
      return 0
  return train(workdir, options)


def check_gang(workdir, processes):
  """The processes of a 'gang' were told apart, and of one coordinator."""
  told = [
    dict(line.split('=') for line in path.read_text().split())
    for path in sorted(workdir.glob('gang-*.env'))
  ]
  ranks = [str(rank) for rank in range(processes)]
  assert [t['JAX_PROCESS_ID'] for t in told] == ranks
  assert {t['JAX_NUM_PROCESSES'] for t in told} == {str(processes)}
  assert len({t['JAX_COORDINATOR_ADDRESS'] for t in told}) == 1


def train(workdir, options):
  stop = []
  signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
  state_file = workdir / 'state.json'
  state = {'step': 0, 'loss': 9.0}
  if state_file.exists():
    state = json.loads(state_file.read_text())
    print(f'resumed from step {state["step"]}')
  rate = float(options['optim.lr'])
  while state['step'] < STEPS:
    time.sleep(float(os.environ.get('FAKE_STEP_S', '0.01')))
    step = state['step'] + 1
    state = {'step': step, 'loss': state['loss'] * (1 - rate / step) + rate}
    write(state_file, state)
    write(
      workdir / 'progress.json',
      {
        'step': step,
        'total_steps': STEPS,
        'loss': state['loss'],
        'images_per_s': 8.0,
        'eta_s': (STEPS - step) * 0.01,
        'time': time.time(),
      },
    )
    if stop:
      print('stopped by SIGTERM, saved')
      return 143
  cores = sorted(os.sched_getaffinity(0))
  print(f'cores {cores} sweep {os.environ.get("VARJAX_SWEEP")}')
  record = {
    'schema': 1,
    'run_id': workdir.name.rpartition('-')[2],
    'name': options['name'],
    'task': 'generate',
    'role': options.get('role', 'fit'),
    'steps': STEPS,
    'total_steps': STEPS,
    'val_loss_nats_per_token': state['loss'],
    'val_err': 0.5,
  }
  with open(workdir / 'curves.jsonl', 'a') as file:
    file.write(json.dumps({**record, 'status': 'running'}) + '\n')
  with open(workdir / 'records.jsonl', 'a') as file:
    file.write(json.dumps({**record, 'status': 'complete'}) + '\n')
  return 0


def write(path, content):
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(content))
  os.replace(partial, path)


if __name__ == '__main__':
  sys.exit(main())
