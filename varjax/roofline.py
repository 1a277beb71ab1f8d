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

from varjax import backends, devices, errors, flops, memory
from varjax.params import parameter_counts, sequence_of
from varjax.spec import RunSpec
from varjax.topology import Topology

# Shares of the nominal peaks that good kernels reach. Assumed, but for the
# H100, whose products and copies we timed at .81 and .90 of nominal.
COMPUTE_EFFICIENCY = 0.6
HBM_EFFICIENCY = 0.8
LINK_EFFICIENCY = 0.7

_FLOAT32 = 4
_BYTES = {'float32': 4, 'bfloat16': 2}


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
    run: a transformer run; its batch, mesh, remat policy and types count.
    slice_: where it trains.

  Raises:
    ConfigError: the mesh does not fit the slice, the batch does not divide
      by the mesh, the run trains a tokenizer, or it has products that the
      device has not.
  """
  if run.task == 'reconstruct':
    raise errors.ConfigError('the roofline is of transformers only')
  data, fsdp, _ = memory.mesh_shape(run.mesh, slice_.count)
  micro = run.batch_size // run.optim.accumulate
  if micro % (data * fsdp):
    raise errors.ConfigError(
      f'batch_size={run.batch_size} in {run.optim.accumulate} parts: each '
      f'must be a multiple of data * fsdp = {data * fsdp} on {slice_}'
    )
  device, count = slice_.device, slice_.count
  attention = backends.of_model(
    run.model, sequence_of(run.tokenizer), device.platform
  )
  work = flops.hardware_train_flops_per_image(
    run.model, run.tokenizer, skips_masked=attention in backends.SKIPPING
  )
  model = flops.train_flops_per_image(run.model, run.tokenizer).total
  eight = flops.float8_train_flops_per_image(run.model, run.tokenizer)
  least = (work - eight) / device.peak_flops
  if eight:
    least += eight / devices.float8_flops(device)
  hbm = hbm_bytes(run, count, device.platform)
  link = link_bytes(run, count)
  made = Roofline(
    compute_s=least * run.batch_size / count / COMPUTE_EFFICIENCY,
    hbm_s=hbm / (device.bandwidth * HBM_EFFICIENCY),
    link_s=link / (slice_.bandwidth * LINK_EFFICIENCY),
    hbm_bytes=hbm,
    link_bytes=link,
    mfu=1.0,
  )
  speed = model * run.batch_size / count / made.step_s
  return dataclasses.replace(made, mfu=speed / device.peak_flops)


def hbm_bytes(run: RunSpec, devices: int, platform: str | None = None) -> float:
  """Bytes that one device reads and writes in one update.

  The optimiser reads and writes weights and moments and reads gradients;
  every part of the batch writes and reads gradients, reads the gathered
  weights once forward and once backward, and writes and reads every
  activation and logit once: what recomputation does not keep is moved all
  the same. `platform` is as in `memory.memory_estimate`.
  """
  _, _, tensor = memory.mesh_shape(run.mesh, devices)
  whole = dataclasses.replace(run.model, remat='none')
  found = memory.memory_estimate(
    dataclasses.replace(run, model=whole), devices, platform=platform
  )
  optimiser = 2 * (found.params + found.moments) + found.gradients
  weights = parameter_counts(run.model, run.tokenizer).total / tensor
  parts = run.optim.accumulate
  passes = 2 * weights * _BYTES[run.model.compute_dtype]
  moved = 2 * (found.activations + found.logits)
  return optimiser + parts * (2 * found.gradients + passes + moved)


def link_bytes(run: RunSpec, devices: int) -> float:
  """Bytes that one device sends in one update, with ring collectives.

  fsdp: each part of the batch gathers the weights in the compute type for
  the forward and again for the backward pass, and scatters float32
  gradients. data: gradients are all-reduced once, in float32. tensor: four
  all-reduces of the residual stream a block, two forward and two backward.
  """
  data, fsdp, tensor = memory.mesh_shape(run.mesh, devices)
  parts = run.optim.accumulate
  compute = _BYTES[run.model.compute_dtype]
  weights = parameter_counts(run.model, run.tokenizer).total / tensor
  gathered = weights * (fsdp - 1) / fsdp
  sent = parts * gathered * (2 * compute + _FLOAT32)
  sent += 2 * _FLOAT32 * (weights / fsdp) * (data - 1) / data
  images = run.batch_size / (data * fsdp)
  stream = images * sequence_of(run.tokenizer).positions * run.model.width
  reduces = 4 * run.model.depth * 2 * (tensor - 1) / tensor
  return sent + reduces * stream * compute
