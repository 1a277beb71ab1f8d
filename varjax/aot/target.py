"""The real TPU compiler on a machine without a TPU.

libtpu compiles for a described slice as well as for an attached one. It
asks the cloud for the slice it runs on, unless the environment answers
first: `prepare` does, and must run before JAX is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from varjax import errors
from varjax.topology import Topology

if TYPE_CHECKING:
  import jax

# What a machine that is not a TPU host must say. The accelerator type is
# only looked at for being one: every topology compiles under it.
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  # A chip has one user, which libtpu ensures by a lock file; here is none.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
_COMPILED = ('jax', 'jaxlib', 'libtpu')


def prepare() -> None:
  """Sets the environment for compiling without a TPU.

  Raises:
    ConfigError: libtpu is not installed.
  """
  require_libtpu()
  os.environ.update(_ENVIRONMENT)
  if 'jax' in sys.modules:
    import jax

    jax.config.update('jax_platforms', 'cpu')


def require_libtpu() -> None:
  """Raises ConfigError, with the command to type, without libtpu."""
  if importlib.util.find_spec('libtpu') is None:
    raise errors.ConfigError(
      "the TPU compiler is not installed; pip install 'varjax[tpu]' brings "
      'it (libtpu, about 700 MB; no TPU is needed)'
    )


def versions() -> dict[str, str]:
  """Versions of what compiles; '' for what is not installed."""
  found = {}
  for name in _COMPILED:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = ''
  return found


def devices(slice_: Topology) -> list[jax.Device]:
  """Described devices of a TPU slice; nothing can run on them.

  Args:
    slice_: of TPUs.

  Raises:
    ConfigError: not TPUs, or a slice that libtpu does not know.
  """
  from jax.experimental import topologies

  options = {}
  if not slice_.device.torus:
    raise errors.ConfigError(
      f'topology {slice_}: only TPUs can be compiled for without the device'
    )
  if slice_.device.name == 'v4':
    # Otherwise each of the two cores of a chip is a device.
    options['chip_config_name'] = 'megacore'
  try:
    described = topologies.get_topology_desc(
      platform='tpu', topology_name=str(slice_), **options
    )
  except Exception as error:
    # JaxRuntimeError, ValueError or RuntimeError, by the version.
    reason = str(error).strip().splitlines()[0] if str(error) else ''
    raise errors.ConfigError(
      f'topology {slice_}: libtpu does not describe it ({reason})'
    ) from error
  found = list(described.devices)
  if len(found) != slice_.count:
    raise errors.ConfigError(
      f'topology {slice_}: libtpu describes {len(found)} devices, not '
      f'{slice_.count}'
    )
  return found
