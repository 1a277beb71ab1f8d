"""Loss curves of the fast paths beside those of the plain reference.

  python benchmarks/loss_curves.py             200 updates of a tiny VAR
  python benchmarks/loss_curves.py --quick     20 updates of the last path
  python benchmarks/loss_curves.py --only fp8  one path by its name

The reference keeps everything that autodiff keeps (derivatives by hand are
taken off), attends with the XLA back end and computes the whole loss. Every
path trains from the same weights on the same codes, without dropping labels
or branches. In exact arithmetic all curves would be one, so that the largest
distance of a bfloat16 path is judged by `noise`: that of two references of
which one sums each batch in two parts. Products in float8 round coarser than
that: `behind` says what it costs, how much higher than the reference a curve
is over its last quarter. One JSON line per path.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from unittest import mock

import jax
import networks
import numpy as np
import stopwatch

from varjax import schedule, sharding, step
from varjax import spec as specs
from varjax.models import activation, norm
from varjax.tokenizers import make_tokenizer

_BY_HAND = (
  (norm, 'scaled_norm'), (norm, 'unit'),
  (activation, 'gelu'), (activation, 'swiglu'),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Path:
  """One way to compute the same update.

  Attributes:
    name: of the case.
    by_hand: derivatives by hand; otherwise autodiff.
    model: fields of the model that differ from the reference.
    parts: micro-batches.
    dtypes: compute types that have this path.
  """

  name: str
  by_hand: bool = True
  model: dict = dataclasses.field(default_factory=dict)
  parts: int = 1
  dtypes: tuple[str, ...] = ('float32', 'bfloat16')


REFERENCE = Path('reference', by_hand=False)
HALVES = Path('reference in halves', by_hand=False, parts=2)
PATHS = (
  Path('by hand'),
  Path('light', model={'remat': 'light'}),
  Path('dots', model={'remat': 'dots'}),
  # On a GPU: the kernels of attention and of residual sums, unrolled.
  Path('light, auto', model={'remat': 'light', 'attention': 'auto'}),
  Path('fp8', model={'products': 'fp8'}, dtypes=('bfloat16',)),
  Path(
    'fp8, light',
    model={'products': 'fp8', 'remat': 'light'},
    dtypes=('bfloat16',),
  ),
  Path('slim, blockwise', model={'remat': 'slim', 'attention': 'blockwise'}),
  Path(
    'full, blockwise, loss in parts',
    model={'remat': 'full', 'attention': 'blockwise', 'loss_chunks': 4},
  ),
)


def main(argv: list[str] | None = None) -> None:
  """Trains every path and prints how far it is from the reference."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--updates', type=int, help='default 200')
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--quick', action='store_true', help='20 updates')
  parser.add_argument(
    '--only', choices=[path.name for path in PATHS], help='one path'
  )
  given = parser.parse_args(argv)
  paths = PATHS[-1:] if given.quick else PATHS
  if given.only:
    paths = [path for path in PATHS if path.name == given.only]
  given.updates = given.updates or (20 if given.quick else 200)
  for dtype in ('float32', 'bfloat16'):
    able = [path for path in paths if dtype in path.dtypes]
    if not able:
      continue
    plain = curve(REFERENCE, dtype, given.updates, given.batch)
    halves = curve(HALVES, dtype, given.updates, given.batch)
    noise = distance(halves, plain)
    for path in able:
      found = curve(path, dtype, given.updates, given.batch)
      stopwatch.line(
        'loss_curves',
        f'{dtype}/{path.name}',
        **distance(found, plain),
        noise_max=noise['max'],
        noise_mean=noise['mean'],
        behind=behind(found, plain),
        noise_behind=behind(halves, plain),
        first=round(float(plain[0]), 4),
        last=round(float(plain[-1]), 4),
        updates=given.updates,
      )


def curve(path: Path, dtype: str, updates: int, batch: int) -> np.ndarray:
  """Losses of the updates of one path, in nats per position."""
  run = networks.run_of(
    2, networks.TINY, compute_dtype=dtype, attention='xla', label_drop=0.0,
  )  # fmt: skip
  run = dataclasses.replace(
    run,
    batch_size=batch,
    total=specs.Duration(steps=updates),
    model=dataclasses.replace(
      run.model,
      **{'width': 64, 'heads': 4, 'drop_path': 0.0, 'num_classes': 8}
      | path.model,
    ),
    optim=specs.OptimSpec(lr=2e-3, accumulate=path.parts),
  )
  mesh = sharding.make_mesh(run.mesh, jax.devices()[:1])
  frozen, images, labels = _data(run, mesh)
  with contextlib.ExitStack() as stack:
    if not path.by_hand:
      for module, name in _BY_HAND:
        plain = getattr(module, name).fun
        stack.enter_context(mock.patch.object(module, name, plain))
    program = step.Program(run, schedule.resolve_run(run, len(images)), mesh)
    state, update = program.init_sharded(), program.jitted(program.task)
    losses = []
    rng = np.random.default_rng(1)
    stack.enter_context(sharding.use_mesh(mesh))
    for _ in range(updates):
      rows = rng.choice(len(images), batch, replace=False)
      taken = {'codes': images[rows], 'label': labels[rows]}
      taken = jax.device_put(taken, sharding.batch_sharding(mesh))
      state, values = update(state, frozen, taken, program.hyper)
      losses.append(values['loss'])
  return np.asarray(jax.device_get(losses), np.float64)


def behind(one: np.ndarray, other: np.ndarray) -> float:
  """How much higher `one` is over the last quarter, in nats."""
  return float(np.mean((one - other)[-(len(one) // 4) :]))


def distance(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
  """Largest and mean absolute difference of two curves, in nats."""
  apart = np.abs(one - other)
  return {'max': float(apart.max()), 'mean': float(apart.mean())}


def _data(run, mesh):
  """A quantizer with random weights; codes that depend on the label."""
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  weights = networks.random_like(
    lambda: tokenizer.init(jax.random.key(0), run.data.resolution)
  )
  frozen = {'quantizer': tokenizer.quantizer(weights)}
  rng = np.random.default_rng(0)
  labels = np.arange(256, dtype=np.int32) % run.model.num_classes
  positions = tokenizer.code_spec.positions
  favourite = rng.integers(0, run.tokenizer.vocab, (8, positions))
  codes = np.where(
    rng.random((256, positions)) < 0.7,
    favourite[labels],
    rng.integers(0, run.tokenizer.vocab, (256, positions)),
  )
  frozen = jax.device_put(frozen, sharding.replicated(mesh))
  return frozen, codes[..., None].astype(np.int32), labels


if __name__ == '__main__':
  main()
