"""The Slurm engine: trials as jobs of a cluster, submitted by submitit.

Trials that are ready together become one job array. Each task of a job
starts a keeper (see keeper.py), which runs one process of the trial; `srun`
tells the processes of one trial where the others are. Before its time limit,
or when it is preempted, a job gets SIGUSR2: its trial saves, and the job goes
back to the queue. How a trial ended is read from its keeper's files, never
from the pickled results that submitit leaves behind.
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
from varjax.launch import (
  base,
  drive,
  keeper,
  local,
  manifest,
  options,
  policy,
  remote,
)

FOLDER = 'slurm'
_CHILD = pathlib.Path(__file__).with_name('child.py')
# States of a job that will not run (again), in the words of sacct.
_OVER = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL',
         'OUT_OF_MEMORY', 'BOOT_FAIL', 'DEADLINE', 'PREEMPTED', 'FINISHED',
         'INTERRUPTED')  # fmt: skip
_ASK_EVERY_S = 5.0
_LOG_LEVEL = 'SUBMITIT_LOG_LEVEL'
# What submitit calls the same on every cluster, in the words of sbatch.
_SBATCH_NAMES = {
  'name': 'job_name',
  'timeout_min': 'time',
  'tasks_per_node': 'ntasks_per_node',
  'mem_gb': 'mem',
}


@dataclasses.dataclass(frozen=True)
class SlurmEngine:
  """Runs trials as Slurm jobs; see `base.Engine` for the promises.

  Attributes:
    policy: retries and stragglers; parallel=0 submits all trials at once.
    processes: of one trial; one node each unless `parameters` say other.
    parameters: of submitit's executor, such as timeout_min, mem_gb,
      partition; `setup` is split at semicolons into lines.
    cluster: 'slurm', or 'local' to run the jobs on this machine.
    sweep, sweep_dir, environment: as in `options.Options`.
  """

  policy: policy.Policy = policy.Policy()
  processes: int = 1
  parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  cluster: str = 'slurm'
  sweep: str = ''
  sweep_dir: pathlib.Path = pathlib.Path('.')
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @classmethod
  def from_options(cls, given: options.Options) -> SlurmEngine:
    """As the command line asks for.

    Raises:
      ConfigError: nodes and tasks that do not make `processes`, or a
        parameter that submitit does not know.
    """
    parameters = _parameters(given.slurm, given.processes)
    engine = cls(
      policy=given.policy,
      processes=given.processes,
      parameters=parameters,
      cluster=given.submitit_cluster,
      sweep=given.sweep,
      sweep_dir=given.sweep_dir,
      environment=given.environment,
    )
    if given.submitit_cluster == 'slurm':
      engine.plan([])
    return engine

  def plan(self, trials: Sequence[base.Trial]) -> str:
    """The sbatch file of the array that `run` would submit first.

    Raises:
      ConfigError: a parameter that submitit does not know.
    """
    submitit = _import_submitit()

    class OnPaper(submitit.SlurmExecutor):
      """Makes the file where there is no Slurm."""

      @classmethod
      def affinity(cls) -> int:
        return 2

    executor = OnPaper(self.sweep_dir.absolute() / FOLDER)
    try:
      executor.update_parameters(**_for_sbatch(self.parameters))
    except (ValueError, TypeError) as error:
      first = str(error).splitlines()[0]
      raise errors.ConfigError(f'--slurm: {first}') from error
    count = min(len(trials), self.policy.parallel or len(trials))
    if count > 1:
      executor.parameters['map_count'] = count
    return executor._make_submission_file_text(
      executor._submitit_command_str, 'dry_run'
    )

  def run(
    self, trials: Sequence[base.Trial], observer: base.Observer
  ) -> tuple[list[base.Outcome], int]:
    """See `base.Engine.run`.

    Raises:
      LaunchError: submitit or Slurm is not there.
    """
    submitit = _import_submitit()
    make = {'slurm': submitit.SlurmExecutor, 'local': submitit.LocalExecutor}
    folder = self.sweep_dir.absolute() / FOLDER
    try:
      executor = make[self.cluster](folder)
    except RuntimeError as error:
      raise errors.LaunchError(
        f'--engine slurm: {error}; start the sweep on a login node, or give '
        '--submitit_cluster local to run the jobs on this machine'
      ) from error
    parameters = _for_sbatch(self.parameters)
    if self.cluster == 'local':
      # submitit's own limit is minutes; a real one is asked for by name.
      parameters = {'timeout_min': 60 * 24 * 365, **self.parameters}
      parameters |= {'nodes': 1, 'tasks_per_node': self.processes}
    executor.update_parameters(**parameters)
    host = _Queue(self, executor, len(trials))
    return drive.drive(trials, observer, host, self.policy, poll_s=0.5)


class _Queue:
  """The host of the Slurm engine."""

  # Directories of a network file system are cached for up to a minute.
  settle_s = 60.0

  def __init__(self, engine: SlurmEngine, executor: Any, trials: int):
    self._engine, self._executor = engine, executor
    self._slots = engine.policy.parallel or trials
    if engine.cluster == 'local':
      self.settle_s = 0.0
      self._slots = engine.policy.parallel or local.default_parallel()

  def slots(self) -> int:
    return self._slots

  def start(
    self, starts: Sequence[drive.Start]
  ) -> Sequence[_Attempt | drive.NotStarted]:
    try:
      ordered = [self._order(start.trial) for start in starts]
      with self._executor.batch():
        jobs = [
          self._executor.submit(
            Job(o.commands, str(o.trial.workdir.absolute()))
          )
          for o in ordered
        ]
    # sbatch refuses in many ways, and submitit passes them on as they are.
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
      first = str(error).strip().splitlines()
      why = f'could not be submitted: {first[0] if first else error!r}'
      return [drive.NotStarted(why) for _ in starts]
    return [
      _Attempt(o, job, self.settle_s)
      for o, job in zip(ordered, jobs, strict=True)
    ]

  def close(self) -> None:
    pass

  def _order(self, trial: base.Trial) -> remote.Ordered:
    engine = self._engine
    common = {'VARJAX_SWEEP': engine.sweep} if engine.sweep else {}
    coordinator = ''
    if engine.cluster == 'local':
      coordinator = f'127.0.0.1:{_free_port()}'
    return remote.order(
      trial,
      engine.sweep_dir,
      processes=engine.processes,
      environments=[
        {
          **common,
          # Slurm's own variables tell the processes of a real job.
          **(
            remote.distributed_environment(coordinator, engine.processes, i)
            if coordinator
            else {}
          ),
          **engine.environment,
        }
        for i in range(engine.processes)
      ],
    )


class Job:
  """What one task of a Slurm job does; pickled by submitit."""

  def __init__(self, commands: Sequence[Sequence[str]], workdir: str):
    self._commands, self._workdir = commands, workdir

  def __call__(self) -> int:
    """Runs this task's keeper and returns its exit code."""
    import submitit

    rank = submitit.JobEnvironment().global_rank
    first_step = self._step()
    process = subprocess.Popen(
      [sys.executable, '-I', '-S', str(_CHILD), str(os.getpid()), '',
       *self._commands[rank]],
      stdin=subprocess.DEVNULL,
    )  # fmt: skip
    requeue = signal.getsignal(signal.SIGUSR2)
    preempted: list[int] = []
    signal.signal(signal.SIGUSR2, lambda signum, _: preempted.append(signum))
    told = False
    while process.poll() is None:
      if preempted and not told:
        told = True
        process.terminate()
      time.sleep(0.2)
    # Without an update made, the next start would be no better: the job ends
    # here, and the launcher counts it as an attempt.
    if preempted and callable(requeue) and self._step() > first_step:
      requeue(preempted[0], None)
    return process.returncode

  def checkpoint(self) -> Any:
    """What submitit puts back into the queue."""
    import submitit

    return submitit.helpers.DelayedSubmission(self)

  def _step(self) -> int:
    content = manifest.read_json(pathlib.Path(self._workdir) / 'progress.json')
    return content.get('step', 0) if isinstance(content, dict) else 0


