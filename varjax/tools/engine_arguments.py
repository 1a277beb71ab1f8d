"""Arguments of `varjax sweep` that choose an engine and set it up."""

from __future__ import annotations

import argparse
import pathlib

from varjax import errors, launch
from varjax.launch import local, options, policy

# Options that only some engines read; given to another one, they are an
# error and not ignored.
_READ_BY = {
  'pin_cores': ('local', 'ray'),
  'resources': ('ray',),
  'processes': ('ray', 'slurm'),
  'ray_address': ('ray',),
  'tpu': ('ray', 'manifest'),
  'slurm': ('slurm',),
  'submitit_cluster': ('slurm',),
  'image': ('manifest',),
  'remote_dir': ('manifest',),
}


def add(parser: argparse.ArgumentParser) -> None:
  """Adds them."""
  _add_common(parser)
  _add_of_some_engines(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
  """The choice of an engine, and what all engines read."""
  defaults = policy.Policy()
  every = parser.add_argument_group('engine')
  every.add_argument(
    '--engine',
    choices=tuple(launch.ENGINES),
    default='local',
    help='what runs the trials: processes of this machine, a Ray cluster, '
    'Slurm, or nothing: commands are written for you to run elsewhere',
  )
  every.add_argument(
    '--parallel',
    type=_count,
    default=0,
    metavar='N',
    help='trials at a time; 0: local, one for every two cores, here '
    f'{local.default_parallel()} (on CPUs the cores per trial decide the '
    'last bits of a loss); ray, as many as fit the cluster; slurm, all',
  )
  every.add_argument(
    '--retries',
    type=_count,
    default=defaults.retries,
    metavar='N',
    help='further attempts after a crash; bad input and diverged runs are '
    'never retried, and a preempted trial that had moved on is not counted',
  )
  every.add_argument(
    '--backoff_s',
    type=float,
    default=defaults.backoff_s,
    metavar='S',
    help='wait before the first retry, doubled for each further one, '
    f'{policy.MAX_BACKOFF_S:.0f} at most',
  )
  every.add_argument(
    '--silent_s',
    type=float,
    default=defaults.silent_s,
    metavar='S',
    help='report a running trial without progress for so long (longer than '
    'it compiles); 0 never',
  )
  every.add_argument(
    '--straggler_factor',
    type=float,
    default=defaults.straggler_factor,
    metavar='X',
    help='report a trial that is so many times slower than the speed of the '
    'others lets expect; 0 never',
  )
  every.add_argument(
    '--restart_stragglers',
    action='store_true',
    help='stop such trials and start them again, which counts as a retry',
  )
  every.add_argument(
    '--grace_s',
    type=float,
    default=defaults.grace_s,
    metavar='S',
    help='time that a stopped straggler has to save before it is killed',
  )
  every.add_argument(
    '--env',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='environment variable for the trials; repeatable',
  )


def _add_of_some_engines(parser: argparse.ArgumentParser) -> None:
  """The options of `_READ_BY`."""
  some = parser.add_argument_group('options of some engines')
  some.add_argument(
    '--pin_cores',
    action=argparse.BooleanOptionalAction,
    help='local, ray: bind each trial to its own cores (Linux; on by default)',
  )
  some.add_argument(
    '--resources',
    action='append',
    metavar='NAME=N',
    help='ray: what one process of a trial needs, as in CPU=4,GPU=1; names '
    'that end in -head are asked for by the first process alone, as in '
    'TPU=4,TPU-v5litepod-16-head=1',
  )
  some.add_argument(
    '--processes',
    type=_count,
    metavar='N',
    help='ray, slurm: processes of one trial, each on a host of its own',
  )
  some.add_argument(
    '--ray_address',
    metavar='ADDRESS',
    help='ray: of the cluster; "auto" finds the one that this machine is in',
  )
  some.add_argument(
    '--tpu',
    metavar='GENERATION:TOPOLOGY',
    help='ray, manifest: one TPU slice per trial, as in v5e:4x4',
  )
  some.add_argument(
    '--slurm',
    action='append',
    metavar='NAME=VALUE',
    help='slurm: parameters of submitit, as in timeout_min=240,mem_gb=64,'
    'slurm_partition=gpu',
  )
  some.add_argument(
    '--submitit_cluster',
    choices=('slurm', 'local'),
    help='slurm: "local" runs the jobs on this machine, to try things out',
  )
  some.add_argument(
    '--image',
    metavar='IMAGE',
    help='manifest: container image with varjax, for the job templates',
  )
  some.add_argument(
    '--remote_dir',
    metavar='DIR',
    help='manifest: the --workdir as the machines that run the commands '
    'will see it',
  )


def options_of(
  args: argparse.Namespace, sweep: str, sweep_dir: pathlib.Path
) -> options.Options:
  """What was asked for, checked against the chosen engine.

  Raises:
    ConfigError: an option that the engine does not read, or a bad value.
  """
  for name, engines in _READ_BY.items():
    if getattr(args, name) is not None and args.engine not in engines:
      raise errors.ConfigError(
        f'--{name} is not for --engine {args.engine}, but for '
        f'{" and ".join(engines)}'
      )
  chosen = {
    'resources': options.amounts('--resources', args.resources or []),
    'slurm': options.assignments('--slurm', args.slurm or []),
    'processes': 1 if args.processes is None else args.processes,
  }
  simple = ('pin_cores', 'ray_address', 'tpu', 'submitit_cluster', 'image',
            'remote_dir')  # fmt: skip
  for name in simple:
    if getattr(args, name) is not None:
      chosen[name] = getattr(args, name)
  if chosen['processes'] < 1:
    raise errors.ConfigError('--processes=0: must be 1 or more')
  return options.Options(
    policy=policy.Policy(
      parallel=args.parallel,
      retries=args.retries,
      backoff_s=args.backoff_s,
      silent_s=args.silent_s,
      straggler_factor=args.straggler_factor,
      restart_stragglers=args.restart_stragglers,
      grace_s=args.grace_s,
    ),
    sweep=sweep,
    sweep_dir=sweep_dir,
    environment=options.assignments('--env', args.env),
    **chosen,
  )


def _count(text: str) -> int:
  value = int(text)
  if value < 0:
    raise argparse.ArgumentTypeError(f'{text} must be 0 or more')
  return value
