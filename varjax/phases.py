"""One training update in phases: products, bytes and kernels of each.

The analytic model behind `benchmarks/step_time.py`: what a device cannot go
below, phase by phase, so that a measured step shows where its gap is. FLOPs
are those of `varjax.flops`. Bytes and launches assume the best that fusion
can do: every matrix product and every attention is one kernel, every chain
of element-wise work between them one more, and each reads its inputs and
writes its outputs once. One device that holds everything; no JAX in here.
Source of the shapes: VAR (arXiv 2404.02905). Conventions: docs/flops.md.
"""

from __future__ import annotations

import dataclasses

from varjax import errors, flops, product_phases
from varjax.params import (
  ITEM_BYTES,
  Sequence,
  head_outputs,
  hidden_width,
  parameter_counts,
  scale_sequence,
)
from varjax.phase import Phase, together
from varjax.spec import ModelSpec, RunSpec

_FLOAT32 = 4
_ELEMENTWISE = ('norm', 'unit', 'activation', 'residual', 'rounding')
# Phases of a block that each policy of `model.remat` repeats.
_REPEATED = {
  'none': (),
  'light': _ELEMENTWISE,
  'dots': (*_ELEMENTWISE, 'attention'),
  'slim': (*_ELEMENTWISE, 'fc1'),
  'full': (*_ELEMENTWISE, 'qkv', 'attention', 'projection', 'fc1', 'fc2'),
}


def train_phases(
  run: RunSpec, sequence: Sequence | None = None
) -> tuple[Phase, ...]:
  """The phases of one update on one device, in their order.

  Forward phases, their backward counterparts, what `model.remat` and
  `model.loss_chunks` repeat, casts of the weights, and the optimiser. The
  FLOPs of forward and backward add up to `flops.train_flops_per_image`.

  Args:
    run: a transformer run; accumulation repeats all but the optimiser.
    sequence: of the run's order; only next-scale needs none.

  Raises:
    ConfigError: a tokenizer's run, an order with a depth transformer, or an
      unresolved `model.remat`.
  """
  if run.task != 'generate':
    raise errors.ConfigError('phases are counted for transformers only')
  sequence = sequence or scale_sequence(run)
  if sequence.depth_dim:
    raise errors.ConfigError(
      f'order.name={run.order.name!r}: phases of a depth transformer are not '
      'counted'
    )
  model, parts = run.model, run.optim.accumulate
  if model.remat not in _REPEATED:
    raise errors.ConfigError(
      f'model.remat={model.remat!r}: must be one of {", ".join(_REPEATED)}'
    )
  images = run.batch_size // parts
  forward = _forward(run, sequence, images)
  backward = _backward(run, sequence, images)
  blocks = [p for p in forward if p.name in _REPEATED[model.remat]]
  if model.products == 'fp8':
    blocks = product_phases.rounding_again(
      run, blocks, images * sequence.positions
    )
  if model.loss_chunks > 1:
    blocks += [p for p in forward if p.name == 'head']
  cast = ITEM_BYTES[model.compute_dtype]
  counts = parameter_counts(model, sequence)
  weights = cast_weights = counts.total
  if model.products == 'fp8':
    cast_weights -= counts.linear
  copies = int(cast != _FLOAT32)  # Once an update (`models.weights`).
  phases = [
    *forward,
    *backward,
    together('recomputation', blocks),
    Phase('casts', 0, copies * cast_weights * (_FLOAT32 + cast), copies),
  ]
  phases = [
    Phase(
      p.name,
      parts * p.flops,
      parts * p.bytes,
      parts * p.launches,
      parts * p.float8,
    )
    for p in phases
  ]
  return *phases, _optimiser(run, weights)


def optimiser_bytes(run: RunSpec, weights: int) -> int:
  """Bytes of clipping and AdamW: two reads of the gradients, one pass.

  Gradients are read once for their norm. Then gradients, weights and both
  moments are read, and weights and moments written; an average of the
  weights is read and written.
  """
  moments = _FLOAT32 + ITEM_BYTES[run.optim.moments_dtype]
  read_twice = 2 if run.optim.clip_norm > 0 else 1
  state = _FLOAT32 + moments + _FLOAT32 * (run.ema > 0)
  return weights * (read_twice * _FLOAT32 + 2 * state)


def _optimiser(run: RunSpec, weights: int) -> Phase:
  # One kernel for the norm and one for the update of each kind of tensor is
  # what a compiler makes of it; there are about twenty tensors.
  return Phase('optimiser', 0, optimiser_bytes(run, weights), 40)