class _Attempt:
  """One job of one trial, through all its requeues."""

  def __init__(self, ordered: remote.Ordered, job: Any, settle_s: float):
    self._ordered, self._job, self._settle_s = ordered, job, settle_s
    self._gang = remote.Gang(ordered)
    self._where: str | None = None
    self._killed = self._told = False
    self._asked_s = time.monotonic()
    self._over_since: float | None = None

  def where(self) -> str | None:
    if self._where is None:
      path = keeper.beat_file(self._ordered.trial.workdir, 0)
      beat = manifest.read_json(path)
      if isinstance(beat, dict) and beat.get('token') == self._ordered.token:
        self._where = f'{beat.get("host")} (job {self._job.job_id})'
    return self._where

  def poll(self) -> drive.Ending | None:
    if self._killed:
      return drive.Ending(-signal.SIGKILL, 'killed by the launcher')
    ended = self._gang.look()
    if ended is not None:
      preempted = ended.exit_code == base.PREEMPTED_EXIT_CODE
      # A job that was preempted may be on its way back to the queue.
      if not preempted or self._told or self._state() in _OVER:
        return ended
      return None
    now = time.monotonic()
    if now - self._asked_s < _ASK_EVERY_S:
      return None
    self._asked_s = now
    state = self._state()
    if state not in _OVER:
      self._over_since = None
      return None
    # What the keepers have left may still be on its way.
    self._over_since = self._over_since or now
    if now - self._over_since < self._settle_s:
      return None
    return drive.Ending(None, f'job {self._job.job_id} ended as {state}')

  def stop(self) -> None:
    if self.where() is None:
      self.kill()
    elif not self._told:
      self._told = True
      with contextlib.suppress(OSError):
        remote.stop(self._ordered)

  def kill(self) -> None:
    if not self._killed:
      self._killed = True
      with contextlib.suppress(OSError):
        remote.forbid(self._ordered)
      self._job.cancel(check=False)

  def _state(self) -> str:
    """In the words of sacct, such as CANCELLED of 'CANCELLED by 1000'."""
    return str(self._job.state).partition(' ')[0].rstrip('+')


