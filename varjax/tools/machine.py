"""Where a plan is to run: arguments, and the machine that they name.

Between the command line of `varjax plan` and scaling/costs.py. Utilisation
is, in this order: given, measured in a record of the same device, of a
roofline of the run on its slice, or assumed. What is known of a slice from
elsewhere (a compiler, a measurement) belongs in `of_args`.
"""

from __future__ import annotations

import argparse

import pandas as pd

from varjax import devices, errors, memory, topology
from varjax.aot import cache, report
from varjax.aot.compiled import Compiled
from varjax.aot.request import Request
from varjax.scaling import costs, slices
from varjax.spec import RunSpec
from varjax.tools import aot
from varjax.topology import Topology

_DEFAULT_MFU = 0.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds what `of_args` reads."""
  add = parser.add_argument
  add('--device', help=f'one of {", ".join(devices.DEVICES)}')
  add('--devices', type=int, help='how many; 1 if unset')
  add(
    '--topology',
    help='device and slice instead, as v5e:4x4, v5p:4x4x4 or h100:8: step '
    'time by a roofline unless --mfu or --records say otherwise',
  )
  add('--mesh', help='data,fsdp,tensor; one may be -1 (as --mesh=-1,1,1)')
  add('--remat', choices=memory.REMAT, help="model.remat; the run's if unset")
  add(
    '--mfu',
    type=float,
    help='share of the nominal peak; if unset, that of --records, of a '
    f'roofline on --topology, or {_DEFAULT_MFU}',
  )
  add(
    '--compile',
    action='store_true',
    help='ask the real compiler about the plan on --topology, as `varjax aot` '
    'does (minutes); what it has said before is used in any case',
  )
  add('--price', help='per device-hour, or a JSON file {device: price}')


def of_args(
  args: argparse.Namespace, table: pd.DataFrame | None, base: RunSpec
) -> costs.Machine | None:
  """The machine that the arguments name; None if they name none.

  Args:
    args: of `add_arguments`, and `device_hours`.
    table: records with a measured mfu, or None.
    base: the run whose mesh must fit the slice.

  Raises:
    ConfigError: contradicting, unknown or missing arguments.
  """
  slice_ = _slice(args, base)
  if args.device is None and slice_ is None:
    for name in ('device_hours', 'price', 'mfu'):
      if getattr(args, name) is not None:
        raise errors.ConfigError(f'--{name} needs --device or --topology')
    return None
  device = slice_.device if slice_ else devices.get(args.device)
  count = slice_.count if slice_ else args.devices or 1
  mfu, source = args.mfu, 'given'
  if mfu is None and table is not None and table['mfu'].notna().any():
    try:
      mfu, source = costs.measured_mfu(table, device)
    except errors.ConfigError:
      if slice_ is None:
        raise
      source = f'roofline, for the records hold no run on {device.name}'
  elif mfu is None and slice_:
    source = 'roofline'
  elif mfu is None:
    mfu, source = _DEFAULT_MFU, 'assumed'
  price = costs.price_of(args.price, device)
  return costs.Machine(device, count, mfu, source, price, slice_)


def flops_of(
  hours: float | None, machine: costs.Machine | None
) -> float | None:
  """FLOPs of device-hours; None where the utilisation depends on the run.

  Raises:
    ConfigError: hours that are not positive.
  """
  if hours is None or machine is None:
    return None
  if hours <= 0:
    raise errors.ConfigError(f'device_hours={hours}: must be positive')
  if machine.mfu is None:
    return None
  return hours * 3600 * machine.device.peak_flops * machine.mfu


def check(
  run: RunSpec, machine: costs.Machine | None, ask: bool = False
) -> Compiled | None:
  """Refuses a run that its slice cannot hold.

  Args:
    run: the planned run.
    machine: where.
    ask: whether to run the compiler where it was not asked before.

  Returns:
    What the compiler said, None if it was not asked.

  Raises:
    DoesNotFit: the compiler refuses it.
    FitRefused: it was not asked, and the estimate exceeds the memory.
    ConfigError: there is nothing to compile for.
  """
  slice_ = machine.topology if machine else None
  if slice_ is None:
    if ask:
      raise errors.ConfigError('--compile needs --topology')
    return None
  request = Request(run)
  found = aot.ask(request, slice_) if ask else cache.find(request, slice_)
  if found is None:
    slices.check_memory(run, slice_)
  elif not found.fits:
    said = report.describe(request, slice_, found)
    raise errors.DoesNotFit(aot.refusal(request, slice_, said))
  return found


def compiled_line(found: Compiled) -> str:
  """What a plan says of a run that the compiler accepted."""
  name, version = list(found.versions.items())[-1]
  return (
    f'accepted by the real compiler ({name} {version}): peak '
    f'{report.gib(found.used_bytes)} a device'
  )


def _slice(args: argparse.Namespace, base: RunSpec) -> Topology | None:
  """The slice of --topology, which the mesh must fit."""
  if args.topology is None:
    return None
  if args.device is not None or args.devices is not None:
    raise errors.ConfigError('give --topology, or --device and --devices')
  slice_ = topology.parse(args.topology)
  try:
    memory.mesh_shape(base.mesh, slice_.count)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{error}; pass --mesh 1,-1,1') from error
  return slice_
