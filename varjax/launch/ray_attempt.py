"""One start of a trial on a Ray cluster; see ray_engine.py.

An attempt waits for its places, gives orders to the keepers there, and waits
for what they tell, without ever blocking the launcher.
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

from varjax.launch import base, drive, remote, tpu_slices

_CHILD = pathlib.Path(__file__).with_name('child.py')
# What a keeper has left may take so long to be seen from the launcher.
SETTLE_S = 10.0
# A node that has just died is still offered for a while: a place that is lost
# before anything ran there is asked for again, so often.
_PLACES_TO_TRY = 10
# A worker that cannot be reached for so long is lost.
_UNREACHABLE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Needs:
  """What every trial of a sweep asks of the cluster.

  Attributes:
    resources: of one process, by Ray's names.
    processes: of one trial, each on a node of its own.
    tpu: slice per trial; decides `processes`.
    cores: to bind each process to; 0: no binding.
    sweep_dir: where the launcher beats.
    environment: variables for the trials.
  """

  resources: Mapping[str, float]
  processes: int
  tpu: str
  cores: int
  sweep_dir: pathlib.Path
  environment: Mapping[str, str]


class Attempt:
  """One start of a trial: its actors, from their places to their endings."""

  def __init__(self, needs: Needs, ray: Any, worker: Any, trial: base.Trial):
    self._needs, self._ray, self._trial = needs, ray, trial
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
    """The nodes of its processes; None while it waits for them."""
    if self._ordered is None:
      return None
    return ', '.join(dict.fromkeys(place['where'] for place in self._places))

  def poll(self) -> drive.Ending | None:
    """Goes on without waiting; its ending once there is one."""
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
    """Asks the trial to save and end; an attempt without places just ends."""
    if self._ordered is None:
      self.kill()
    elif not self._told:
      self._told = True
      with contextlib.suppress(OSError):
        remote.stop(self._ordered)

  def kill(self) -> None:
    """Ends the trial whatever it does, and gives its places back."""
    if self._ended is None:
      self._ended = drive.Ending(-signal.SIGKILL, 'killed by the launcher')
      # Whatever the cluster does with the actors, a keeper obeys this.
      with contextlib.suppress(OSError):
        if self._ordered is not None:
          remote.forbid(self._ordered)
    self._free()

  def _ask_for_places(self) -> None:
    needs = self._needs.resources
    if self._needs.tpu:
      return  # `_advance` reserves a slice once there is one
    if self._needs.processes == 1:
      self._add_actor(needs)
      return
    bundles = [
      of_process(needs, first=i == 0) for i in range(self._needs.processes)
    ]
    self._group = self._ray.util.placement_group(
      bundles, strategy='STRICT_SPREAD'
    )
    self._waits = [self._group.ready()]

  def _advance(self) -> drive.Ending | None:
    """One step without waiting; the ending once there is one."""
    if self._needs.tpu and self._group is None:
      return self._reserve_slice()
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

  def _reserve_slice(self) -> drive.Ending | None:
    """Takes a slice that is idle; an ending if Ray cannot give it."""
    from ray.util import tpu

    wanted = tpu_slices.parse(self._needs.tpu)
    what = (wanted.shape, wanted.generation)
    # Reserving waits for the slice's head, so only where one is idle.
    if not tpu.get_num_ready_tpu_slices(*what):
      return None
    try:
      self._slice = tpu.slice_placement_group(*what)
    except (RuntimeError, ValueError, TimeoutError) as error:
      first = (str(error).splitlines() or [''])[0]
      return drive.Ending(None, f'no {self._needs.tpu} slice ({first[:200]})')
    self._group = self._slice.placement_group
    self._waits = [self._group.ready()]
    return None

  def _fill_group(self) -> None:
    strategies = self._ray.util.scheduling_strategies
    needs = self._needs.resources
    for index, bundle in enumerate(self._group.bundle_specs):
      if not self._needs.tpu:
        bundle = of_process(needs, first=index == 0)
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
      self._needs.sweep_dir,
      processes=count,
      environments=[
        {
          **remote.distributed_environment(coordinator, count, i),
          **self._needs.environment,
        }
        for i in range(count)
      ],
      cores=self._needs.cores,
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
      if time.monotonic() - self._all_over_since > SETTLE_S:
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


class Worker:
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


def of_process(needs: Mapping[str, float], first: bool) -> dict[str, float]:
  """What a process asks for: the head of a slice is the first one's."""
  return {k: v for k, v in needs.items() if first or not k.endswith('-head')}
