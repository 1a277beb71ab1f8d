"""Programs for an NVIDIA GPU, traced and lowered without one."""

import jax
from jax.sharding import AbstractMesh, AxisType

from varjax import sharding


def lowered(function, *arguments):
  """The text of a program that sees an H100."""
  with seen():
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=('cuda',)).as_text()


def seen():
  """A context in which programs are traced for one."""
  # Newer versions of JAX ask what the GPU is.
  device = jax.sharding.AbstractDevice(
    device_kind='NVIDIA H100 80GB HBM3', num_cores=132, platform='gpu'
  )
  mesh = AbstractMesh(
    (1, 1, 1),
    sharding.AXES,
    axis_types=(AxisType.Auto,) * 3,
    abstract_device=device,
  )
  return jax.sharding.use_abstract_mesh(mesh)
