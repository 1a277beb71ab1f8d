"""Time per update on a CPU with and without huge pages, in turn.

  python benchmarks/allocator.py [--quick]

One JSON line per case: median milliseconds per update over the rounds, and
minor page faults per update. Each round is a process of its own, because
the C library reads the setting when a process starts.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys

_CHILD = '--child'


def main():
  """Alternates the two settings, so that drift of the machine cancels."""
  from varjax.launch import allocator

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--quick', action='store_true', help='one short round')
  parser.add_argument('--size', default='d7')
  args = parser.parse_args()
  rounds, updates = (1, 3) if args.quick else (3, 20)
  plain = {k: v for k, v in os.environ.items() if k != allocator.VARIABLE}
  plain['JAX_PLATFORMS'] = 'cpu'
  cases = {'default': plain, 'huge_pages': allocator.with_huge_pages(plain)}
  found = {name: [] for name in cases}
  for _ in range(rounds):
    for name, environment in cases.items():
      command = [sys.executable, __file__, _CHILD, args.size, str(updates)]
      output = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
      ).stdout
      found[name].append(json.loads(output.splitlines()[-1]))
  for name, rows in found.items():
    row = {
      'benchmark': 'allocator',
      'case': name,
      'size': args.size,
      'ms_per_update': statistics.median(r['ms'] for r in rows),
      'page_faults_per_update': statistics.median(r['faults'] for r in rows),
      'rounds': rounds,
      'machine': f'{platform.machine()}, {os.cpu_count()} cores',
      'date': datetime.date.today().isoformat(),
    }
    print(json.dumps(row))


def child(size, updates):
  """Trains one emoji model on random codes; prints milliseconds."""
  import resource
  import time

  import jax
  import jax.numpy as jnp

  from varjax import config, schedule, sharding, step
  from varjax.tokenizers import make_tokenizer

  loaded = config.load(f'experiments/emoji_var.py:size={size}')
  run = config.to_spec(loaded)
  steps = schedule.resolve_run(run, unique_images=1000)
  mesh = sharding.make_mesh(run.mesh)
  program = step.Program(run, steps, mesh)
  state = program.init_sharded()
  key = jax.random.key(0)
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  weights = sharding.init_sharded(
    lambda k: tokenizer.init(k, run.data.resolution), mesh, key
  )
  frozen = {'quantizer': tokenizer.quantizer(weights)}
  shape = (run.batch_size, tokenizer.code_spec.positions, 1)
  batch = {
    'codes': jax.random.randint(key, shape, 0, run.tokenizer.vocab),
    'label': jnp.zeros(run.batch_size, jnp.int32),
  }
  update, hyper = program.jitted(program.task), program.hyper
  for _ in range(2):
    state, _ = jax.block_until_ready(update(state, frozen, batch, hyper))
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  start = time.perf_counter()
  for _ in range(updates):
    state, _ = jax.block_until_ready(update(state, frozen, batch, hyper))
  seconds = time.perf_counter() - start
  faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
  print(json.dumps({'ms': 1e3 * seconds / updates, 'faults': faults / updates}))


if __name__ == '__main__':
  if sys.argv[1:2] == [_CHILD]:
    child(sys.argv[2], int(sys.argv[3]))
  else:
    main()
