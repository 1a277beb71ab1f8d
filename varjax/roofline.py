"""The step time that arithmetic, memory and interconnect allow.

For plans on devices where nothing was measured. Three times are computed
for one update on one device: matrix products at the nominal peak, bytes
through HBM, bytes sent over the interconnect; each at an assumed share of
its peak. The step takes the longest of them if they overlap perfectly and
their sum if they never do; a plan uses the first. An estimate, good to
perhaps a third: measured records are better. No JAX in here.
"""

from __future__ import annotations

import dataclasses

from varjax import (
  backends,
  devices,
  errors,
  flops,
  memory,
  reconstruct_costs,
)
from varjax.params import ITEM_BYTES, parameter_counts, sequence_of
from varjax.spec import RunSpec
from varjax.tokenizer_costs import (
  decoder_layers,
  encoder_layers,
  enlarging_flops_saved,
)
from varjax.topology import Topology

# Shares of the nominal peaks that good kernels reach. Assumed, but for the
# H100, whose products and copies we timed at .81 and .90 of nominal.
COMPUTE_EFFICIENCY = 0.6
HBM_EFFICIENCY = 0.8
LINK_EFFICIENCY = 0.7

_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Roofline:
  """One update on one device, in seconds.

  Attributes:
    compute_s, hbm_s, link_s: if nothing else took time.
    hbm_bytes, link_bytes: moved by one device in one update.
    mfu: model FLOPs per second over the nominal peak, at `step_s`.
  """

  compute_s: float
  hbm_s: float
  link_s: float
  hbm_bytes: float
  link_bytes: float
  mfu: float

  @property
  def step_s(self) -> float:
    """With perfect overlap."""
    return max(self.compute_s, self.hbm_s, self.link_s)

  @property
  def serial_s(self) -> float:
    """Without any."""
    return self.compute_s + self.hbm_s + self.link_s

  @property
  def middle_s(self) -> float:
    """Half-way between perfect overlap and none: what to rank by."""
    return (self.step_s + self.serial_s) / 2

  def moving(self, slice_: Topology, hbm: float, link: float) -> Roofline:
    """The same work on a slice, moving other bytes.

    Args:
      slice_: where.
      hbm: bytes that one device reads and writes.
      link: bytes that one device sends.
    """
    made = dataclasses.replace(
      self,
      hbm_bytes=hbm,
      hbm_s=hbm / (slice_.device.bandwidth * HBM_EFFICIENCY),
      link_bytes=link,
      link_s=link / (slice_.bandwidth * LINK_EFFICIENCY),
    )
    return dataclasses.replace(made, mfu=self.mfu * self.step_s / made.step_s)

  @property
  def bound(self) -> str:
    """What the step waits for: compute, memory or interconnect."""
    times = {
      'compute': self.compute_s,
      'memory': self.hbm_s,
      'interconnect': self.link_s,
    }
    return max(times, key=times.__getitem__)


def roofline(run: RunSpec, slice_: Topology) -> Roofline:
  """The step time of a run on a slice.

  Args:
    run: its batch, mesh, remat policy and types count. Of stage 1, an update
      with every loss.
    slice_: where it trains.

  Raises:
    ConfigError: the mesh does not fit the slice, the batch does not divide
      by the mesh, or the run has products that the device has not.
  """
  data, fsdp, _ = memory.mesh_shape(run.mesh, slice_.count)
  micro = run.batch_size // run.optim.accumulate
  if micro % (data * fsdp):
    raise errors.ConfigError(
      f'batch_size={run.batch_size} in {run.optim.accumulate} parts: each '
      f'must be a multiple of data * fsdp = {data * fsdp} on {slice_}'
    )
  device, count = slice_.device, slice_.count
  if run.task == 'reconstruct':
    model = reconstruct_costs.update_flops_per_image(run)
    work = model - 3 * enlarging_flops_saved(run.tokenizer)
  else:
    attention = backends.of_model(
      run.model, sequence_of(run.tokenizer), device.platform
    )
    work = flops.hardware_train_flops_per_image(
      run.model, run.tokenizer, skips_masked=attention in backends.SKIPPING
    )
    model = flops.train_flops_per_image(run.model, run.tokenizer).total
    eight = flops.float8_train_flops_per_image(run.model, run.tokenizer)
    if eight:
      faster = devices.float8_flops(device) / device.peak_flops
      work -= eight * (1 - 1 / faster)
  hbm = hbm_bytes(run, count, device.platform)
  images = run.batch_size / count
  link = link_bytes(run, count)
  return of_work(slice_, work * images, hbm, link, model * images)