def _forward(run: RunSpec, sequence: Sequence, images: int) -> list[Phase]:
  model = run.model
  work = flops.forward_flops_per_image(model, sequence)
  d, m, n = model.width, hidden_width(model), model.depth
  c, rows = ITEM_BYTES[model.compute_dtype], images * sequence.positions
  fused = _fused(model)
  values = head_outputs(model, sequence)
  counts = parameter_counts(model, sequence)
  products = product_phases.forward(run, rows)
  up = product_phases.shapes(model)['fc1'][1]
  found = [
    # Inputs and two tables in; one sum out, in float32.
    Phase(
      'embed',
      images * work.embed,
      _FLOAT32 * rows * (sequence.input_dim + 4 * d),
      3,
    ),
    Phase('adaln', images * work.adaln, c * counts.adaln, int(work.adaln > 0)),
    Phase('norm', 0, n * (4 - fused) * rows * d * c, 2 * n),
    products['qkv'],
    _unit(model, 2 * n * rows * d * c),
    Phase('attention', images * work.attention, n * rows * 4 * d * c, n),
    products['projection'],
    # Branch and stream in, stream out.
    Phase('residual', 0, n * 2 * rows * 3 * d * c, (2 - fused) * n),
    products['fc1'],
    Phase('activation', 0, n * rows * (up + m) * c, n),
    products['fc2'],
    Phase(
      'head',
      images * work.head,
      rows * (3 * d * c + values * _FLOAT32) + c * d * values,
      2,
    ),
    Phase('loss', 0, rows * values * _FLOAT32, 1),
  ]
  if model.products == 'fp8':
    found += product_phases.rounding(run, rows)
  return [p for p in found if p.name != 'unit' or model.l2_norm]


def _in_attention(model: ModelSpec) -> bool:
  """Whether the attention normalises queries and keys by itself.

  By request, that is: what `auto` takes depends on the device.
  """
  return model.attention == 'flash' and not model.position.startswith('rotary')


def _fused(model: ModelSpec) -> int:
  """Norms of a block that find the stream in the registers of its sum.

  By request, as above.
  """
  return int(model.fused == 'on' and model.norm == 'adaln')


def _unit(model: ModelSpec, both: int) -> Phase:
  """Normalisation of `both` bytes of queries and keys."""
  if _in_attention(model):
    return Phase('unit', 0, both, model.depth)  # Their lengths alone.
  return Phase('unit', 0, 2 * both, 2 * model.depth)


def _backward(run: RunSpec, sequence: Sequence, images: int) -> list[Phase]:
  """Two products for one; element-wise work reads its input once more."""
  model = run.model
  work = flops.forward_flops_per_image(model, sequence)
  d, m, n = model.width, hidden_width(model), model.depth
  c, rows = ITEM_BYTES[model.compute_dtype], images * sequence.positions
  fused = _fused(model)
  values = head_outputs(model, sequence)
  counts = parameter_counts(model, sequence)
  products = product_phases.backward(run, rows)
  up = product_phases.shapes(model)['fc1'][1]
  head = counts.head
  found = [
    # Logits in; their gradient out, in the compute type.
    Phase('loss', 0, rows * values * (_FLOAT32 + c), 1),
    Phase(
      'head',
      2 * images * work.head,
      rows * c * (2 * values + 5 * d) + head * (c + _FLOAT32),
      3,
    ),
    products['fc2'],
    Phase('activation', 0, n * rows * (2 * up + m) * c, n),
    products['fc1'],
    Phase('residual', 0, n * 2 * rows * 3 * d * c, (2 - fused) * n),
    products['projection'],
    # q, k, v, output and its gradient in, three gradients out.
    Phase('attention', 2 * images * work.attention, n * rows * 8 * d * c, n),
    *(
      ()
      if _in_attention(model)
      else [Phase('unit', 0, n * rows * 6 * d * c, 2 * n)]
    ),
    products['qkv'],
    # The stream, two gradients in, one out.
    Phase('norm', 0, n * (8 - fused) * rows * d * c, 2 * n),
    Phase(
      'adaln',
      2 * images * work.adaln,
      (c + _FLOAT32) * counts.adaln,
      2 * int(work.adaln > 0),
    ),
    Phase('embed', 2 * images * work.embed, _FLOAT32 * rows * 3 * d, 3),
  ]
  if model.products == 'fp8':
    found.append(product_phases.turning(run, rows))
  return [
    dataclasses.replace(p, name=f'{p.name}, backward')
    for p in found
    if p.name != 'unit' or model.l2_norm
  ]
