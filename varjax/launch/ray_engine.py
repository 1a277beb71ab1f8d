"""The Ray engine: trials on the nodes of a Ray cluster.

One actor per process of a trial holds its resources and starts a keeper (see
keeper.py), which runs the trial. A trial of several processes gets a
placement group, one bundle per host; on TPUs, a whole slice. A node that
dies takes its actors with it; the trial starts again where there is room and
resumes from its workdir, which all nodes must see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

from varjax import errors
from varjax.launch import (
  base,
  drive,
  options,
  policy,
  ray_attempt,
  tpu_slices,
)

_COUNT_NODES_EVERY_S = 2.0


@dataclasses.dataclass(frozen=True)
class RayEngine:
  """Runs trials on a Ray cluster; see `base.Engine` for the promises.

  Attributes:
    policy: retries and stragglers; parallel=0 is as many as the cluster has
      room for, counted anew as nodes come and go.
    address: of the cluster; 'auto' finds the one of this machine, 'local'
      starts one for the time of the sweep.
    resources: of one process; 'CPU' is 1 where it is not given.
    processes: of one trial, each on a node of its own.
    tpu: slice per trial, such as 'v5e:4x4'; decides `processes`.
    pin_cores: bind a CPU trial to as many cores as its share of CPU.
    sweep, sweep_dir, environment: as in `options.Options`.
  """

  policy: policy.Policy = policy.Policy()
  address: str = 'auto'
  resources: Mapping[str, float] = dataclasses.field(default_factory=dict)
  processes: int = 1
  tpu: str = ''
  pin_cores: bool = True
  sweep: str = ''
  sweep_dir: pathlib.Path = pathlib.Path('.')
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @classmethod
  def from_options(cls, given: options.Options) -> RayEngine:
    """As the command line asks for.

    Raises:
      ConfigError: a slice that there is not, or
        processes beside a slice, which has its own number of hosts.
    """
    if given.tpu:
      tpu_slices.parse(given.tpu)
      if given.processes > 1:
        raise errors.ConfigError(
          f'--processes={given.processes}: --tpu={given.tpu} decides how many '
          'hosts a trial has; give one of the two'
        )
    return cls(
      policy=given.policy,
      address=given.ray_address,
      resources=given.resources,
      processes=given.processes,
      tpu=given.tpu,
      pin_cores=given.pin_cores,
      sweep=given.sweep,
      sweep_dir=given.sweep_dir,
      environment=given.environment,
    )

  def plan(self, trials: Sequence[base.Trial]) -> str:
    """What it would ask the cluster for, without a cluster."""
    each = ', '.join(f'{k}={v:g}' for k, v in self.needs().items())
    what = f'one {self.tpu} slice' if self.tpu else f'{self.processes} x {each}'
    return f'ray: {len(trials)} trials at {self.address}, each needs {what}'

  def run(
    self, trials: Sequence[base.Trial], observer: base.Observer
  ) -> tuple[list[base.Outcome], int]:
    """See `base.Engine.run`.

    Raises:
      LaunchError: Ray is not installed, or there is no cluster.
    """
    with _connected(self.address) as ray:
      host = _Cluster(self, ray, observer)
      return drive.drive(trials, observer, host, self.policy, poll_s=0.2)

  def needs(self) -> dict[str, float]:
    """Resources of one process."""
    return {'CPU': 1.0, **self.resources}

  def of_a_trial(self) -> ray_attempt.Needs:
    """What its attempts ask for."""
    sweep = {'VARJAX_SWEEP': self.sweep} if self.sweep else {}
    return ray_attempt.Needs(
      resources=self.needs(),
      processes=self.processes,
      tpu=self.tpu,
      cores=self.cores(),
      sweep_dir=self.sweep_dir,
      environment={**sweep, **self.environment},
    )

  def cores(self) -> int:
    """Cores to bind a process to; accelerators' hosts are left alone."""
    needs = self.needs()
    accelerated = self.tpu or {'GPU', 'TPU'} & set(needs)
    whole = needs['CPU'] == int(needs['CPU'])
    return (
      int(needs['CPU']) if self.pin_cores and whole and not accelerated else 0
    )


class _Cluster:
  """The host of the Ray engine."""

  settle_s = ray_attempt.SETTLE_S

  def __init__(self, engine: RayEngine, ray: Any, observer: base.Observer):
    self._engine, self._ray, self._observer = engine, ray, observer
    self._worker = ray.remote(ray_attempt.Worker)
    self._room, self._counted_s = 1, -_COUNT_NODES_EVERY_S
    self._warned = False

  def slots(self) -> int:
    if self._engine.policy.parallel:
      return self._engine.policy.parallel
    now = time.monotonic()
    if now - self._counted_s >= _COUNT_NODES_EVERY_S:
      self._counted_s = now
      fit = self._fit()
      if not fit and not self._warned:
        self._warned = True
        self._observer.note(
          'no node of the Ray cluster has what a trial needs '
          f'({self._engine.plan([])}); waiting for one'
        )
      # One asks for room even where there is none: a cluster that scales
      # itself sees the demand.
      self._room = max(fit, 1)
    return self._room

  def start(self, starts: Sequence[drive.Start]) -> list[ray_attempt.Attempt]:
    needs = self._engine.of_a_trial()
    return [
      ray_attempt.Attempt(needs, self._ray, self._worker, start.trial)
      for start in starts
    ]

  def close(self) -> None:
    pass

  def _fit(self) -> int:
    """Trials that the living nodes have room for, if all were free."""
    if self._engine.tpu:
      from ray.util import tpu

      wanted = tpu_slices.parse(self._engine.tpu)
      return tpu.get_num_tpu_slices(wanted.shape, wanted.generation)
    alone = self._engine.processes == 1
    needs = ray_attempt.of_process(self._engine.needs(), first=alone)
    hosts = [
      min(int(node['Resources'].get(k, 0) / v + 1e-9) for k, v in needs.items())
      for node in self._ray.nodes()
      if node['Alive']
    ]
    if alone:
      return sum(hosts)
    # Each process has a node of its own.
    return sum(h > 0 for h in hosts) // self._engine.processes


@contextlib.contextmanager
def _connected(address: str):
  try:
    import ray
    import ray.util.scheduling_strategies
  except ImportError as error:
    raise errors.LaunchError(
      '--engine ray needs Ray: pip install "varjax[ray]"'
    ) from error
  mine = not ray.is_initialized()
  if mine:
    try:
      ray.init(address=address, log_to_driver=False, logging_level='error')
    except (ConnectionError, RuntimeError, ValueError) as error:
      raise errors.LaunchError(
        f'--ray_address={address}: no Ray cluster there '
        f'({str(error).splitlines()[0][:160]}); start one with '
        '`ray start --head`, or give "local" for one of this machine alone'
      ) from error
  try:
    yield ray
  finally:
    if mine:
      ray.shutdown()