def of_work(
  slice_: Topology,
  work: float,
  hbm: float,
  link: float = 0.0,
  model: float | None = None,
) -> Roofline:
  """The roofline of any work of one device.

  Args:
    slice_: where.
    work: FLOPs that it executes, those of faster types at their share.
    hbm: bytes that it reads and writes.
    link: bytes that it sends.
    model: FLOPs that count for the MFU; all of them by default.
  """
  device = slice_.device
  made = Roofline(
    compute_s=work / (device.peak_flops * COMPUTE_EFFICIENCY),
    hbm_s=hbm / (device.bandwidth * HBM_EFFICIENCY),
    link_s=link / (slice_.bandwidth * LINK_EFFICIENCY),
    hbm_bytes=hbm,
    link_bytes=link,
    mfu=1.0,
  )
  speed = (work if model is None else model) / made.step_s
  return dataclasses.replace(made, mfu=speed / device.peak_flops)


def hbm_bytes(run: RunSpec, devices: int, platform: str | None = None) -> float:
  """Bytes that one device reads and writes in one update.

  The optimiser reads and writes weights and moments and reads gradients;
  every part of the batch writes and reads gradients, reads the gathered
  weights once forward and once backward, and writes and reads every
  activation and logit once: what recomputation does not keep is moved all
  the same. In stage 1 see `_stage_1_bytes`. `platform` is as in
  `memory.memory_estimate`.
  """
  if run.task == 'reconstruct':
    return _stage_1_bytes(run, devices)
  _, _, tensor = memory.mesh_shape(run.mesh, devices)
  whole = dataclasses.replace(run.model, remat='none')
  found = memory.memory_estimate(
    dataclasses.replace(run, model=whole), devices, platform=platform
  )
  optimiser = 2 * (found.params + found.moments) + found.gradients
  weights = parameter_counts(run.model, run.tokenizer).total / tensor
  parts = run.optim.accumulate
  passes = 2 * weights * ITEM_BYTES[run.model.compute_dtype]
  moved = 2 * (found.activations + found.logits)
  return optimiser + parts * (2 * found.gradients + passes + moved)


def link_bytes(run: RunSpec, devices: int) -> float:
  """Bytes that one device sends in one update, with ring collectives.

  fsdp: each part of the batch gathers the weights in the compute type for
  the forward and again for the backward pass, and scatters float32
  gradients. data: gradients are all-reduced once, in float32. tensor: four
  all-reduces of the residual stream a block, two forward and two backward;
  in a residual block of the tokenizer one each.
  """
  data, fsdp, tensor = memory.mesh_shape(run.mesh, devices)
  parts = run.optim.accumulate
  images = run.batch_size / (data * fsdp)
  if run.task == 'reconstruct':
    compute = ITEM_BYTES[run.tokenizer.compute_dtype]
    weights = reconstruct_costs.trained_parameters(run)
    layers = encoder_layers(run.tokenizer) + decoder_layers(run.tokenizer)
    joined = images * sum(layer.joined for layer in layers)
  else:
    compute = ITEM_BYTES[run.model.compute_dtype]
    weights = parameter_counts(run.model, run.tokenizer).total / tensor
    rows = images * sequence_of(run.tokenizer).positions
    joined = 4 * run.model.depth * rows * run.model.width
  gathered = weights * (fsdp - 1) / fsdp
  sent = parts * gathered * (2 * compute + _FLOAT32)
  sent += 2 * _FLOAT32 * (weights / fsdp) * (data - 1) / data
  return sent + 2 * (tensor - 1) / tensor * joined * compute


def _stage_1_bytes(run: RunSpec, devices: int) -> float:
  """Of an update of stage 1 with every loss.

  Every layer's output is written and read forwards, read once more backwards,
  and its gradient written and read; the weights of frozen networks are read
  forwards and backwards. The perceptual network computes in float32.
  """
  data, fsdp, _ = memory.mesh_shape(run.mesh, devices)
  found = memory.memory_estimate(run, devices)
  layers = encoder_layers(run.tokenizer) + decoder_layers(run.tokenizer)
  outputs = sum(layer.outputs for layer in layers)
  size = ITEM_BYTES[run.tokenizer.compute_dtype]
  values = reconstruct_costs.TRAINING_MOVES * outputs * size
  perceptual, discriminator = reconstruct_costs.loss_values_moved(run)
  values += perceptual * _FLOAT32 + discriminator * size
  trained = reconstruct_costs.trained_parameters(run)
  optimiser = 2 * (found.params + found.moments) + found.gradients
  passes = 2 * (trained * size + found.frozen)
  parts = run.optim.accumulate
  moved = run.batch_size / (data * fsdp) * values
  return optimiser + parts * (2 * found.gradients + passes) + moved
