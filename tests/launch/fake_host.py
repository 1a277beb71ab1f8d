"""A host whose attempts follow a script, and an observer that remembers."""

import dataclasses
import json

from varjax import records
from varjax.launch import base, drive


def trial(root, name, index=0, **values):
  """A trial whose workdir is `root`/name."""
  return base.Trial(
    index=index,
    name=name,
    config='x.py',
    overrides={},
    role='fit',
    run_id=name,
    workdir=root / name,
    command=('true',),
    **values,
  )


@dataclasses.dataclass
class Turn:
  """What one attempt does: ends with `code`, at `step`, after `polls`.

  `code` 'complete' leaves a record and exits with 0; None never ends.
  """

  code: int | str | None = 'complete'
  step: int | None = None
  polls: int = 1


class Attempt:
  def __init__(self, host, start, turn):
    self._host, self._start, self._turn = host, start, turn
    self._left, self.told = turn.polls, []

  def where(self):
    return 'somewhere'

  def poll(self):
    if 'kill' in self.told:
      return drive.Ending(-9)
    if 'stop' in self.told and self._turn.code != 'deaf':
      return drive.Ending(base.PREEMPTED_EXIT_CODE)
    if self._turn.code in (None, 'deaf'):
      return None
    self._left -= 1
    if self._left > 0:
      return None
    if self._turn.step is not None:
      self._start.trial.progress.write_text(
        json.dumps({'step': self._turn.step})
      )
    if self._turn.code != 'complete':
      return drive.Ending(self._turn.code)
    run_id = self._start.trial.run_id
    if self._host.loses_records:
      return drive.Ending(0)
    records.append(
      self._start.trial.records,
      records.RunRecord(run_id=run_id, status='complete'),
    )
    return drive.Ending(0)

  def stop(self):
    self.told.append('stop')

  def kill(self):
    self.told.append('kill')


class Host:
  """Attempt n of a trial takes the n-th of its turns, then the last one."""

  settle_s = 0.0
  loses_records = False

  def __init__(self, turns, slots=1):
    self._turns, self._slots = turns, slots
    self.started, self.attempts, self.closed = [], [], False

  def slots(self):
    return self._slots

  def start(self, starts):
    made = []
    for start in starts:
      turns = self._turns.get(start.trial.name, [Turn()])
      before = self.started.count(start.trial.name)
      self.started.append(start.trial.name)
      made.append(Attempt(self, start, turns[min(before, len(turns) - 1)]))
    self.attempts += made
    return made

  def close(self):
    self.closed = True


class Observer:
  """Remembers what it is told as tuples."""

  def __init__(self):
    self.events = []

  def started(self, trial, attempt):
    self.events.append(('started', trial.name, attempt))

  def running(self, trial, where):
    self.events.append(('running', trial.name, where))

  def retrying(self, trial, error, wait_s):
    self.events.append(('retrying', trial.name, error, wait_s))

  def straggling(self, trial, why):
    self.events.append(('straggling', trial.name, why))

  def note(self, text):
    self.events.append(('note', text))

  def stopping(self, signal_name):
    self.events.append(('stopping', signal_name))

  def ended(self, outcome):
    self.events.append(('ended', outcome.trial.name, outcome.status))

  def tick(self):
    pass
