"""The update of a large official size as a program for NVIDIA GPUs.

Traced from shapes and lowered on any machine, in seconds: no weights, no
compiler of CUDA and no GPU.
"""

import jax
import pytest

from varjax import schedule, sharding, step
from varjax.aot import abstract
from varjax.models import attention
from varjax.spec import DataSpec, Duration, MeshSpec, ModelSpec, RunSpec


def _lowered(depth, **model):
  run = RunSpec(
    task='generate',
    total=Duration(steps=10),
    batch_size=32,
    data=DataSpec(resolution=256),
    model=ModelSpec(
      depth=depth, width=64 * depth, heads=depth, drop_path=0.1,
      attention='flash', products='fp8', remat='light', **model,
    ),
  )  # fmt: skip
  mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
  steps = schedule.Steps(total=10, warmup=1, evaluate=0, checkpoint=0, log=0)
  program = step.Program(run, steps, mesh)
  given = (
    program.abstract, abstract.frozen(run, mesh), abstract.batch(run, mesh),
    program.abstract_hyper,
  )  # fmt: skip
  with pytest.MonkeyPatch.context() as patch, sharding.use_mesh(mesh):
    # Devices of another platform than the host's need their compiler.
    patch.setattr(attention, 'target_platform', lambda: 'gpu')
    traced = program.jitted(program.task).trace(*given)
    return traced.lower(lowering_platforms=('cuda',)).as_text()


def test_d30_has_our_kernels_and_its_products_in_float8():
  text = _lowered(30)
  for kernel in ('flash_forward', 'flash_dq', 'flash_dkv'):
    assert kernel in text
  assert text.count('@__gpu$xla.gpu.triton') == 3
  into = [
    line.rpartition(' -> ')[2].strip()
    for line in text.splitlines()
    if 'stablehlo.convert' in line and 'f8E' not in line.partition(' -> ')[0]
  ]
  # Of one scanned block: input and weights of four products, forwards and
  # where `light` finds them again; and the gradient of each.
  inputs = ('32x680x1920', '32x680x30x64', '32x680x1920', '32x680x7680')
  weights = ('1920x3x1920', '30x64x1920', '1920x7680', '7680x1920')
  grads = ('32x680x3x1920', '32x680x1920', '32x680x7680', '32x680x1920')
  values = [kind for kind in into if kind.endswith('f8E4M3FN>')]
  assert sorted(values) == sorted(
    f'tensor<{shape}xf8E4M3FN>' for shape in 2 * (inputs + weights)
  )
  gradients = [kind for kind in into if kind.endswith('f8E5M2>')]
  assert sorted(gradients) == sorted(
    f'tensor<{shape}xf8E5M2>' for shape in grads
  )
