"""What a program is compiled for: TPUs or GPUs that are not there.

`prepare` must run before JAX is imported, `devices` after it. The modules
`tpu` and `cuda` answer for their platforms; nothing else asks which it is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from varjax import errors
from varjax.aot import cuda, tpu
from varjax.topology import Topology

if TYPE_CHECKING:
  import jax


def compiler_of(slice_: Topology) -> ModuleType:
  """The module `aot.tpu` or `aot.cuda`."""
  return tpu if slice_.device.torus else cuda


def prepare(slice_: Topology) -> None:
  """Sets the environment for compiling without the device.

  Raises:
    ConfigError: the compiler is not installed; the message says what to
      type.
  """
  compiler = compiler_of(slice_)
  if not installed(slice_):
    raise errors.ConfigError(compiler.INSTALL)
  os.environ.update(compiler.ENVIRONMENT, JAX_PLATFORMS='cpu')
  if 'jax' in sys.modules:
    import jax

    jax.config.update('jax_platforms', 'cpu')


def installed(slice_: Topology) -> bool:
  """Whether the compiler for a slice is there."""
  try:
    return importlib.util.find_spec(compiler_of(slice_).MODULE) is not None
  except ModuleNotFoundError:  # Not even the package that it is in.
    return False


def usable_bytes(slice_: Topology) -> float:
  """Memory of one device that a program may use, as far as it is known.

  Raises:
    ConfigError: as the compiler's own `usable_bytes`.
  """
  usable = compiler_of(slice_).usable_bytes(slice_)
  return usable or slice_.device.memory_bytes


def versions(slice_: Topology) -> dict[str, str]:
  """Versions of what compiles; '' for what is not installed."""
  found = {}
  for name in ('jax', 'jaxlib', *compiler_of(slice_).PACKAGES):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = ''
  return found


def name(slice_: Topology) -> str:
  """The compiler with its version, for people."""
  compiler = compiler_of(slice_)
  return f'{compiler.NAME} {versions(slice_)[compiler.PACKAGES[-1]]}'.strip()


def devices(slice_: Topology) -> list[jax.Device]:
  """Described devices of a slice; nothing can run on them.

  Raises:
    ConfigError: a slice that the compiler does not know.
  """
  compiler = compiler_of(slice_)
  try:
    found = compiler.described(slice_)
  except errors.ConfigError:
    raise
  except Exception as error:
    # JaxRuntimeError, ValueError or RuntimeError, by the version.
    reason = str(error).strip().splitlines()[0] if str(error) else ''
    raise errors.ConfigError(
      f'topology {slice_}: {compiler.NAME} does not describe it ({reason})'
    ) from error
  if len(found) != slice_.count:
    raise errors.ConfigError(
      f'topology {slice_}: {compiler.NAME} describes {len(found)} devices, '
      f'not {slice_.count}'
    )
  return found