def _parameters(given: Mapping[str, str], processes: int) -> dict[str, Any]:
  """submitit's parameters from the texts of the command line."""
  found: dict[str, Any] = {}
  for name, text in given.items():
    name = name.removeprefix('slurm_')
    if name == 'setup':
      found[name] = [line.strip() for line in text.split(';')]
    else:
      found[name] = int(text) if text.lstrip('-').isdigit() else text
  found.setdefault('nodes', processes // int(found.get('tasks_per_node', 1)))
  found.setdefault('tasks_per_node', 1)
  if found['nodes'] * found['tasks_per_node'] != processes:
    raise errors.ConfigError(
      f'--slurm nodes={found["nodes"]}, tasks_per_node='
      f'{found["tasks_per_node"]}: must multiply to --processes={processes}'
    )
  return found


def _for_sbatch(parameters: Mapping[str, Any]) -> dict[str, Any]:
  found = {_SBATCH_NAMES.get(k, k): v for k, v in parameters.items()}
  if 'mem_gb' in parameters:
    found['mem'] = f'{parameters["mem_gb"]}GB'
  return found


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def _import_submitit() -> Any:
  # Its import would set up logging anew and close the handlers that others
  # have made; its own log belongs to the jobs.
  before = os.environ.get(_LOG_LEVEL)
  os.environ.setdefault(_LOG_LEVEL, 'NOCONFIG')
  try:
    import submitit
  except ImportError as error:
    raise errors.LaunchError(
      '--engine slurm needs submitit: pip install "varjax[slurm]"'
    ) from error
  finally:
    if before is None:
      del os.environ[_LOG_LEVEL]
  return submitit
