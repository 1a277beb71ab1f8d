"""Which calls of cuBLAS an update of a small VAR makes on an H100.

Run as a process of its own, by test_float8_calls: JAX must start as in the
tool. Prints one JSON object: calls of each target by product of a block.
"""

import collections
import dataclasses
import json
import re
import sys

from varjax import topology
from varjax.aot import target

H100 = topology.parse('h100:1')
target.prepare(H100)

from varjax import sharding, spec  # noqa: E402
from varjax.aot import cuda, programs  # noqa: E402

PRODUCTS = ('qkv', 'proj', 'fc1', 'fc2')


def main() -> None:
  """Compiles with the fields of the model that the argument names."""
  model = spec.ModelSpec(depth=3, width=192, heads=3, attention='xla')
  run = spec.RunSpec(
    task='generate',
    total=spec.Duration(steps=10),
    model=dataclasses.replace(model, **json.loads(sys.argv[1])),
    batch_size=4,
    data=spec.DataSpec(resolution=256),
  )
  mesh = sharding.make_mesh(run.mesh, target.devices(H100))
  program = programs.train(run, mesh).compile(compiler_options=cuda.OPTIONS)
  found = collections.defaultdict(collections.Counter)
  for line in (program.as_text() or '').splitlines():
    call = re.search(r'custom_call_target="(__cublas[^"]*)"', line)
    path = re.search(r'op_name="([^"]*)"', line)
    if call and path and '/blocks/' in path[1]:
      steps = path[1].split('/')
      place = next((name for name in PRODUCTS if name in steps), 'other')
      found[call[1]][place] += 1
  print(json.dumps(found))


if __name__ == '__main__':
  main()
