"""What a planned run costs: memory, step time, device-hours, money.

Model FLOPs over peak times utilisation; utilisation is given, taken from a
measured record of the same device, assumed, or that of the roofline of the
run on its slice. Prices are the user's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import pandas as pd

from varjax import devices, errors, flops, memory
from varjax.devices import Device
from varjax.roofline import Roofline, roofline
from varjax.spec import RunSpec
from varjax.topology import Topology


@dataclasses.dataclass(frozen=True)
class Machine:
  """Where a run is to train.

  Attributes:
    device: one accelerator.
    count: how many.
    mfu: model FLOPs per second over the nominal peak; None for that of the
      roofline of each run on `topology`.
    source: where the mfu comes from.
    price: per device-hour in the user's currency; None if not given.
    topology: how the devices are joined; None if not known.
  """

  device: Device
  count: int
  mfu: float | None
  source: str
  price: float | None = None
  topology: Topology | None = None

  def __post_init__(self):
    if self.count < 1:
      raise errors.ConfigError(f'devices={self.count}: must be at least 1')
    if self.mfu is None and self.topology is None:
      raise errors.ConfigError('without a topology, an mfu must be given')
    if self.mfu is not None and not 0 < self.mfu <= 1:
      raise errors.ConfigError(f'mfu={self.mfu}: must be in (0, 1]')


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one run on one machine.

  Attributes:
    step_s: seconds per update; wall_h, device_hours: of the whole run.
    money: None without a price.
    memory_bytes: estimate for one device; fits: whether it is below it.
    mfu: that the step time is from.
    roofline: of the run on its slice, whatever the mfu is from; None
      without a topology.
  """

  step_s: float
  wall_h: float
  device_hours: float
  money: float | None
  memory_bytes: int
  fits: bool
  mfu: float
  roofline: Roofline | None = None


def cost(run: RunSpec, steps: int, machine: Machine) -> Cost:
  """Cost of `steps` updates of a run.

  Raises:
    ConfigError: the mesh or batch does not fit the devices.
  """
  work = flops.train_flops_per_image(run.model, run.tokenizer).total
  roof = roofline(run, machine.topology) if machine.topology else None
  mfu = machine.mfu
  if mfu is None:
    assert roof is not None, 'Machine has an mfu or a topology'
    mfu = roof.mfu
  speed = machine.count * machine.device.peak_flops * mfu
  step_s = work * run.batch_size / speed
  wall_h = step_s * steps / 3600
  estimate = memory.memory_estimate(
    run, machine.count, platform=machine.device.platform
  ).total
  hours = wall_h * machine.count
  return Cost(
    step_s=step_s,
    wall_h=wall_h,
    device_hours=hours,
    money=None if machine.price is None else hours * machine.price,
    memory_bytes=estimate,
    fits=estimate <= machine.device.memory_bytes,
    mfu=mfu,
    roofline=roof,
  )


def measured_mfu(table: pd.DataFrame, device: Device) -> tuple[float, str]:
  """Utilisation of the largest complete run on the same device.

  Args:
    table: records.
    device: where the plan will run.

  Returns:
    The mfu, and the run it is from.

  Raises:
    ConfigError: no such run has one.
  """
  rows = table[(table['status'] == 'complete') & table['mfu'].notna()]
  rows = rows[rows['task'] != 'reconstruct']
  kinds = rows['device_kind'].map(lambda k: devices.find(str(k)))
  rows = rows[[found == device for found in kinds]]
  if rows.empty:
    raise errors.ConfigError(
      f'the records hold no complete run on {device.name} with an mfu; '
      'give --mfu instead'
    )
  row = rows.sort_values('params_body').iloc[-1]
  return float(row['mfu']), f'measured in {row["name"] or row["run_id"]}'


def price_of(text: str | None, device: Device) -> float | None:
  """A price per device-hour: a number, or a JSON file {device: price}.

  Raises:
    ConfigError: neither, a missing device, or a negative price.
  """
  if text is None:
    return None
  try:
    value = float(text)
  except ValueError:
    path = pathlib.Path(text)
    if not path.is_file():
      raise errors.ConfigError(
        f'price {text!r}: must be a number per device-hour, or a JSON file '
        'that maps device names to one'
      ) from None
    try:
      value = float(json.loads(path.read_text())[device.name])
    except (ValueError, KeyError, TypeError) as error:
      raise errors.ConfigError(
        f'{path}: holds no price for {device.name!r} as in '
        f'{{"{device.name}": 2.5}}'
      ) from error
  if not (math.isfinite(value) and value >= 0):
    raise errors.ConfigError(f'price {value}: must not be negative')
  return value
