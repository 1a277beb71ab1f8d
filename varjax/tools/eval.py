"""`varjax eval`: a run on its validation split, or any images by their looks.

Without a reference, the likelihood or the reconstruction of a run, as in
training. With one, the scores of sets of images: a run's samples or
reconstructions, a sample .npz, a folder, or an official checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from varjax import config, distributed, errors
from varjax import spec as specs
from varjax.tools import arguments, eval_image_arguments, eval_images

if TYPE_CHECKING:
  from varjax.evaluate import Evaluation
  from varjax.workdir import Workdir

_EXAMPLES = """
examples:
  varjax eval --workdir W/d16                      likelihood on validation
  varjax eval --samples a/ --reference b/          two folders of images
  varjax eval --samples d16.npz --reference VIRTUAL_imagenet256_labeled.npz
      --features inception2015 --feature_weights pt_inception.pth
  varjax eval --workdir W/d16 --reference train --sweep cfg=1,1.5,2
  varjax eval --workdir W/tokenizer --reference validation
"""


def main(argv: list[str]) -> int:
  """Evaluates; returns the exit code.

  Raises:
    ConfigError: arguments that contradict each other, or nothing to evaluate.
  """
  parser = arguments.parser(
    'eval',
    'Evaluate. With --workdir alone: the newest checkpoint of a run on its '
    'whole validation split, deterministically: cross-entropy, errors or '
    'reconstruction, each with its standard error over images. With '
    '--reference: scores of images, against a folder, an .npz, an ADM '
    'reference .npz, or a dataset.',
    _EXAMPLES,
  )
  argv, overrides = arguments.split_overrides(argv)
  subject = parser.add_argument_group('what is evaluated')
  arguments.add_run(subject, required=False)
  subject.add_argument(
    '--bits',
    action='store_true',
    help='also bound the bits per dimension of tokenizer and prior together',
  )
  parser.add_argument(
    '--out', help='also write the result as JSON; of a sweep, all points'
  )
  eval_image_arguments.add(parser, subject)
  distributed.add_arguments(parser)
  args = parser.parse_args(argv)
  distributed.start(args)
  if args.samples or args.vae or args.var or args.reference:
    if args.bits:
      raise errors.ConfigError(
        '--bits: is of a validation split; leave --reference out'
      )
    if overrides:
      raise errors.ConfigError(
        'overrides of the config have no meaning beside --reference'
      )
    return eval_images.run(args)
  if not args.workdir:
    raise errors.ConfigError(
      'nothing to evaluate: give --workdir, --samples, or --vae and --var'
    )
  eval_image_arguments.refuse_unused(args)
  return _validate(args, overrides)


def _validate(args: argparse.Namespace, overrides: dict[str, Any]) -> int:
  import jax

  from varjax import checkpoint, compilation, evaluate, inputs, sharding
  from varjax.tasks import make_task
  from varjax.workdir import Workdir, find_run, write_json

  compilation.enable_cache()
  workdir = Workdir(pathlib.Path(find_run(args.workdir, args.run)))
  run = workdir.run()
  if overrides:
    loaded = config.override(config.as_config(run), overrides)
    run = config.to_spec(loaded, args.workdir)
  mesh = sharding.make_mesh(run.mesh)
  opened = inputs.open_inputs(run, jax.process_index(), jax.process_count())
  step = checkpoint.latest_step(workdir.path)
  entry = checkpoint.weights_entry(workdir.path)
  saved = checkpoint.load_params(workdir.path, (entry, 'task_state'))
  evaluator = evaluate.Evaluator(
    make_task(run), mesh, opened.evaluation, opened.watchdog, run.data_prefetch
  )
  result = evaluator(saved[entry], saved['task_state'], opened.frozen)
  values = {
    'run_id': workdir.run_id(),
    'step': step,
    'images': result.images,
    'eval_set': opened.eval_set,
    'data_stall': result.data_stall,
    'mean': {k: np.asarray(v).tolist() for k, v in result.mean.items()},
    'sem': {k: np.asarray(v).tolist() for k, v in result.sem.items()},
  }
  if jax.process_index():
    return 0
  print(f'run {values["run_id"]}, update {step}, {result.images} images')
  for key, value in sorted(result.mean.items()):
    print(f'  {key:14} {_text(value, result.sem[key])}')
  if args.bits:
    values['bits_per_dim'] = _bits(run, workdir, step, result, args.tokenizer)
  if args.out:
    write_json(pathlib.Path(args.out), values)
  return 0


def _bits(
  run: specs.RunSpec,
  workdir: Workdir,
  step: int,
  result: Evaluation,
  tokenizer_dir: str,
) -> dict[str, Any]:
  """Measures, prints and records the bits per dimension."""
  from varjax.scoring import codelength, subjects
  from varjax.tokenizers import artifact

  if run.task == 'generate':
    trained = artifact.load(tokenizer_dir or run.tokenizer_dir)
    # Where the data is now is known to the run, not to the tokenizer.
    trained = dataclasses.replace(trained, data=run.data)
    found = codelength.of_run(run, trained, result)
  else:
    trained = artifact.load(workdir.path)
    found = codelength.of_tokenizer(dataclasses.replace(trained, data=run.data))
  print(
    f'  bits per dimension, at most {found.total:.4f} ± {found.error:.4f}: '
    f'codes {found.codes:.4f} ({found.prior} prior), residual '
    f'{found.residual:.4f} ({found.family})'
  )
  if found.label:
    print(f'  the class label, if it is to be sent, costs {found.label:.4f}')
  weights = subjects.Weights(workdir.run_id(), step, workdir.path)
  subjects.record_code_length(found, weights)
  return dataclasses.asdict(found) | {'total': found.total}


def _text(mean: np.ndarray, sem: np.ndarray) -> str:
  if mean.ndim == 0:
    return f'{mean:.5f} ± {sem:.5f}'
  return ' '.join(f'{value:.4f}' for value in mean)
