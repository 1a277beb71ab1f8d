"""The real TPU compiler on a machine without a TPU.

libtpu compiles for a described slice as well as for an attached one. It
asks the cloud for the slice it runs on, unless the environment answers
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varjax.topology import Topology

if TYPE_CHECKING:
  import jax

NAME = 'libtpu'
PLATFORM = 'tpu'
MODULE = 'libtpu'
PACKAGES = ('libtpu',)
INSTALL = (
  "the TPU compiler is not installed; pip install 'varjax[tpu]' brings it "
  '(libtpu, about 700 MB; no TPU is needed)'
)
DURATION = 'minutes'
# What a machine that is not a TPU host must say. The accelerator type is
# only looked at for being one: every topology compiles under it.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  # A chip has one user, which libtpu ensures by a lock file; here is none.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
OPTIONS: dict[str, str | bool] = {}


def described(slice_: Topology) -> list[jax.Device]:
  """Devices of a slice, as libtpu describes them."""
  from jax.experimental import topologies

  options = {}
  if slice_.device.name == 'v4':
    # Otherwise each of the two cores of a chip is a device.
    options['chip_config_name'] = 'megacore'
  found = topologies.get_topology_desc(
    platform='tpu', topology_name=str(slice_), **options
  )
  return list(found.devices)


def usable_bytes(slice_: Topology) -> int | None:
  """None: this compiler refuses by itself what does not fit."""
  del slice_
