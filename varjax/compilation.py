"""The persistent compilation cache: on by default, for every command."""

from __future__ import annotations

import os
import pathlib


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
