"""The persistent compilation cache: on by default, for every command."""

from __future__ import annotations

import os
import pathlib
from typing import Any, NamedTuple

_EVENTS = {
  '/jax/compilation_cache/compile_requests_use_cache': 'requests',
  '/jax/compilation_cache/cache_hits': 'hits',
}
_COUNTS: dict[str, int] = {}


class CacheUse(NamedTuple):
  """Programs asked for, and those that were found compiled."""

  requests: int
  hits: int


def cache_directory() -> pathlib.Path:
  """Where varjax keeps what can be made again; VARJAX_CACHE moves it."""
  default = pathlib.Path.home() / '.cache' / 'varjax'
  return pathlib.Path(os.environ.get('VARJAX_CACHE') or default)


def enable_cache() -> None:
  """Keeps compiled programs between processes.

  JAX's own JAX_COMPILATION_CACHE_DIR wins where it is set.
  """
  # Plans read the directory, and load no JAX.
  import jax

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    path = str(cache_directory() / 'xla')
    jax.config.update('jax_compilation_cache_dir', path)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  if not _COUNTS:
    _COUNTS.update(dict.fromkeys(_EVENTS.values(), 0))
    jax.monitoring.register_event_listener(_count)


def cache_use() -> CacheUse:
  """How often this process has found what it wanted, since `enable_cache`."""
  return CacheUse(_COUNTS.get('requests', 0), _COUNTS.get('hits', 0))


def _count(event: str, **_: Any) -> None:
  if event in _EVENTS:
    _COUNTS[_EVENTS[event]] += 1
