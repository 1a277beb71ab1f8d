"""An estimate of the device memory that a training run needs.

An estimate, not a measurement: weights, moments and gradients are exact,
activations follow from constants of how a block is written and are good to
about a quarter of the total; what the compiler fuses, pads or keeps twice
is its own. `varjax aot` asks the compiler itself. No JAX in here.
Conventions: docs/flops.md.
The activations of a stage-1 run are those of its tokenizer and of the
largest of the networks that its losses look through.
"""

from __future__ import annotations

import dataclasses
import math

from varjax import backends, errors, reconstruct_costs
from varjax.params import (
  ITEM_BYTES,
  Sequence,
  depth_spec,
  head_outputs,
  hidden_width,
  mlp_products,
  parameter_counts,
  scale_sequence,
)
from varjax.spec import MeshSpec, ModelSpec, RunSpec
from varjax.tokenizer_costs import (
  decoder_layers,
  encoder_layers,
  tokenizer_parameter_counts,
)

_FLOAT32 = 4
_FLOAT8 = 1
# Policies of `model.remat`, from those that keep most to those that repeat
# most.
REMAT = ('none', 'light', 'dots', 'slim', 'full')
# Of what autodiff alone would keep of a block, alive while the block is
# computed again; the TPU compiler's peaks of d16 to d36 on v5e, v5p and v6e
# agree with it (docs/pods.md).
_ALIVE = 0.9
# Of a device's memory that `choose_remat` fills by the estimate.
_FILLED = 0.9


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
  """Bytes on one device.

  Attributes:
    params: master weights in float32.
    average: moving average of the weights, where the run keeps one.
    moments: first and second moment of AdamW.
    gradients: in the compute type of the blocks' kernels, in float32 of all
      others, with the float32 accumulator where there is one.
    compute_copy: weights cast to the compute type, once an update; to float8
      in every block, again where it is computed again.
    gathered: the AdaLN projection of all blocks, whole on every device.
    frozen: the tokenizer, where images are encoded on the fly; in stage 1
      the pretrained networks of the losses.
    activations: what the forward pass keeps for the backward pass.
    block: one block while its backward pass computes it again.
    logits: codebook logits, their softmax and its gradient.
  """

  params: int
  average: int
  moments: int
  gradients: int
  compute_copy: int
  gathered: int
  frozen: int
  activations: int
  block: int
  logits: int

  @property
  def total(self) -> int:
    """All of it; logits are gone when the blocks are computed again."""
    return sum(dataclasses.astuple(self)) - min(self.block, self.logits)


def mesh_shape(mesh: MeshSpec, devices: int) -> tuple[int, int, int]:
  """(data, fsdp, tensor) with the -1 entry resolved.

  Raises:
    ConfigError: the axes do not multiply to `devices`.
  """
  sizes = _sizes(mesh)
  known = math.prod(size for size in sizes if size != -1)
  if sizes.count(-1) == 1 and known > 0 and devices % known == 0:
    sizes[sizes.index(-1)] = devices // known
  if -1 in sizes or math.prod(sizes) != devices or min(sizes) < 1:
    raise errors.ConfigError(
      f'mesh={mesh.data},{mesh.fsdp},{mesh.tensor}: data * fsdp * tensor '
      f'must be the number of devices, {devices}; one of them may be -1'
    )
  return sizes[0], sizes[1], sizes[2]


