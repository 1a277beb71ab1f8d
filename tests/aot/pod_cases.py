"""A run, a slice and answers of a compiler, made up."""

from varjax import topology
from varjax.aot.compiled import Compiled, Traffic
from varjax.aot.parts import Part
from varjax.spec import MeshSpec, ModelSpec, RunSpec

GIB = 2**30
V5E = topology.parse('v5e:2x2')
D30 = RunSpec(
  name='d30',
  batch_size=256,
  model=ModelSpec(depth=30, width=1920, heads=30, remat='full'),
  mesh=MeshSpec(1, -1, 1),
)


def compiled(used, limit=15.75 * GIB, sent=0.0):
  return Compiled(
    fits=used <= limit,
    used_bytes=int(used),
    partial=False,
    limit_bytes=int(limit),
    memory=None,
    collectives={'all-gather': Traffic(1, int(sent), sent)},
    hbm_bytes=sent,
    parts=(Part('forward', 'blocks/mlp/fc1', 'product', sent, 16),),
    bounded=True,
    refusal='' if used <= limit else 'RESOURCE_EXHAUSTED: hbm.',
    seconds=1.0,
    versions={'jax': '0', 'libtpu': '0'},
  )
