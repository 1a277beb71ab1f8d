"""Layers are unrolled where that spares copies, and nowhere else."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from varjax import schedule, step
from varjax.spec import MeshSpec, ModelSpec, RunSpec

RUN = RunSpec(
  model=ModelSpec(depth=4, width=64, heads=4, remat='light'), batch_size=8
)


def _program(run, platform, fsdp=1, tensor=1, devices=1):
  """With a mesh of devices that are not there."""
  device = types.SimpleNamespace(
    platform=platform, device_kind='NVIDIA H100 80GB HBM3'
  )
  mesh = types.SimpleNamespace(
    devices=np.array([device] * devices),
    shape={'data': devices // (fsdp * tensor), 'fsdp': fsdp, 'tensor': tensor},
  )
  run = dataclasses.replace(run, mesh=MeshSpec(-1, fsdp, tensor))
  return step.Program(run, schedule.Steps(10, 1, 1, 1, 1), mesh)


def _with(**changes):
  return dataclasses.replace(
    RUN, model=dataclasses.replace(RUN.model, **changes)
  )


@pytest.mark.parametrize(
  ('platform', 'fsdp', 'tensor', 'scan'),
  [
    ('cpu', 1, 1, True),
    ('tpu', 1, 1, True),
    ('gpu', 1, 1, False),
    ('cuda', 1, 1, False),
    ('gpu', 2, 1, True),
    ('gpu', 1, 2, True),
  ],
)
def test_unrolled_where_a_gpu_holds_whole_weights(platform, fsdp, tensor, scan):
  program = _program(RUN, platform, fsdp, tensor, devices=2)
  assert program.chosen.model.scan == scan
  assert program.chosen.model.remat == 'light'


def test_what_is_asked_for_is_done():
  for changes in ({'unroll': 1}, {'unroll': 2}):
    run = _with(**changes)
    assert _program(run, 'gpu').chosen.model == run.model
  assert not _program(_with(scan=False), 'cpu').chosen.model.scan


def test_remat_is_chosen_as_well():
  model = _program(_with(remat='auto'), 'gpu').chosen.model
  assert (model.remat, model.scan) == ('none', False)


def test_weights_are_drawn_by_the_scanned_program():
  """Unrolled, the program of the first weights would grow with depth."""
  sizes = [
    len(
      jax.make_jaxpr(_program(run, 'gpu').init)(
        jax.random.key(0)
      ).pretty_print()
    )
    for run in (RUN, _with(depth=8))
  ]
  assert sizes[1] < 1.01 * sizes[0]