def memory_estimate(
  run: RunSpec,
  devices: int | None = None,
  sequence: Sequence | None = None,
  platform: str | None = None,
) -> MemoryEstimate:
  """Bytes on one device while `run` trains on `devices` devices.

  Args:
    run: the run; its mesh, batch, remat policy and types are what count.
    devices: over all hosts; the fewest that the mesh allows by default.
    sequence: of the run's order; only next-scale needs none.
    platform: of the devices, as JAX names it, where it is known: it decides
      what `model.attention=auto` is.

  Raises:
    ConfigError: the mesh does not fit the devices, or the order is another
      and has no sequence.
  """
  if devices is None:
    devices = math.prod(size for size in _sizes(run.mesh) if size != -1)
  data, fsdp, tensor = mesh_shape(run.mesh, devices)
  micro_batch = run.batch_size // run.optim.accumulate
  images = math.ceil(micro_batch / (data * fsdp))
  if run.task == 'reconstruct':
    weights = math.ceil(reconstruct_costs.trained_parameters(run) / fsdp)
    activations = _tokenizer_activations(run, images)
    activations += _FLOAT32 * images * reconstruct_costs.loss_activations(run)
    frozen = _FLOAT32 * reconstruct_costs.frozen_parameters(run)
    logits = copy = block = gathered = fewer = 0
  else:
    sequence = sequence or scale_sequence(run)
    weights = _weights(run, sequence, fsdp, tensor)
    compute = ITEM_BYTES[run.model.compute_dtype]
    copy, fewer = _rounded(run, sequence, weights, fsdp * tensor)
    rows = images * sequence.positions
    whole = not (micro_batch % (data * fsdp) or run.model.heads % tensor)
    attention = backends.of_model(run.model, sequence, platform, whole)
    kept = kept_bytes(run.model, tensor, attention)
    again = _again(run.model, tensor)
    activations = rows * run.model.depth * kept
    block = round(rows * again)
    if sequence.depth_dim:
      depth = depth_spec(run.model)
      codes = rows * sequence.targets_per_position
      activations += codes * depth.depth * kept_bytes(depth, tensor)
      block = max(block, round(codes * _again(depth, tensor)))
    projection = parameter_counts(run.model, sequence).adaln
    gathered = compute * projection if fsdp > 1 else 0
    values = head_outputs(run.model, sequence)
    logits = rows * (values // tensor) * (2 * _FLOAT32 + compute)
    logits //= max(run.model.loss_chunks, 1)
    frozen = 0
    if run.input == 'images':
      # Replicated; encoding happens before the step, in float32.
      frozen = _FLOAT32 * tokenizer_parameter_counts(run.tokenizer).total
  accumulators = 2 if run.optim.accumulate > 1 else 1
  first_moment = ITEM_BYTES[run.optim.moments_dtype]
  return MemoryEstimate(
    params=_FLOAT32 * weights,
    average=_FLOAT32 * weights * (run.ema > 0),
    moments=(first_moment + _FLOAT32) * weights,
    gradients=accumulators * _FLOAT32 * weights - fewer,
    compute_copy=copy,
    gathered=gathered,
    frozen=frozen,
    activations=activations,
    block=block,
    logits=logits,
  )


def kept_bytes(
  model: ModelSpec, tensor: int = 1, attention: str = 'xla'
) -> int:
  """Bytes of a position that one block keeps for its backward pass.

  Exact: a test counts what autodiff keeps. Attention is taken to be a fused
  kernel that keeps its inputs, its output and one float32 number a row and
  head, so no [L, L] logits are kept. Further kept are the input of every
  product, the outputs that AdaLN gates, and for each normalisation float32
  statistics of its row.

  Args:
    model: its remat policy, types and variants are what count.
    tensor: devices over which heads and MLP are cut.
    attention: the back end (`backends.of_model`); one that normalises
      queries and keys by itself keeps no normalised copies, but the inverse
      length of each row.

  Raises:
    ConfigError: there is no such policy.
  """
  if model.remat not in REMAT:
    raise errors.ConfigError(
      f'model.remat={model.remat!r}: must be one of {", ".join(REMAT)}'
    )
  d, m, c = model.width, hidden_width(model), ITEM_BYTES[model.compute_dtype]
  hidden = (2 if model.mlp == 'swiglu' else 1) * m * c
  eight = model.products == 'fp8'
  rounded = _FLOAT8 if eight else c  # What a product keeps of its input.
  gated = d * c * (model.norm == 'adaln')  # An output of either branch.
  stream = d * c
  # The projection is needed to find the stream between the two branches.
  outputs = d * c + gated
  raw = backends.normalises(attention, model)
  qkv, attended = 3 * d * c, d * c + (3 if raw else 1) * model.heads * _FLOAT32
  if model.remat == 'full':
    return stream
  if model.remat == 'slim':
    return stream + outputs + (qkv + attended) // tensor
  if model.remat == 'dots':
    return stream + outputs + (qkv + hidden) // tensor
  if model.remat == 'light':
    return stream + outputs + (qkv + attended + hidden) // tensor
  statistics = 1 if model.norm == 'rmsnorm' else 2
  norms = 2 * (d * rounded + statistics * _FLOAT32)
  if model.l2_norm and not raw:
    qkv += 2 * (d * c + model.heads * _FLOAT32)
  if eight:  # Attention keeps its output, and the projection a copy.
    attended += d * _FLOAT8
  inner = qkv + attended + hidden + m * rounded
  return 2 * stream + norms + 2 * gated + inner // tensor


def choose_remat(
  run: RunSpec,
  devices: int | None,
  memory_bytes: float | None,
  sequence: Sequence | None = None,
  platform: str | None = None,
) -> RunSpec:
  """The run with `model.remat='auto'` replaced; any other is left alone.

  The policy that repeats least among those whose estimate leaves a tenth of
  the memory free.

  Args:
    run: its mesh, batch, optimiser and types are what count.
    devices: over all hosts.
    memory_bytes: of one device; None where nobody knows.
    sequence: of the run's order; only next-scale needs none.
    platform: as in `memory_estimate`.

  Raises:
    ConfigError: the memory is not known, or no policy fits.
  """
  if run.task == 'reconstruct' or run.model.remat != 'auto':
    return run
  if memory_bytes is None:
    raise errors.ConfigError(
      'model.remat=auto: the memory of this device is not known; choose one '
      f'of {", ".join(REMAT)}'
    )
  needed = 0
  for remat in REMAT:
    chosen = dataclasses.replace(
      run, model=dataclasses.replace(run.model, remat=remat)
    )
    needed = memory_estimate(chosen, devices, sequence, platform).total
    if needed <= _FILLED * memory_bytes:
      return chosen
  raise errors.ConfigError(
    f'model.remat=auto: even {REMAT[-1]} needs {needed / 2**30:.1f} of '
    f'{memory_bytes / 2**30:.1f} GiB by the estimate; raise optim.accumulate '
    'or mesh.fsdp, or choose a policy by name to try all the same'
  )


def _sizes(mesh: MeshSpec) -> list[int]:
  return [mesh.data, mesh.fsdp, mesh.tensor]


def _weights(run: RunSpec, sequence: Sequence, fsdp: int, tensor: int) -> int:
  """Weights on one device: blocks and head are split by both axes.

  AdaLN and the tables are split by fsdp alone: sharding their output
  dimension would make every block gather it.
  """
  counts = parameter_counts(run.model, sequence)
  both = counts.linear + counts.depth + counts.head
  return math.ceil(both / (fsdp * tensor) + (counts.total - both) / fsdp)


def _rounded(
  run: RunSpec, sequence: Sequence, weights: int, parts: int
) -> tuple[int, int]:
  """Bytes of the weights in the compute type, and what gradients save by it.

  Args:
    run, sequence: the run, and of its order.
    weights: on one device.
    parts: into which the blocks are cut.
  """
  model, compute = run.model, ITEM_BYTES[run.model.compute_dtype]
  if compute == _FLOAT32:
    return 0, 0
  if model.products == 'compute':
    kernels = model.depth * (4 * model.width**2 + mlp_products(model))
    return compute * weights, (_FLOAT32 - compute) * kernels // parts
  linear, cast = parameter_counts(model, sequence).linear, weights
  if model.remat != 'none':
    cast -= linear * (model.depth - 1) // model.depth // parts
    linear //= model.depth
  return compute * cast - (compute - _FLOAT8) * linear // parts, 0


def _again(model: ModelSpec, tensor: int) -> float:
  """Bytes of a position that are alive while one block is computed again.

  A share of what a block works on with every inner value in float32: two
  normalisations and their modulated copies; q, k, v before and after their
  normalisation; attention output and projection; GELU's input, inner value
  and output.
  """
  if model.remat == 'none':
    return 0
  d, m = model.width, hidden_width(model)
  c = ITEM_BYTES[model.compute_dtype]
  norms = 2 * d * (_FLOAT32 + c)
  qkv = 3 * d * c + 2 * d * (_FLOAT32 + c) * model.l2_norm
  mlp = m * (2 * c + 2 * _FLOAT32)
  return _ALIVE * (norms + (qkv + mlp) // tensor + 4 * d * c)


def _tokenizer_activations(run: RunSpec, images: int) -> int:
  """Every layer's output once, for both halves of the network."""
  layers = encoder_layers(run.tokenizer) + decoder_layers(run.tokenizer)
  size = ITEM_BYTES[run.tokenizer.compute_dtype]
  return images * size * sum(layer.outputs for layer in layers)
