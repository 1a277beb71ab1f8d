"""An estimate of the device memory that a training run needs.

An estimate, not a measurement: weights, moments and gradients are exact,
activations follow from constants of how a block is written and are good to
about a quarter of the total; what the compiler fuses, pads or keeps twice
is its own. `varjax aot` asks the compiler itself. No JAX in here.
Conventions: docs/flops.md.
The activations of a stage-1 run are those of its tokenizer: a discriminator
and a perceptual network need more.
"""

from __future__ import annotations

import dataclasses
import math

from varjax import errors, reconstruct_costs
from varjax.params import (
  Sequence,
  depth_spec,
  head_outputs,
  hidden_width,
  parameter_counts,
  scale_sequence,
)
from varjax.spec import MeshSpec, RunSpec
from varjax.tokenizer_costs import (
  decoder_layers,
  encoder_layers,
  tokenizer_parameter_counts,
)

_FLOAT32 = 4
_BYTES = {'float32': 4, 'bfloat16': 2}
# Of a block that is computed again; the TPU compiler's peaks of d16 to d36
# on v5e, v5p and v6e agree with it (docs/pods.md).
_ALIVE = 0.6


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
  """Bytes on one device.

  Attributes:
    params: master weights in float32.
    average: moving average of the weights, where the run keeps one.
    moments: first and second moment of AdamW.
    gradients: in float32, with the accumulator where there is one.
    compute_copy: weights cast to the compute type.
    gathered: the AdaLN projection of all blocks, whole on every device.
    frozen: the tokenizer, where images are encoded on the fly.
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
  run: RunSpec, devices: int | None = None, sequence: Sequence | None = None
) -> MemoryEstimate:
  """Bytes on one device while `run` trains on `devices` devices.

  Args:
    run: the run; its mesh, batch, remat policy and types are what count.
    devices: over all hosts; the fewest that the mesh allows by default.
    sequence: of the run's order; only next-scale needs none.

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
    logits = copy = frozen = block = gathered = 0
  else:
    sequence = sequence or scale_sequence(run)
    weights = _weights(run, sequence, fsdp, tensor)
    compute = _BYTES[run.model.compute_dtype]
    copy = 0 if compute == _FLOAT32 else compute * weights
    rows = images * sequence.positions
    kept, again = _block_activations(run, tensor)
    activations, block = rows * kept, rows * again
    if sequence.depth_dim:
      depth = dataclasses.replace(run, model=depth_spec(run.model))
      kept, again = _block_activations(depth, tensor)
      codes = rows * sequence.targets_per_position
      activations, block = activations + codes * kept, max(block, codes * again)
    projection = parameter_counts(run.model, sequence).adaln
    gathered = compute * projection if fsdp > 1 else 0
    values = head_outputs(run.model, sequence)
    logits = rows * (values // tensor) * (2 * _FLOAT32 + compute)
    frozen = 0
    if run.input == 'images':
      # Replicated; encoding happens before the step, in float32.
      frozen = _FLOAT32 * tokenizer_parameter_counts(run.tokenizer).total
  accumulators = 2 if run.optim.accumulate > 1 else 1
  first_moment = _BYTES[run.optim.moments_dtype]
  return MemoryEstimate(
    params=_FLOAT32 * weights,
    average=_FLOAT32 * weights * (run.ema > 0),
    moments=(first_moment + _FLOAT32) * weights,
    gradients=accumulators * _FLOAT32 * weights,
    compute_copy=copy,
    gathered=gathered,
    frozen=frozen,
    activations=activations,
    block=block,
    logits=logits,
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


def _block_activations(run: RunSpec, tensor: int) -> tuple[int, int]:
  """Bytes of a position that all blocks keep, and that one needs again.

  Attention is taken to be fused, so that no [L, L] logits are kept.
  Counted per position in a block that keeps everything: two float32
  LayerNorms with their modulated copies; q, k, v before and after their
  normalisation in float32; attention output and projection; GELU's input,
  float32 inner value and output. The residual stream is one more compute
  value. 'dots' keeps the products alone; 'full' only the residual stream.
  Both compute one block again in its backward pass, of which a share is
  alive at one time.
  """
  model = run.model
  d, m = model.width, hidden_width(model)
  c = _BYTES[model.compute_dtype]
  norms = 2 * d * (_FLOAT32 + c)
  qkv = 3 * d * c + 2 * d * (_FLOAT32 + c) * model.l2_norm
  outputs = 4 * d * c
  mlp = m * (2 * c + 2 * _FLOAT32)
  everything = norms + (qkv + mlp) // tensor + outputs
  products = (3 * d * c + m * c) // tensor + 3 * d * c
  kept = {
    'none': everything,
    'dots': products + d * c,
    'full': d * c,
  }
  again = 0 if model.remat == 'none' else round(_ALIVE * everything)
  return model.depth * kept[model.remat], again


def _tokenizer_activations(run: RunSpec, images: int) -> int:
  """Every layer's output once, for both halves of the network."""
  layers = encoder_layers(run.tokenizer) + decoder_layers(run.tokenizer)
  size = _BYTES[run.tokenizer.compute_dtype]
  return images * size * sum(layer.outputs for layer in layers)
