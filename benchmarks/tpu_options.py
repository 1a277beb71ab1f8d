"""What `step.COMPILER_OPTIONS` does to one MLP, by the TPU compiler.

  python benchmarks/tpu_options.py           one JSON line per setting

Forward and backward of the MLP of d16 on v5e:4x4, 48 images a chip, weights
sharded over all 16 (fsdp): the bytes through HBM, the collectives and the
peak memory of one chip, with XLA's default and with the options of a train
step. Needs `pip install 'varjax[tpu]'` and no TPU; nothing is executed.
"""

import datetime
import json
import os
import platform

from varjax import topology
from varjax.aot import target

SLICE = topology.parse('v5e:4x4')
IMAGES, POSITIONS, WIDTH = 768, 680, 1024


def main():
  """Prints a JSON line for each setting."""
  target.prepare(SLICE)
  # JAX starts only now, in the environment that `prepare` made.
  from varjax import step

  for name, options in (
    ('default', {}),
    ('step', step.COMPILER_OPTIONS['tpu']),
  ):
    row = {
      'benchmark': 'tpu_options', 'slice': str(SLICE), 'setting': name,
      **measure(options), 'versions': target.versions(SLICE),
      'machine': f'{platform.machine()}, {os.cpu_count()} cores',
      'date': datetime.date.today().isoformat(),
    }  # fmt: skip
    print(json.dumps(row), flush=True)


def measure(options):
  """Facts of the MLP compiled with some options."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding, PartitionSpec

  from varjax import collectives, sharding
  from varjax.aot import traffic
  from varjax.spec import MeshSpec

  devices = target.devices(SLICE)
  mesh = sharding.make_mesh(MeshSpec(1, -1, 1), devices)

  def shaped(shape, dtype, *axes):
    place = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  def loss(up, down, x):
    hidden = jax.nn.gelu(x @ up.astype(x.dtype))
    out = hidden @ down.astype(x.dtype)
    return jnp.sum(jnp.square(out.astype(jnp.float32)))

  up = shaped((WIDTH, 4 * WIDTH), jnp.float32, 'fsdp', None)
  down = shaped((4 * WIDTH, WIDTH), jnp.float32, None, 'fsdp')
  x = shaped((IMAGES, POSITIONS, WIDTH), jnp.bfloat16, 'fsdp')
  grad = jax.jit(
    jax.grad(loss, argnums=(0, 1)),
    out_shardings=(up.sharding, down.sharding),
    compiler_options=options or None,
  )
  program = grad.lower(up, down, x).compile()
  text = program.as_text()
  totals = collectives.totals(collectives.parse(text))
  memory = program.memory_analysis()
  assert memory is not None  # The TPU's compiler always knows.
  return {
    'options': options,
    'hbm_bytes': traffic.hbm_bytes(text),
    'wire_bytes': sum(one.wire_bytes for one in totals.values()),
    'collectives': {kind: one.count for kind, one in totals.items()},
    'peak_bytes': memory.peak_memory_in_bytes,
  }


if __name__ == '__main__':
  main()
