"""`varjax sweep SWEEP.py --workdir D`: every trial of a sweep, resumably."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib

from varjax import errors, launch, sweep
from varjax.launch import conduct, plan
from varjax.tools import arguments, engine_arguments

_EXAMPLES = """
examples:
  varjax sweep sweeps/var_ladder.py --workdir runs/ladder --dry_run
  varjax sweep sweeps/emoji_ladder.py --workdir runs/my --parallel 2
  varjax sweep sweeps/emoji_ladder.py --workdir runs/my --engine slurm \\
    --slurm timeout_min=240,gpus_per_node=1
  varjax status runs/my --watch               in another window
"""


def main(
  argv: list[str],
  *,
  resolve_run_id: plan.ResolveRunId | None = None,
  trainer: Sequence[str] = plan.TRAINER,
) -> int:
  """Runs the command.

  Args:
    argv: arguments behind `varjax sweep`.
    resolve_run_id: run id of a spec; by default what `varjax train` uses.
    trainer: command that trains one trial, without its arguments.

  Returns:
    The exit code: 0, 1 when a trial failed, 128 + n after signal n.

  Raises:
    VarjaxError: bad input; nothing was started.
  """
  argv, overrides = arguments.split_overrides(argv)
  args = _parser().parse_args(argv)
  sweep_dir = pathlib.Path(args.workdir)
  if args.collect:
    return conduct.gather(sweep_dir)
  if args.sweep is None:
    raise errors.ConfigError('SWEEP.py is needed (or --collect)')
  trials = sweep.with_overrides(sweep.load(args.sweep), overrides)
  chosen = sweep.only(trials, args.only)
  name = pathlib.Path(args.sweep).stem
  engine = launch.ENGINES[args.engine].from_options(
    engine_arguments.options_of(args, name, sweep_dir)
  )

  def planned(resolver: plan.ResolveRunId) -> list[plan.Planned]:
    return plan.plan(trials, args.sweep, sweep_dir, resolver, trainer)

  def selected(items: list[plan.Planned]) -> list[plan.Planned]:
    return [item for item in items if trials[item.trial.index] in chosen]

  if args.dry_run:
    from varjax.tools import sweep_dry_run

    resolver = sweep_dry_run.Resolver(resolve_run_id)
    items = selected(planned(resolver))
    print(sweep_dry_run.describe(items, sweep_dir, resolver.missing))
    print(engine.plan([item.trial for item in items]))
    return 0
  items = planned(resolve_run_id or _resolve_run_id)
  return conduct.conduct(
    [item.trial for item in items],
    [item.trial for item in selected(items)],
    sweep_dir,
    name,
    engine,
  )


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser(
    'sweep',
    'Train every trial of a sweep file. Running the same command again '
    'skips complete trials and resumes the others, whatever happened.',
    '--config.KEY=VALUE, such as --config.optim.lr=3e-4, sets a key in all\n'
    f'trials; `varjax train --dry_run` prints all keys.\n{_EXAMPLES}',
  )
  parser.add_argument(
    'sweep',
    metavar='SWEEP.py',
    nargs='?',
    help='the sweep file; not needed to --collect',
  )
  parser.add_argument(
    '--workdir', required=True, help='folder of the runs and their records'
  )
  parser.add_argument(
    '--only',
    action='append',
    default=[],
    metavar='KEY=PATTERN',
    help="run only matching trials, as in --only 'name=*d4*'; repeatable",
  )
  parser.add_argument(
    '--dry_run',
    action='store_true',
    help='print trials, run ids, parameters and FLOPs, and what the engine '
    'would submit; start nothing',
  )
  parser.add_argument(
    '--collect',
    action='store_true',
    help='merge the records that runs have left in --workdir, print the '
    'table, start nothing',
  )
  engine_arguments.add(parser)
  return parser


def _resolve_run_id(run) -> str:
  from varjax import runs  # imports the data stack, which --help must not

  return runs.resolve_run_id(run)
