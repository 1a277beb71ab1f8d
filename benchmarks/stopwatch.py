"""Times of device programs, and the JSON line that each case prints.

Shared by the scripts of `targets.py`. Needs jax and numpy alone, so that it
runs on a bare accelerator machine.
"""

from __future__ import annotations

from collections.abc import Callable
import datetime
import json
import os
import platform
import statistics
import sys
import time
from typing import Any

import jax

from varjax import devices


def seconds(
  call: Callable[[], Any], rounds: int, calls: int, warmup: int = 1
) -> list[float]:
  """Seconds of one call, once per round.

  Args:
    call: starts work on the device and returns its result; calls of one
      round follow each other without waiting, as in training.
    rounds: independent readings, for a median.
    calls: per round; the round ends when the last result is there.
    warmup: rounds that are not counted.

  Returns:
    One mean per round.
  """
  found = []
  for number in range(warmup + rounds):
    start = time.perf_counter()
    for _ in range(calls):
      result = call()
    jax.block_until_ready(result)
    if number >= warmup:
      found.append((time.perf_counter() - start) / calls)
  return found


def line(benchmark: str, case: str, **facts: Any) -> dict[str, Any]:
  """Prints and returns one JSON line: the case, its facts, where and when."""
  first = jax.devices()[0]
  row = {
    'benchmark': benchmark,
    'case': case,
    **facts,
    'device': first.device_kind,
    'devices': jax.device_count(),
    'host': f'{platform.machine()}, {os.cpu_count()} cores',
    'jax': jax.__version__,
    'date': datetime.date.today().isoformat(),
    'command': ' '.join(sys.argv),
  }
  print(json.dumps(row), flush=True)
  return row


def timing(samples: list[float], images: int) -> dict[str, float]:
  """Median, extremes and images per second of `seconds`."""
  median = statistics.median(samples)
  return {
    'ms': round(1e3 * median, 3),
    'ms_min': round(1e3 * min(samples), 3),
    'ms_max': round(1e3 * max(samples), 3),
    'images_per_s': round(images / median, 2),
  }


def speed(work: float, samples: list[float]) -> dict[str, float | None]:
  """TFLOP/s of `work` FLOPs, and their share of the nominal bf16 peak.

  The share is null on a device that `varjax.devices` does not list.
  """
  per_second = work / statistics.median(samples)
  peak = devices.peak_flops(jax.devices()[0].device_kind)
  share = per_second / (peak * jax.device_count()) if peak else None
  return {
    'tflops': round(per_second / 1e12, 4),
    'share_of_peak': None if share is None else round(share, 4),
  }


def moving_ms(moved: int) -> float | None:
  """Milliseconds of moving bytes to or from memory; null as in `speed`."""
  device = devices.find(jax.devices()[0].device_kind)
  if device is None:
    return None
  return round(1e3 * moved / device.reached_bandwidth, 4)


def peak_memory() -> int | None:
  """Bytes in use at the worst moment so far; null where nobody counts."""
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get('peak_bytes_in_use')


def out_of_memory(error: Exception) -> bool:
  """Whether a device had too little memory, which is a result as well."""
  return 'RESOURCE_EXHAUSTED' in str(error)
