"""A sweep directory made from a planted law, for reports and plans."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from varjax import records

E, A, ALPHA = 3.4, 12.0, 0.22
SCALES = (1, 2, 3, 4, 5, 6, 8)
SURFACE = {'E': 5.0, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28}
_MEAN = ('val_loss_nats_per_token', 0.0)
TOKENS_PER_IMAGE = sum(s * s for s in SCALES)


def loss(params: float) -> float:
  """The planted law, nats per token."""
  return E + A * params**-ALPHA


def body(depth: int) -> int:
  """Parameters of the blocks, w = 16 d."""
  width = 16 * depth
  return depth * 18 * width * width


def run(depth: int, index: int = 0, **changes: Any) -> records.RunRecord:
  """A complete record whose loss is the planted law with small noise."""
  rng = np.random.default_rng(depth)
  n = body(depth)
  value = loss(n) * (1 + 0.0008 * rng.standard_normal())
  images = 120_000
  scales = [round(value + 0.25 * (i - 3), 4) for i in range(len(SCALES))]
  config = {'tokenizer': {'scales': list(SCALES)}}
  values = {
    'run_id': f'run{depth:02d}', 'name': f'd{depth}', 'sweep': 'planted',
    'task': 'generate', 'role': 'fit', 'status': 'complete', 'seed': index,
    'dataset': 'emoji', 'eval_set': 'e1f2', 'tokenizer_id': 'tok',
    'code_vocab': 512, 'positions_per_image': TOKENS_PER_IMAGE,
    'codes_per_position': 1, 'order': 'scale', 'loss_kind': 'exact',
    'depth': depth, 'width': 16 * depth, 'params_total': int(n * 1.2),
    'params_body': n, 'params_adaln': n // 3, 'params_embed_head': n // 5,
    'images_seen': images, 'unique_images': 6000, 'epochs': 20.0,
    'tokens_seen': images * TOKENS_PER_IMAGE, 'steps': 1000,
    'total_steps': 1000, 'batch_images': 120, 'lr_peak': 3e-4,
    'flops_train_total': 6.0 * n * images * TOKENS_PER_IMAGE,
    'flops_train_body': 5.0 * n * images * TOKENS_PER_IMAGE,
    'val_images': 600, 'val_loss_nats_per_token': float(value),
    'val_loss_last_nats_per_token': float(value - 0.2),
    'val_loss_scales': json.dumps(scales), 'val_loss_sem': 0.008,
    'val_err': float(0.9 - 0.02 * depth),
    'val_err_last': float(0.92 - 0.02 * depth),
    'wall_s': 40.0 * depth, 'device_kind': 'cpu', 'device_count': 1,
    'device_hours': depth / 90, 'goodput': 0.9, 'git_commit': 'abc1234',
    'jax_version': '0.10.2', 'config_json': json.dumps(config),
  }  # fmt: skip
  return records.RunRecord(**{**values, **changes})


def tokenizer(**changes: Any) -> records.RunRecord:
  """A record of the tokenizer."""
  values = {
    'run_id': 'tok00', 'name': 'tokenizer', 'sweep': 'planted',
    'task': 'reconstruct', 'status': 'complete', 'params_total': 1_400_000,
    'images_seen': 60_000, 'unique_images': 6000, 'epochs': 10.0,
    'val_psnr_db': 22.4, 'code_usage': 0.71, 'wall_s': 90.0,
    'val_psnr_scales': json.dumps([11.2, 13, 15.1, 16.9, 18.8, 20.3, 22.4]),
    'device_kind': 'cpu', 'device_count': 1, 'device_hours': 0.025,
    'flops_train_total': 3e12,
    'config_json': json.dumps({'tokenizer': {'scales': list(SCALES)}}),
  }  # fmt: skip
  return records.RunRecord(**{**values, **changes})


def fit_of(runs: list[records.RunRecord], held: list[records.RunRecord]):
  """A fit.json (docs/fit_schema.md) with the planted law as the fit."""
  fits: list[dict[str, Any]] = []
  for name, column, shift in (
    ('L_mean(N) with floor', 'val_loss_nats_per_token', 0.0),
    ('L_last(N) with floor', 'val_loss_last_nats_per_token', -0.2),
  ):
    fits.append(_one_fit(runs, held, name, column, shift))
  # Two forms of one quantity share a figure.
  other = _one_fit(runs, held, 'L_mean(N) without floor', *_MEAN)
  fits.insert(1, {**other, 'form': 'power', 'intervals': {}})
  return {
    **fits[0], 'fits': fits, 'filter': 'role=fit and status=complete',
    'agreement': [
      {'method': 'huber', 'a': 0.52, 'lo': 0.47, 'hi': 0.57, 'note': None},
      {'method': 'vpnls', 'a': 0.54, 'lo': 0.50, 'hi': 0.58, 'note': None},
      {'method': 'envelope', 'a': 0.49, 'lo': None, 'hi': None, 'note': None},
      {'method': 'isoFLOP (akima)', 'a': None, 'lo': None, 'hi': None,
       'note': 'refused: the minimum lies at an edge'},
    ],
    'agreement_spread': 0.05,
    'isoflop': {'asymmetry': None, 'budgets': [
      {'c': 1e13 * 4**i, 'n': (1e5 * 2.0**i * grid).tolist(),
       'loss': (4.4 - 0.2 * i + 0.3 * np.log10(grid)**2).tolist(),
       'n_opt': 1e5 * 2**i, 'loss_opt': 4.4 - 0.2 * i, 'status': 'ok',
       'why': None}
      for i, grid in enumerate([np.geomspace(0.2, 5, 7)] * 3)
    ]},
    'tables': {'refused_fits': [
      {'name': 'L(N, D)', 'type': 'TooFewPoints',
       'reason': 'L(N, D) needs two data sizes',
       'next': 'run the ladder at a second number of epochs'}]},
  }  # fmt: skip


def _one_fit(runs, held, name, column, shift):
  sizes = [r.params_body for r in (*runs, *held)]
  grid = np.geomspace(min(sizes) / 2, max(sizes) * 2, 64)
  center = loss(grid) + shift
  points = [
    {'run_id': r.run_id, 'name': r.name, 'n': r.params_body,
     'd': r.tokens_seen, 'c': r.flops_train_total, 'x': r.params_body,
     'y': getattr(r, column), 'predicted': loss(r.params_body) + shift,
     'used': r in runs, 'why': None if r in runs else 'holdout'}
    for r in (*runs, *held)
  ]  # fmt: skip
  largest = max((r.params_body for r in runs), default=1)
  holdout = [
    {**p, 'measured': p['y'], 'lo': p['predicted'] - 0.02,
     'hi': p['predicted'] + 0.02, 'inside': True,
     'error': p['predicted'] / p['y'] - 1,
     'extrapolation': p['x'] / largest}
    for p in points if not p['used']
  ]  # fmt: skip
  return {
    'schema': 1, 'kind': 'varjax.fit', 'name': name, 'form': 'power_floor',
    'formula': 'y = E + A x^-alpha', 'method': 'huber',
    'params': {'E': E + shift, 'A': A, 'alpha': ALPHA},
    'intervals': {
      'E': {'lo': 3.3 + shift, 'hi': 3.5 + shift, 'level': 0.95},
      'alpha': {'lo': 0.20, 'hi': 0.24, 'level': 0.95},
    },
    'objective': 1.234e-5, 'objective_kind': 'sum of Huber of log residuals',
    'starts': 64, 'starts_agreeing': 56, 'n_convention': 'body: the blocks',
    'inputs': {'n': {'name': 'N', 'unit': 'parameters',
                     'min': min(sizes), 'max': largest}},
    'x': {'name': 'N', 'unit': 'parameters'},
    'y': {'name': column, 'unit': 'nats per token', 'kind': 'loss'},
    'points': points, 'holdout': holdout,
    'curve': {'x': grid.tolist(), 'y': center.tolist(),
              'lo': (center - 0.015).tolist(),
              'hi': (center + 0.015).tolist()},
    'backtest': {'kind': 'leave largest n out', 'rows': holdout[:1],
                 'mean_abs_error': 0.0012, 'coverage': 1.0},
    'sensitivity': [
      {'choice': 'huber, delta 0.1', 'params': {'alpha': 0.23}, 'a': None,
       'prediction': 3.71, 'refused': None},
      {'choice': '5 highest dropped', 'params': None, 'a': None,
       'prediction': None, 'refused': 'too few points are left'},
    ],
    'profiles': {'alpha': {'lo': 0.19, 'hi': None, 'level': 0.95}},
    'refusals': [], 'warnings': ['d2 has the largest residual'], 'seed': 0,
  }  # fmt: skip


def surface_fit(**changes: Any) -> dict[str, Any]:
  """A fit.json of a surface L(N, D), with draws of 1 % scatter."""
  rng = np.random.default_rng(0)
  draws = {
    k: (v * np.exp(0.01 * rng.standard_normal(200))).tolist()
    for k, v in SURFACE.items()
  }
  fit = {
    'schema': 1, 'kind': 'varjax.fit', 'name': 'L_mean(N, D)',
    'form': 'chinchilla', 'params': SURFACE, 'pinned': {},
    'bootstrap': {'draws': draws}, 'sigma_log': 0.002,
    'n_convention': 'body: parameters of the blocks', 'refusals': [],
    'inputs': {'n': {'max': 3e8}, 'd': {'max': 3e11}},
    'y': {'name': 'L_mean', 'unit': 'nats per token', 'kind': 'loss'},
  }  # fmt: skip
  return {**fit, **changes}


def write(
  folder: pathlib.Path,
  depths: tuple[int, ...] = (2, 3, 4, 5, 6, 8),
  held: tuple[int, ...] = (10,),
) -> pathlib.Path:
  """A whole sweep directory; one run has failed."""
  folder.mkdir(parents=True, exist_ok=True)
  fitted = [run(d, i) for i, d in enumerate(depths)]
  held_out = [run(d, role='holdout') for d in held]
  failed = run(
    7, status='failed', error='RESOURCE_EXHAUSTED: <b>out of memory</b> | 3',
    val_loss_nats_per_token=None, val_loss_scales=None, val_err=None,
    val_loss_last_nats_per_token=None, val_loss_sem=None, wall_s=12.0,
    val_err_last=None,
  )  # fmt: skip
  for record in (tokenizer(), *fitted, failed, *held_out):
    records.append(folder / 'records.jsonl', record)
  for record in (*fitted, *held_out):
    final = record.val_loss_nats_per_token
    for fraction in (0.1, 0.2, 0.35, 0.5, 0.75, 1.0):
      value = final + 0.5 * (fraction**-0.4 - 1)
      point = run(
        record.depth, role=record.role, steps=int(1000 * fraction),
        images_seen=int(120_000 * fraction),
        flops_train_total=record.flops_train_total * fraction,
        val_loss_nats_per_token=value,
      )  # fmt: skip
      records.append(folder / 'curves.jsonl', point)
  (folder / 'fit.json').write_text(json.dumps(fit_of(fitted, held_out)))
  commands = [
    {'command': 'varjax sweep sweeps/planted.py --workdir D', 'seconds': 300},
    {'command': 'varjax fit D/records.jsonl --out D', 'seconds': 4.2},
  ]
  (folder / 'commands.json').write_text(json.dumps(commands))
  _sheet(folder / 'samples_cfg2.png')
  (folder / 'tokenizer').mkdir(exist_ok=True)
  _sheet(folder / 'tokenizer' / 'reconstruction.png')
  return folder


def _sheet(path: pathlib.Path) -> None:
  from PIL import Image

  rng = np.random.default_rng(0)
  tiles = rng.integers(0, 255, (4, 8, 3), dtype=np.uint8)
  big = np.kron(tiles, np.ones((32, 32, 1), np.uint8))
  Image.fromarray(big).save(path)
