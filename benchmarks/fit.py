"""Times of the fitting engine: one JSON line per case.

  python benchmarks/fit.py [--quick] [--data FOLDER]

Without the open data of `--data` (epoch_chinchilla_245.csv), a planted
surface of the same size and noise stands in, and the line says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import pathlib
import time

import numpy as np
import pandas as pd
import stopwatch

from varjax.scaling import bootstrap, fit, forms, isoflop, optimum, vpnls
from varjax.scaling.objective import Objective

SURFACE = {'E': 1.8172, 'A': 482.0, 'B': 2085.0, 'alpha': 0.348, 'beta': 0.366}


def main() -> None:
  """Prints one line per case."""
  args = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  args.add_argument('--quick', action='store_true', help='fewer refits')
  args.add_argument('--data', help='folder with epoch_chinchilla_245.csv')
  given = args.parse_args()
  columns, y, source = _runs(given.data)
  refits = 200 if given.quick else 1000
  starts = 50 if given.quick else 500

  found = _timed(
    'surface_huber', lambda: fit.fit(forms.CHINCHILLA, columns, y,
                                     starts=starts),
    data=source, points=len(y), starts=starts,
  )  # fmt: skip
  stopwatch.line(
    'fit', 'surface_optimum', objective=found.value,
    agreeing=found.agreeing / found.starts, **found.params,
  )  # fmt: skip
  _timed(
    'bootstrap_surface',
    lambda: bootstrap.bootstrap(found, refits, kind='runs'),
    data=source, points=len(y), refits=refits, limit_s_per_1000=15,
  )  # fmt: skip
  _timed(
    'bootstrap_surface_jax_cold',
    lambda: bootstrap.bootstrap(found, refits, kind='runs', backend='jax'),
    data=source, points=len(y), refits=refits, compiles=True,
  )  # fmt: skip
  _timed(
    'bootstrap_surface_jax',
    lambda: bootstrap.bootstrap(found, refits, kind='runs', backend='jax'),
    data=source, points=len(y), refits=refits, limit_s_per_1000=15,
  )  # fmt: skip
  _timed(
    'surface_vpnls', lambda: vpnls.fit_vpnls(forms.CHINCHILLA, columns, y),
    data=source, points=len(y),
  )  # fmt: skip
  frame = _isoflops()
  _timed(
    'isoflop_parabola', lambda: isoflop.isoflop(frame, replicates=refits),
    data='planted', points=len(frame), refits=refits,
  )  # fmt: skip
  x = np.geomspace(1e6, 1e9, 8)
  noise = np.random.default_rng(0).standard_normal(8)
  ladder = (2 + 40 * x**-0.2) * np.exp(0.003 * noise)
  small = _timed(
    'ladder_floor',
    lambda: fit.fit(forms.POWER_FLOOR, {'x': x}, ladder, Objective('log')),
    data='planted', points=8, starts=200,
  )  # fmt: skip
  _timed(
    'bootstrap_ladder', lambda: bootstrap.bootstrap(small, refits),
    data='planted', points=8, refits=refits,
  )  # fmt: skip


def _timed(case: str, work: Callable, **facts):
  began = time.perf_counter()
  found = work()
  seconds = time.perf_counter() - began
  stopwatch.line('fit', case, seconds=round(seconds, 4), **facts)
  return found


def _runs(folder: str | None):
  path = pathlib.Path(folder or '.') / 'epoch_chinchilla_245.csv'
  if path.is_file():
    data = pd.read_csv(path)
    data = data[data['kept'] == 1]
    columns = {'n': data['params'].to_numpy(), 'd': data['tokens'].to_numpy()}
    return columns, data['loss'].to_numpy(), path.name
  rng = np.random.default_rng(0)
  n = np.exp(rng.uniform(np.log(5e7), np.log(1e10), 240))
  d = np.exp(rng.uniform(np.log(5e8), np.log(3e11), 240))
  y = optimum.surface(SURFACE, n, d)
  y = y * np.exp(0.005 * rng.laplace(size=240))
  return {'n': n, 'd': d}, y, 'planted'


def _isoflops() -> pd.DataFrame:
  rng = np.random.default_rng(0)
  rows = []
  for c in np.logspace(18, 22, 8):
    n = optimum.optimum(SURFACE, c)[0] * np.geomspace(0.2, 5, 12)
    y = optimum.surface(SURFACE, n, c / 6 / n)
    y = y * np.exp(0.002 * rng.standard_normal(12))
    rows += zip(n, c / 6 / n, [c] * 12, y, strict=True)
  return pd.DataFrame(rows, columns=['n', 'd', 'c', 'y'])


if __name__ == '__main__':
  main()
