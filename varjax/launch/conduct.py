"""Runs a planned sweep to its end, however often it has to be started.

What is complete is read from records alone, so a launcher that is killed at
any moment leaves nothing to repair: the next one reads the same records,
skips what is complete and starts the rest, which resume by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import pathlib
import sys
from typing import Any

from varjax import errors, records
from varjax.launch import base, collect, lock, manifest, table, view


def conduct(
  trials: Sequence[base.Trial],
  selected: Sequence[base.Trial],
  sweep_dir: pathlib.Path,
  name: str,
  engine: base.Engine,
) -> int:
  """Runs the selected trials that are not complete, and prints the table.

  Args:
    trials: the whole sweep, for the manifest and the table.
    selected: those of it that may run now.
    sweep_dir: folder of the sweep; held by one launcher at a time.
    name: of the sweep, for records.
    engine: runs the trials.

  Returns:
    0: all selected trials are complete; 1: at least one failed;
    128 + n: stopped by signal n.

  Raises:
    LaunchError: another launcher is at work, or the manifest is broken.
    RecordError: the records of the sweep cannot be read.
  """
  with lock.held(sweep_dir) as hold:
    if hold.died is not None:
      print(
        f'the launcher before this one ({hold.died}) ended without letting '
        'go; going on from what its trials have saved',
        flush=True,
      )
    found, problems = collect.collect(sweep_dir)
    _say_all(problems)
    # A launcher that was killed has left its own list.
    manifest.set_running(sweep_dir, [])
    new, left = manifest.update(sweep_dir, name, trials)
    done = _complete(found)
    rest = [trial for trial in selected if trial.run_id not in done]
    _announce(trials, selected, rest, new, left)
    observer = _Observer(sweep_dir, name, len(selected), len(rest), hold)
    outcomes, signum = engine.run(rest, observer) if rest else ([], 0)
    observer.close()
    found = _merge_at_last(sweep_dir)
    rows = table.rows(trials, found, {})
    print(table.text(rows), flush=True)
    print(table.summary(rows), flush=True)
    for outcome in outcomes:
      if outcome.status == 'failed':
        print(
          f'failed: {outcome.trial.name}: {outcome.error}; '
          f'log: {outcome.trial.log}',
          flush=True,
        )
  if any(outcome.status == 'written' for outcome in outcomes):
    print(f'merge later: varjax sweep --collect --workdir {sweep_dir}')
  if signum:
    print('stopped; run the same command again to go on', flush=True)
    return 128 + signum
  return int(any(o.status not in ('complete', 'written') for o in outcomes))


def gather(sweep_dir: pathlib.Path) -> int:
  """Merges what runs have left in a sweep directory, and prints the table.

  For trials that no launcher of ours has run; see the manifest engine.

  Returns:
    0, or 1 when a trial has failed.

  Raises:
    LaunchError: not the folder of a sweep, or a launcher is at work there.
    RecordError: the records of the sweep cannot be read.
  """
  _, trials, _ = manifest.read(sweep_dir)
  with lock.held(sweep_dir):
    found = _merge_at_last(sweep_dir)
  _say_all(collect.strangers(trials))
  rows = table.rows(trials, found, {})
  print(table.text(rows), flush=True)
  print(table.summary(rows), flush=True)
  return int(any(row.status == 'failed' for row in rows))


def _merge_at_last(sweep_dir: pathlib.Path) -> list[records.RunRecord]:
  """Merges, or says what stands in the way; the runs keep their records."""
  try:
    found, problems = collect.collect(sweep_dir)
    manifest.set_running(sweep_dir, [])
  except OSError as error:
    raise errors.LaunchError(
      f'{sweep_dir}: the records could not be merged ({error}); those of the '
      'trials are safe, and the same command merges them once this is mended'
    ) from error
  _say_all(problems)
  return found


class _Observer:
  """Keeps records, the list of running trials and the view up to date.

  A disk that is full must not end trials that run: what cannot be written
  now is written by a later event, or at the end of the sweep.
  """

  def __init__(
    self,
    sweep_dir: pathlib.Path,
    name: str,
    total: int,
    remaining: int,
    hold: lock.Hold,
  ):
    self._sweep_dir, self._name, self._hold = sweep_dir, name, hold
    self._view = view.View(total, total - remaining)
    self._running: dict[str, dict[str, Any]] = {}

  def started(self, trial: base.Trial, attempt: int) -> None:
    self._running[trial.run_id] = {
      'run_id': trial.run_id,
      'attempt': attempt,
      'where': None,
      'straggling': '',
    }
    self._note_running()
    again = f', attempt {attempt}' if attempt > 1 else ''
    self._view.started(trial)
    self._view.event(f'start {trial.name} ({trial.run_id}{again})')

  def running(self, trial: base.Trial, where: str) -> None:
    self._running[trial.run_id]['where'] = where
    self._note_running()

  def retrying(self, trial: base.Trial, error: str, wait_s: float) -> None:
    self._no_longer(trial, 'retry')
    self._view.event(f'retry {trial.name} in {wait_s:.0f} s: {error}')

  def straggling(self, trial: base.Trial, why: str) -> None:
    self._running[trial.run_id]['straggling'] = why
    self._note_running()
    said = f'straggler: {trial.name} {why}' if why else f'{trial.name} moves on'
    self._view.event(said)

  def note(self, text: str) -> None:
    self._view.event(text)

  def stopping(self, signal_name: str) -> None:
    self._view.event(
      f'{signal_name}: {self._running_trials()} to save and exit; a second '
      'signal kills'
    )

  def _running_trials(self) -> str:
    count = len(self._running)
    return f'waiting for {count} trial{"" if count == 1 else "s"}'

  def ended(self, outcome: base.Outcome) -> None:
    trial = outcome.trial
    with self._disk_may_be_full('its record'):
      if outcome.status == 'failed':
        collect.record_failure(outcome, self._name)
    self._no_longer(trial, outcome.status)
    problems: list[str] = []
    with self._disk_may_be_full('the records of the sweep'):
      _, problems = collect.collect(self._sweep_dir)
    took = table.duration(outcome.wall_s)
    why = f': {outcome.error}' if outcome.error else ''
    self._view.event(f'{outcome.status} {trial.name} after {took}{why}')
    for problem in problems:
      self._view.event(problem)

  def tick(self) -> None:
    self._hold.check()
    self._view.tick()

  def close(self) -> None:
    self._view.close()

  def _no_longer(self, trial: base.Trial, status: str) -> None:
    self._running.pop(trial.run_id, None)
    self._note_running()
    self._view.ended(trial, status)

  def _note_running(self) -> None:
    with self._disk_may_be_full('the list of running trials'):
      manifest.set_running(self._sweep_dir, list(self._running.values()))

  @contextlib.contextmanager
  def _disk_may_be_full(self, what: str) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      self._view.event(
        f'{what} could not be written ({error}); the trials go on, and it '
        'will be tried again'
      )


def _complete(found: Sequence[records.RunRecord]) -> set[str]:
  return {r.run_id for r in found if r.status == 'complete'}


def _announce(
  trials: Sequence[base.Trial],
  selected: Sequence[base.Trial],
  rest: Sequence[base.Trial],
  new: Sequence[base.Trial],
  left: Sequence[base.Trial],
) -> None:
  print(
    f'{len(trials)} trials, {len(selected)} selected, '
    f'{len(selected) - len(rest)} already complete, {len(rest)} to run',
    flush=True,
  )
  if new and (left or len(new) < len(trials)):
    names = ', '.join(f'{t.name} ({t.run_id})' for t in new)
    print(f'new in this sweep: {names}', flush=True)
  if left:
    names = ', '.join(f'{t.name} ({t.run_id})' for t in left)
    print(
      f'no longer in this sweep: {names}; their records are kept',
      flush=True,
    )


def _say_all(problems: Sequence[str]) -> None:
  for problem in problems:
    print(problem, file=sys.stderr, flush=True)
