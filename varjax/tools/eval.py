"""`varjax eval`: a trained run on its validation split, once more."""

from __future__ import annotations

import pathlib

import numpy as np

from varjax import config
from varjax.tools import arguments


def main(argv: list[str]) -> int:
  """Evaluates the newest checkpoint; returns the exit code."""
  parser = arguments.parser(
    'eval',
    'Evaluate the newest checkpoint of a run on its whole validation split, '
    'deterministically: cross-entropy, errors or reconstruction, each with '
    'its standard error over images.',
  )
  argv, overrides = arguments.split_overrides(argv)
  parser.add_argument('--workdir', required=True, help='of the trained run')
  parser.add_argument('--out', help='also write the result as JSON')
  args = parser.parse_args(argv)

  import jax

  from varjax import checkpoint, compilation, evaluate, inputs, sharding
  from varjax.tasks import make_task
  from varjax.workdir import Workdir, write_json

  compilation.enable_cache()
  workdir = Workdir(pathlib.Path(args.workdir))
  run = workdir.run()
  if overrides:
    loaded = config.override(config.as_config(run), overrides)
    run = config.to_spec(loaded, args.workdir)
  mesh = sharding.make_mesh(run.mesh)
  opened = inputs.open_inputs(run, jax.process_index(), jax.process_count())
  step = checkpoint.latest_step(workdir.path)
  entry = checkpoint.weights_entry(workdir.path)
  saved = checkpoint.load_params(workdir.path, (entry, 'task_state'))
  evaluator = evaluate.Evaluator(make_task(run), mesh, opened.evaluation)
  result = evaluator(saved[entry], saved['task_state'], opened.frozen)
  values = {
    'run_id': workdir.run_id(),
    'step': step,
    'images': result.images,
    'eval_set': opened.eval_set,
    'mean': {k: np.asarray(v).tolist() for k, v in result.mean.items()},
    'sem': {k: np.asarray(v).tolist() for k, v in result.sem.items()},
  }
  print(f'run {values["run_id"]}, update {step}, {result.images} images')
  for key, value in sorted(result.mean.items()):
    print(f'  {key:14} {_text(value, result.sem[key])}')
  if args.out:
    write_json(pathlib.Path(args.out), values)
  return 0


def _text(mean: np.ndarray, sem: np.ndarray) -> str:
  if mean.ndim == 0:
    return f'{mean:.5f} ± {sem:.5f}'
  return ' '.join(f'{value:.4f}' for value in mean)
