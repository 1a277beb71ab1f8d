"""Lowers the programs of a run from shapes alone, for devices described.

The same functions that the commands jit: `step.Program` of the train loop,
`Generator.draw` of VarPipeline, `encode_bytes` of `varjax encode` and the
tokenizer's `decode`. An update is laid out over a mesh; the others run on
one device, as they are called, with nothing exchanged between devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any

from flax.core import meta
import jax
from jax.sharding import Mesh

from varjax import orders, schedule, sharding
from varjax.aot import abstract
from varjax.aot.request import Request
from varjax.models.transformer import Transformer
from varjax.sampling.generator import Generator
from varjax.spec import MeshSpec, RunSpec
from varjax.step import Program
from varjax.tasks import make_task
from varjax.tokenizers import make_tokenizer
from varjax.tokenizers.base import Tokenizer, encode_bytes
from varjax.types import PyTree

# Only turns epochs into updates, which are arguments of the program.
_IMAGES = schedule.KNOWN_IMAGES['imagenet2012']
# What is jitted, and the shapes that it is called with.
Call = tuple[Callable[..., Any], tuple[PyTree, ...]]


def lower(
  request: Request, devices: Sequence[jax.Device]
) -> tuple[jax.stages.Lowered, Mesh]:
  """The program of a request, and the mesh that it is for.

  Args:
    request: what is asked for.
    devices: of the slice; only an update is for all of them.

  Raises:
    ConfigError: the batch, heads, groups or a parameter do not divide over
      the mesh.
  """
  if request.is_training:
    mesh = sharding.make_mesh(request.run.mesh, devices)
    return train(request.run, mesh), mesh
  mesh = sharding.make_mesh(MeshSpec(), devices[:1])
  function, arguments = ON_ONE_DEVICE[request.program](request, mesh)
  # Tells which platform to trace for; one device constrains nothing.
  with jax.set_mesh(mesh):
    return jax.jit(function).lower(*arguments), mesh


def train(run: RunSpec, mesh: Mesh) -> jax.stages.Lowered:
  """The update of the run's last stage, which has every position.

  Args:
    run: what is trained.
    mesh: of real or described devices.

  Raises:
    ConfigError: the batch or a parameter does not divide over the mesh.
  """
  steps = schedule.resolve_run(run, _IMAGES)
  program = Program(run, steps, mesh)
  _, stage = max(program.task.stages(steps), key=lambda item: item[0])
  frozen, batch = abstract.frozen(run, mesh), abstract.batch(run, mesh)
  state, hyper = program.abstract, program.abstract_hyper
  with sharding.use_mesh(mesh):
    return program.jitted(stage).lower(state, frozen, batch, hyper)


def sample(request: Request, mesh: Mesh) -> Call:
  """Labels and a key for each image to images, as `varjax sample` draws."""
  run = request.run
  generator = _generator(request)

  def weights(key: jax.Array) -> PyTree:
    model, _ = make_task(run).init(key)
    return generator.kept(_weights(generator.tokenizer, run), meta.unbox(model))

  return functools.partial(generator.draw, run.sample), (
    abstract.shapes_of(weights, mesh),
    abstract.shaped((request.batch,), 'int32', mesh),
    abstract.keys(request.batch, mesh),
  )


def encode(request: Request, mesh: Mesh) -> Call:
  """Images of 8 bits to codes, as `varjax encode` calls it."""
  tokenizer, side = _tokenizer(request.run), request.run.data.resolution
  return functools.partial(encode_bytes, tokenizer), (
    abstract.shapes_of(lambda _: _weights(tokenizer, request.run), mesh),
    abstract.shaped((request.batch, side, side, 3), 'uint8', mesh),
  )


def decode(request: Request, mesh: Mesh) -> Call:
  """Codes to images, by the tokenizer that a sampler decodes with."""
  tokenizer = _tokenizer(request.run)
  if request.precision.compute:
    tokenizer = _generator(request).decoder
  codes = tokenizer.code_spec
  shape = (request.batch, codes.positions, codes.codes_per_position)
  return tokenizer.decode, (
    abstract.shapes_of(lambda _: _weights(tokenizer, request.run), mesh),
    abstract.shaped(shape, 'int32', mesh),
  )


ON_ONE_DEVICE: dict[str, Callable[[Request, Mesh], Call]] = {
  'sample': sample,
  'encode': encode,
  'decode': decode,
}


def _generator(request: Request) -> Generator:
  run = request.run
  order = orders.make_order(run.order, run.tokenizer)
  return Generator.of(
    _tokenizer(run),
    order,
    Transformer(run.model, order.layout),
    request.precision,
  )


def _tokenizer(run: RunSpec) -> Tokenizer:
  return make_tokenizer(run.tokenizer, run.data.resolution)


def _weights(tokenizer: Tokenizer, run: RunSpec) -> PyTree:
  key = jax.random.key(0)
  return meta.unbox(tokenizer.init(key, run.data.resolution))
