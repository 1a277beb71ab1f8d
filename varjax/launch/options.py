"""What a command line asks of an engine, of all engines in one place."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib

from varjax import errors
from varjax.launch import policy as policies


@dataclasses.dataclass(frozen=True)
class Options:
  """Read by the engines; each takes what it has a use for.

  Attributes:
    policy: concurrency, retries, stragglers.
    sweep: name of the sweep, handed to the trials as VARJAX_SWEEP.
    sweep_dir: folder of the sweep, the same on all machines.
    pin_cores: bind CPU trials to as many cores as they are given.
    environment: variables for the trials.
    resources: what one process of a trial needs, by Ray's or Slurm's names.
    processes: of one trial, which form one JAX program.
    ray_address: of the cluster; 'auto' finds the one of this machine.
    tpu: slice for each trial, as 'v5e:4x4'.
    slurm: parameters of submitit's executor.
    submitit_cluster: 'slurm', or 'local' to run its jobs on this machine.
    image: container image of written job templates.
    remote_dir: the sweep directory as the written commands will see it.
  """

  policy: policies.Policy = policies.Policy()
  sweep: str = ''
  sweep_dir: pathlib.Path = pathlib.Path('.')
  pin_cores: bool = True
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
  resources: Mapping[str, float] = dataclasses.field(default_factory=dict)
  processes: int = 1
  ray_address: str = 'auto'
  tpu: str = ''
  slurm: Mapping[str, str] = dataclasses.field(default_factory=dict)
  submitit_cluster: str = 'slurm'
  image: str = ''
  remote_dir: str = ''


def assignments(option: str, texts: list[str]) -> dict[str, str]:
  """{'A': '1', 'B': '2'} of ['A=1,B=2'] or ['A=1', 'B=2'].

  Raises:
    ConfigError: a part that is not NAME=VALUE, or a name twice.
  """
  found: dict[str, str] = {}
  for part in ','.join(texts).split(','):
    name, equals, value = part.strip().partition('=')
    if not part.strip():
      continue
    if not equals or not name or name in found:
      raise errors.ConfigError(
        f'{option}={part}: must be NAME=VALUE, each name once'
      )
    found[name] = value
  return found


def amounts(option: str, texts: list[str]) -> dict[str, float]:
  """Like `assignments`, with positive numbers as values.

  Raises:
    ConfigError: a value that is not a positive number.
  """
  found = {}
  for name, text in assignments(option, texts).items():
    try:
      value = float(text)
    except ValueError:
      value = 0.0
    if not 0 < value < float('inf'):
      raise errors.ConfigError(
        f'{option} {name}={text}: must be a positive number'
      )
    found[name] = value
  return found
