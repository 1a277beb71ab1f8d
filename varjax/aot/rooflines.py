"""The analytic roofline of each program that a compiler can be asked for.

Work and bytes of an update are those that plans use; those of samplers and
tokenizers are `sampling_costs` and `tokenizer_costs`. No JAX in here.
"""

from __future__ import annotations

import dataclasses

from varjax.aot.request import Request
from varjax.params import scale_sequence
from varjax.roofline import Roofline, of_work, roofline
from varjax.sampling_costs import sampling_passes
from varjax.spec import TokenizerSpec
from varjax.tokenizer_costs import (
  enlarging_flops_saved,
  tokenizer_bytes,
  tokenizer_flops_per_image,
)
from varjax.topology import Topology


def analytic(request: Request, slice_: Topology) -> Roofline:
  """What one call takes at the least, without the compiler.

  Raises:
    ConfigError: the mesh or the batch does not fit the slice, or the codes
      of a transformer are in another order than next-scale.
  """
  if request.is_training:
    return roofline(request.run, slice_)
  if request.program == 'sample':
    return _sampling(request, slice_)
  tokenizer, kind = _tokenizer(request), request.program
  model = request.batch * tokenizer_flops_per_image(tokenizer, kind)
  work = model
  if kind == 'decode':
    work -= request.batch * enlarging_flops_saved(tokenizer)
  moved = tokenizer_bytes(tokenizer, kind, request.batch)
  return of_work(slice_, work, moved, model=model)


def _sampling(request: Request, slice_: Topology) -> Roofline:
  """Of a generation; the decoder's activations count too."""
  run, images = request.run, request.batch
  scale_sequence(run)
  passes = sampling_passes(
    run.model, run.tokenizer, images, run.sample, request.precision
  )
  steps = sum(one.bytes for one in passes if one.name != 'decoder')
  tokenizer = _tokenizer(request)
  decoder = tokenizer_bytes(tokenizer, 'decode', images)
  model = sum(one.flops for one in passes)
  work = model - images * enlarging_flops_saved(tokenizer)
  return of_work(slice_, work, steps + decoder, model=model)


def _tokenizer(request: Request) -> TokenizerSpec:
  """As the program computes: a decoder may compute in another type."""
  spec = request.run.tokenizer
  if not request.precision.compute:
    return spec
  return dataclasses.replace(spec, compute_dtype=request.precision.compute)
