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
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from varjax import errors
from varjax.launch import base, drive, options, policy, remote, tpu_slices

_COUNT_NODES_EVERY_S = 2.0
# A node that has just died is still offered for a while: a place that is lost
# before anything ran there is asked for again, so often.
_PLACES_TO_TRY = 10
# A worker that cannot be reached for so long is lost.
_UNREACHABLE_S = 60.0
_CHILD = pathlib.Path(__file__).with_name('child.py')


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

  settle_s = 10.0

  def __init__(self, engine: RayEngine, ray: Any, observer: base.Observer):
    self._engine, self._ray, self._observer = engine, ray, observer
    self._worker = ray.remote(_Worker)
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

  def start(
    self, starts: Sequence[drive.Start]
  ) -> list[_Attempt | drive.NotStarted]:
    return [
      _Attempt(self._engine, self._ray, self._worker, start.trial)
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
    needs = _of_process(self._engine.needs(), first=self._engine.processes == 1)
    hosts = [
      min(int(node['Resources'].get(k, 0) / v + 1e-9) for k, v in needs.items())
      for node in self._ray.nodes()
      if node['Alive']
    ]
    if self._engine.processes == 1:
      return sum(hosts)
    # Each process has a node of its own.
    return sum(h > 0 for h in hosts) // self._engine.processes


class _Attempt:
  """One start of a trial: its actors, from their places to their endings."""

  def __init__(
    self, engine: RayEngine, ray: Any, worker: Any, trial: base.Trial
  ):
    self._engine, self._ray, self._trial = engine, ray, trial
    self._worker = worker
    self._ended: drive.Ending | None = None
    self._group: Any = None
    self._slice: Any = None
    self._actors: list[Any] = []
    self._waits: list[Any] = []
    self._places: list[dict[str, Any]] = []
    self._ordered: remote.Ordered | None = None
    self._codes: dict[int, int | None] = {}
    self._told = False
    self._gang: remote.Gang | None = None
    self._all_over_since: float | None = None
    self._unreachable_since: float | None = None
    self._places_lost = 0
    self._ask_for_places()

  def where(self) -> str | None:
    if self._ordered is None:
      return None
    return ', '.join(dict.fromkeys(place['where'] for place in self._places))

  def poll(self) -> drive.Ending | None:
    if self._ended is None:
      try:
        self._ended = self._advance()
      except self._ray.exceptions.RayError as error:
        self._ended = self._after(error)
      except OSError as error:
        self._ended = drive.Ending(None, f'could not be started: {error}')
      if self._ended is not None:
        self._free()
    return self._ended

  def stop(self) -> None:
    if self._ordered is None:
      self.kill()
    elif not self._told:
      self._told = True
      with contextlib.suppress(OSError):
        remote.stop(self._ordered)

  def kill(self) -> None:
    if self._ended is None:
      self._ended = drive.Ending(-signal.SIGKILL, 'killed by the launcher')
      # Whatever the cluster does with the actors, a keeper obeys this.
      with contextlib.suppress(OSError):
        if self._ordered is not None:
          remote.forbid(self._ordered)
    self._free()

  def _ask_for_places(self) -> None:
    engine, needs = self._engine, self._engine.needs()
    if engine.tpu:
      return  # `_advance` reserves a slice once there is one
    if engine.processes == 1:
      self._add_actor(needs)
      return
    bundles = [
      _of_process(needs, first=i == 0) for i in range(engine.processes)
    ]
    self._group = self._ray.util.placement_group(
      bundles, strategy='STRICT_SPREAD'
    )
    self._waits = [self._group.ready()]

  def _advance(self) -> drive.Ending | None:
    """One step without waiting; the ending once there is one."""
    if self._engine.tpu and self._group is None:
      self._reserve_slice()
      return None
    done, missing = self._ray.wait(
      self._waits, num_returns=len(self._waits), timeout=0
    )
    if self._ordered is not None:
      return self._take_codes(done)
    if missing:
      return None
    if self._actors:
      self._places = self._ray.get(self._waits)
      self._start()
    else:
      self._fill_group()
    return None

  def _reserve_slice(self) -> None:
    from ray.util import tpu

    wanted = tpu_slices.parse(self._engine.tpu)
    what = (wanted.shape, wanted.generation)
    # Reserving waits for the slice's head, so only where one is idle.
    if tpu.get_num_ready_tpu_slices(*what):
      self._slice = tpu.slice_placement_group(*what)
      self._group = self._slice.placement_group
      self._waits = [self._group.ready()]

  def _fill_group(self) -> None:
    strategies = self._ray.util.scheduling_strategies
    needs = self._engine.needs()
    for index, bundle in enumerate(self._group.bundle_specs):
      if not self._engine.tpu:
        bundle = _of_process(needs, first=index == 0)
      self._add_actor(
        bundle,
        scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(
          self._group, placement_group_bundle_index=index
        ),
      )

  def _add_actor(self, needs: Mapping[str, float], **how: Any) -> None:
    rest = {k: v for k, v in needs.items() if k not in ('CPU', 'GPU')}
    actor = self._worker.options(
      num_cpus=needs.get('CPU', 0),
      num_gpus=needs.get('GPU', 0),
      resources=rest,
      max_restarts=0,
      **how,
    ).remote()
    if not self._actors:
      self._waits = []
    self._actors.append(actor)
    self._waits.append(actor.place.remote())

  def _start(self) -> None:
    first = self._places[0]
    coordinator = f'{first["ip"]}:{first["port"]}'
    count = len(self._actors)
    self._ordered = remote.order(
      self._trial,
      self._engine.sweep_dir,
      processes=count,
      environments=[
        {
          **(
            {'VARJAX_SWEEP': self._engine.sweep} if self._engine.sweep else {}
          ),
          **remote.distributed_environment(coordinator, count, i),
          **self._engine.environment,
        }
        for i in range(count)
      ],
      cores=self._engine.cores(),
    )
    self._gang = remote.Gang(self._ordered)
    for actor, command in zip(
      self._actors, self._ordered.commands, strict=True
    ):
      actor.run.remote(command)
    # An actor works in order: what `run` raises shows in `poll`.
    self._waits = [actor.poll.remote() for actor in self._actors]

  def _take_codes(self, done: list[Any]) -> drive.Ending | None:
    for index, ref in enumerate(self._waits):
      if ref in done and index not in self._codes:
        code = self._ray.get(ref)
        self._unreachable_since = None
        if code is None:
          self._waits[index] = self._actors[index].poll.remote()
        else:
          self._codes[index] = code
    assert self._gang is not None
    ended = self._gang.look()
    if ended is None and len(self._codes) == len(self._actors):
      # What a keeper has left may need a moment to be seen from here.
      self._all_over_since = self._all_over_since or time.monotonic()
      if time.monotonic() - self._all_over_since > _Cluster.settle_s:
        return drive.Ending(None, 'a keeper ended without a word')
    return ended

  def _after(self, error: Exception) -> drive.Ending | None:
    """What an error of the cluster means for this attempt."""
    if self._ordered is None:
      self._places_lost += 1
      if self._places_lost < _PLACES_TO_TRY:
        self._free()
        self._ask_for_places()
        return None
    elif isinstance(error, self._ray.exceptions.ActorUnavailableError):
      now = time.monotonic()
      self._unreachable_since = self._unreachable_since or now
      if now - self._unreachable_since < _UNREACHABLE_S:
        self._waits = [actor.poll.remote() for actor in self._actors]
        return None
    return drive.Ending(None, self._loss(error))

  def _loss(self, error: Exception) -> str:
    where = ', '.join(place['where'] for place in self._places)
    first = str(error).strip().splitlines()
    return (
      f'lost with its Ray worker{" on " + where if where else ""} '
      f'({type(error).__name__}: {first[0][:160] if first else ""})'
    )

  def _free(self) -> None:
    for actor in self._actors:
      self._ray.kill(actor)
    if self._slice is not None:
      self._slice.shutdown()
    elif self._group is not None:
      self._ray.util.remove_placement_group(self._group)
    self._actors, self._group, self._slice = [], None, None
    self._waits = []


class _Worker:
  """The actor: holds the resources, runs one keeper."""

  def place(self) -> dict[str, Any]:
    """Where it is, with a port that was free a moment ago."""
    import ray

    ip = ray.util.get_node_ip_address()
    with socket.socket() as probe:
      probe.bind(('', 0))
      port = probe.getsockname()[1]
    node = ray.get_runtime_context().get_node_id()
    return {'ip': ip, 'port': port, 'where': f'{ip} (node {node[:8]})'}

  def run(self, command: Sequence[str]) -> None:
    """Starts the keeper, which dies with this actor."""
    self._process = subprocess.Popen(
      [sys.executable, '-I', '-S', str(_CHILD), str(os.getpid()), '', *command],
      stdin=subprocess.DEVNULL,
      start_new_session=True,
    )

  def poll(self) -> int | None:
    """The keeper's exit code; waits a little, so that few calls are made."""
    try:
      return self._process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
      return None


def _of_process(needs: Mapping[str, float], first: bool) -> dict[str, float]:
  """What a process asks for: the head of a slice is the first one's."""
  return {k: v for k, v in needs.items() if first or not k.endswith('-head')}


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
