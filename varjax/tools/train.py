"""`varjax train`: one run, from an experiment file to its record."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from varjax import distributed, errors
from varjax.tools import arguments

_EXAMPLES = """
examples:
  varjax train --config experiments/var_imagenet256.py:size=d16 --dry_run
  varjax train --config experiments/emoji_tokenizer.py \\
    --workdir runs/my/tokenizer
  varjax train --config experiments/emoji_var.py:size=d4 --workdir runs/my/d4 \\
    --config.tokenizer_dir=runs/my/tokenizer --config.codes_dir=runs/my/codes
"""


def main(argv: list[str]) -> int:
  """Trains, resumes or dry-runs; returns the exit code.

  Raises:
    ConfigError: a bad config or argument; nothing was written.
  """
  argv, overrides = arguments.split_overrides(argv)
  args = _parser().parse_args(argv)
  run = arguments.load_run(args.config, overrides)
  if args.dry_run:
    from varjax.tools import dry_run

    print(dry_run.describe(run))
    return 0
  if not args.workdir:
    raise errors.ConfigError('--workdir is needed (or --dry_run)')
  profile = _steps(args.profile_steps)

  # JAX starts only now, so that the checks above answer at once.
  distributed.start(args)
  import jax

  from varjax import compilation, runs, train
  from varjax.artifacts import FINISH, score_images
  from varjax.workdir import Workdir

  compilation.enable_cache()
  resolved = runs.resolve(run)
  workdir = Workdir(pathlib.Path(args.workdir))
  distributed.on_first(lambda: workdir.claim(run, resolved.run_id))
  record = train.train(
    run,
    workdir,
    resolved,
    FINISH[run.task],
    score=score_images,
    quiet=args.quiet,
    profile_steps=profile,
  )
  if jax.process_index():
    return 0
  shown = {
    'val_loss_nats_per_token': record.val_loss_nats_per_token,
    'val_err': record.val_err,
    'val_psnr_db': record.val_psnr_db,
    'code_usage': record.code_usage,
    'steps': record.steps,
    'wall_s': record.wall_s,
  }
  values = {k: v for k, v in shown.items() if v is not None}
  print(f'run {record.run_id} complete: {json.dumps(values)}')
  sys.stdout.flush()
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser(
    'train',
    'Train a tokenizer or a transformer. Running the same command again '
    'resumes from the last checkpoint; a complete run is not repeated.',
    f'{arguments.OVERRIDE_HELP}\n{_EXAMPLES}',
  )
  parser.add_argument('--config', required=True, help=arguments.CONFIG_HELP)
  parser.add_argument(
    '--workdir', help='folder of this run; not needed to --dry_run'
  )
  parser.add_argument(
    '--dry_run',
    action='store_true',
    help='print the resolved config, parameters, FLOPs, memory and run id '
    'without compiling or writing anything',
  )
  parser.add_argument('--quiet', action='store_true', help='no progress bar')
  parser.add_argument(
    '--profile_steps',
    metavar='FIRST,LAST',
    help='trace the updates with these numbers, such as 10,12, for xprof, '
    'into WORKDIR/profile',
  )
  distributed.add_arguments(parser)
  return parser


def _steps(text: str | None) -> tuple[int, int] | None:
  if text is None:
    return None
  parts = text.split(',')
  if len(parts) != 2 or not all(p.strip().isdigit() for p in parts):
    raise errors.ConfigError(
      f'--profile_steps={text!r}: must be FIRST,LAST, such as 10,12'
    )
  return int(parts[0]), int(parts[1])
