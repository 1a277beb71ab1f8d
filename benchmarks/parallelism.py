"""Draws quality against sequential steps for sets and schedules of scales.

  python benchmarks/parallelism.py runs/paradigms --out docs

Measures the runs of sweeps/parallelism.py below ROOT/parallelism as
paradigms.py does its own, into ROOT/parallelism.jsonl; puts their table into
OUT/paradigms.md and draws OUT/images/parallelism.png. A masked run of
ROOT/sweep, decoded in several numbers of passes, is drawn beside them.
"""

from __future__ import annotations

import argparse
import pathlib

import marks
import pandas as pd
import quality

from varjax import compilation

_TURNS = (2, 4, 8, 16, 32)
_STYLES = {
  'sets': ('tab:blue', '4 scales in more sets'),
  'scales': ('tab:green', 'more scales (own tokenizer each)'),
  'masked': ('tab:red', 'masked, more passes of one run'),
}


def main() -> None:
  """Measures, then writes the table and the figure."""
  args = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  args.add_argument('root', type=pathlib.Path)
  args.add_argument('--out', type=pathlib.Path, required=True)
  args.add_argument('--samples', type=int, default=397)
  given = args.parse_args()
  compilation.enable_cache()
  rows = quality.measured(
    given.root / 'parallelism', given.root / 'parallelism.jsonl', given.samples
  )
  rows += _masked(given.root, given.samples)
  table = pd.DataFrame(rows)
  table['family'] = table.order.replace({'split': 'sets', 'scale': 'scales'})
  # The fewest scales, in one set each, are where both families begin.
  first = table[table.family == 'scales'].nsmallest(1, 'scales')
  table = pd.concat([table, first.assign(family='sets')])
  table = table.sort_values(['family', 'sequential_steps'])
  lines = _lines(table)
  marks.write_between(given.out / 'paradigms.md', 'parallelism', lines)
  _draw(table, given.out / 'images' / 'parallelism.png')


def _masked(root: pathlib.Path, samples: int) -> list[quality.Row]:
  """The masked run of the same size, decoded in several numbers of passes."""
  return [
    row
    for turns in _TURNS
    for row in quality.measured(
      root / 'sweep',
      root / 'parallelism.jsonl',
      samples,
      only='paradigm-masked-d4-*',
      turns=turns,
    )
  ]


def _lines(table: pd.DataFrame) -> str:
  lines = [
    '| run | steps | codes | images | nats of codes | bits/dim | KID | '
    'images/CPU s | run id |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for row in table[~table.index.duplicated()].to_dict('records'):
    named = f'{row["scales"]} scales'
    if row['order'] == 'split':
      named += f' in {row["sequential_steps"]} sets'
    if row['turns']:
      named = f'masked, {row["turns"]} passes'
    lines.append(
      f'| {named} | {row["sequential_steps"]} | {row["positions"]} | '
      f'{row["images_seen"]:,} | '
      f'{row["code_nats"]:.1f} ± {row["code_nats_sem"]:.1f} | '
      f'≤ {row["bits_per_dim"]:.3f} ± {row["bits_per_dim_sem"]:.3f} | '
      f'{quality.distance(row)} | {quality.speed(row)} | '
      f'{row["run_id"]} |'
    )
  return '\n'.join(lines)


def _draw(table: pd.DataFrame, path: pathlib.Path) -> None:
  import matplotlib as mpl

  mpl.use('Agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
  panels = (
    ('kid', 'KID of samples (EfficientNet-Lite0)'),
    ('bits_per_dim', 'bits per dimension (bound)'),
    ('images_per_cpu_s', f'images per CPU second, batch of {quality.BATCH}'),
  )
  for axis, (quantity, label) in zip(axes, panels, strict=True):
    for family, (colour, name) in _STYLES.items():
      part = table[table.family == family]
      sems = part.get(f'{quantity}_sem')
      axis.errorbar(
        part.sequential_steps, part[quantity],
        None if sems is None else 2 * sems, fmt='o-', color=colour,
        label=name, markersize=4, linewidth=1,
      )  # fmt: skip
    axis.set(xscale='log', xlabel='sequential steps of sampling', ylabel=label)
  axes[2].set_yscale('log')
  axes[1].legend(fontsize=7)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


if __name__ == '__main__':
  main()
