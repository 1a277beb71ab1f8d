"""Measures the runs of sweeps/paradigms.py and writes their comparison.

  python benchmarks/paradigms.py runs/paradigms --out docs

Reads the sweep below ROOT/sweep. Prints one JSON line per run and keeps them
in ROOT/measured.jsonl, so that a second call measures only what is new.
Puts the tables between their marks in OUT/paradigms.md and draws
OUT/images/paradigms.png. What is measured, and how: quality.py.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib

import marks
import numpy as np
import pandas as pd
import quality

from varjax import compilation, errors
from varjax.scaling import paradigms

_COLOURS = {
  'scale': 'tab:blue', 'raster': 'tab:orange', 'permuted': 'tab:green',
  'masked': 'tab:red', 'pixels': 'tab:purple', 'channels': 'tab:brown',
  'residual': 'tab:pink',
}  # fmt: skip
_LABELS = {
  'code_nats': 'nats of the codes of an image',
  'bits_per_dim': 'bits per dimension, tokenizer included',
  'kid': 'KID of samples (EfficientNet-Lite0)',
}


def main() -> None:
  """Measures, then writes the tables and the figure."""
  args = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  args.add_argument('root', type=pathlib.Path)
  args.add_argument('--out', type=pathlib.Path, required=True)
  args.add_argument(
    '--samples', type=int, default=397, help='0: neither KID nor speed'
  )
  given = args.parse_args()
  compilation.enable_cache()
  rows = quality.measured(
    given.root / 'sweep', given.root / 'measured.jsonl', given.samples
  )
  table = pd.DataFrame(rows).sort_values(['paradigm', 'params_body'])
  page = given.out / 'paradigms.md'
  marks.write_between(page, 'runs', '\n'.join(_runs(table)))
  marks.write_between(page, 'exponents', '\n'.join(_exponents(table)))
  marks.write_between(page, 'verdicts', '\n'.join(_verdicts(table)))
  if given.samples:
    lines = _baselines(given.root, given.samples)
    marks.write_between(page, 'baselines', '\n'.join(lines))
  (given.out / 'images').mkdir(parents=True, exist_ok=True)
  _draw(table, given.out / 'images' / 'paradigms.png')


def _runs(table: pd.DataFrame) -> list[str]:
  lines = [
    '| order | size | images | updates | nats of codes | loss is | bits/dim | '
    'KID | steps | FLOPs/sample | images/CPU s | run |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for row in table.to_dict('records'):
    paradigm = _paradigm(table, row['paradigm'])
    kind = paradigms.kind_of(paradigm, 'bits_per_dim')
    sign = '' if kind == 'exact' else '≤ '
    lines.append(
      f'| {row["paradigm"]} | {row["size"]} | {row["images_seen"]:,} | '
      f'{row["updates"]} | '
      f'{row["code_nats"]:.1f} ± {row["code_nats_sem"]:.1f} | '
      f'{row["loss_kind"]} | {sign}{row["bits_per_dim"]:.3f} ± '
      f'{row["bits_per_dim_sem"]:.3f} | {quality.distance(row)} | '
      f'{row["sequential_steps"]} | {row["flops_sample"]:.2g} | '
      f'{quality.speed(row)} | {row["run_id"]} |'
    )
  return lines


def _paradigm(table: pd.DataFrame, name: str) -> paradigms.Paradigm:
  row = table[table.paradigm == name].iloc[0]
  return paradigms.Paradigm(
    name, row.loss_kind, row.tokenizer_id, row.eval_set, bool(row.lossless)
  )


def _exponents(table: pd.DataFrame) -> list[str]:
  lines = [
    '| order | quantity | against body parameters | against training FLOPs | '
    'rms of ln |',
    '|---|---|---|---|---|',
  ]
  for name, part in table.groupby('paradigm', sort=False):
    for quantity in _measured(table):
      cells = []
      try:
        for against in ('params_body', 'flops_train_total'):
          found = _fit(part, quantity, against)
          cells.append(
            f'{found.exponent:.4f} ({found.lo:.4f} to {found.hi:.4f})'
          )
        cells.append(f'{found.residual:.4f}')
      except errors.DataError as error:
        cells = [f'refused: {error}', '', '']
      lines.append(f'| {name} | {quantity} | {" | ".join(cells)} |')
  return lines


def _fit(part: pd.DataFrame, quantity: str, against: str) -> paradigms.Exponent:
  """The exponent of an order.

  Raises:
    DataError: it has none that could be told from noise.
  """
  # Of the same images and tokenizer: their residual has no say in a slope.
  code = 'code_' if quantity == 'bits_per_dim' else ''
  reason = paradigms.unresolved(part[quantity], part[f'{quantity}_{code}sem'])
  if reason:
    raise errors.DataError(reason)
  return paradigms.fit_exponent(part[against], part[quantity])


def _measured(table: pd.DataFrame) -> list[str]:
  """Quantities that every run has."""
  return [
    quantity
    for quantity in paradigms.QUANTITIES
    if quantity in table and table[quantity].notna().all()
  ]


def _verdicts(table: pd.DataFrame) -> list[str]:
  """Pairs at the largest size, by each quantity, or why not."""
  size = table.loc[table.params_body.idxmax(), 'size']
  largest = table[table['size'] == size].set_index('paradigm')
  every = {str(name): _paradigm(table, name) for name in largest.index}
  quantities = _measured(table)
  lines = [
    f'| largest size | {" | ".join(f"by {q}" for q in quantities)} |',
    '|---|' + '---|' * len(quantities),
  ]
  for pair in paradigms.comparisons(every, 'code_nats'):
    one, other = every[pair['one']], every[pair['other']]
    cells = [_verdict(one, other, quantity, largest) for quantity in quantities]
    lines.append(f'| {one.name} – {other.name} | {" | ".join(cells)} |')
  return lines


def _verdict(
  one: paradigms.Paradigm,
  other: paradigms.Paradigm,
  quantity: str,
  largest: pd.DataFrame,
) -> str:
  refused = paradigms.refusal(one, other, quantity)
  if refused and 'bound' not in refused:
    return f'refused: {refused}'
  a, b = largest.loc[one.name], largest.loc[other.name]
  sem = f'{quantity}_sem'
  if quantity == 'bits_per_dim' and one.tokenizer_id == other.tokenizer_id:
    sem = 'bits_per_dim_code_sem'  # They have the residual in common.
  verdict = paradigms.better(
    (a[quantity], paradigms.kind_of(one, quantity)),
    (b[quantity], paradigms.kind_of(other, quantity)),
    2 * math.hypot(a[sem], b[sem]),
  )
  return 'open' if verdict == 'open' else f'{one.name} {verdict}'


def _baselines(root: pathlib.Path, samples: int) -> list[str]:
  run = next((root / 'sweep').glob('trials/*/records.jsonl')).parent
  lines = ['| | KID | PSNR, dB | bits/dim |', '|---|---|---|---|']
  for row in quality.baselines(root, run, samples):
    print(json.dumps(row), flush=True)
    psnr, bits = row.get('psnr'), row.get('bits_per_dim')
    lines.append(
      f'| {row["what"]} | {quality.distance(row)} | '
      f'{"–" if psnr is None else f"{psnr:.1f}"} | '
      f'{"–" if bits is None else f"{bits:.3f}"} |'
    )
  return lines


def _draw(table: pd.DataFrame, path: pathlib.Path) -> None:
  import matplotlib as mpl

  mpl.use('Agg')
  from matplotlib import pyplot as plt
  from matplotlib import ticker

  quantities = _measured(table)
  figure, axes = plt.subplots(2, 3, figsize=(12, 7))
  for axis, quantity in zip(axes[0], quantities, strict=False):
    for name, part in table.groupby('paradigm', sort=False):
      _against_flops(axis, name, part, quantity, _paradigm(table, name))
    axis.set(
      xscale='log', yscale='log', xlabel='training FLOPs',
      ylabel=_LABELS[quantity],
    )  # fmt: skip
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
  below = (
    ('sequential_steps', 'sequential steps of sampling'),
    ('flops_sample', 'FLOPs to sample an image'),
    ('images_per_cpu_s', f'images per CPU second, batch of {quality.BATCH}'),
  )
  last = quantities[-1]
  for axis, (against, label) in zip(axes[1], below, strict=True):
    for name, part in table.groupby('paradigm', sort=False):
      if against not in part:
        continue
      axis.errorbar(
        part[against], part[last], 2 * part[f'{last}_sem'], fmt='o-',
        color=_COLOURS.get(name), label=name, markersize=4, linewidth=1,
      )  # fmt: skip
    axis.set(xscale='log', xlabel=label, ylabel=_LABELS[last])
    axis.set_yscale('log')
  handles, names = axes[0][0].get_legend_handles_labels()
  figure.legend(handles, names, ncols=len(names), loc='lower center')
  figure.tight_layout(rect=(0, 0.05, 1, 1))
  figure.savefig(path, dpi=110)


def _against_flops(axis, name, part, quantity, paradigm) -> None:
  kind = paradigms.kind_of(paradigm, quantity)
  axis.errorbar(
    part.flops_train_total, part[quantity], 2 * part[f'{quantity}_sem'],
    fmt='v' if kind == 'bound' else 'o', color=_COLOURS.get(name),
    label=name, markersize=4,
  )  # fmt: skip
  try:
    found = _fit(part, quantity, 'flops_train_total')
  except errors.DataError:
    return
  x = np.geomspace(
    part.flops_train_total.min(), part.flops_train_total.max(), 20
  )
  axis.plot(x, found.scale * x**-found.exponent, color=_COLOURS.get(name))


if __name__ == '__main__':
  main()
