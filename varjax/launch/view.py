"""One progress view of a sweep: a redrawn block on a terminal, lines else."""

from __future__ import annotations

from collections.abc import Sequence
import shutil
import sys
import time
from typing import TextIO

from varjax.launch import base, table

_TERMINAL_EVERY_S = 0.5
_LINES_EVERY_S = 30.0
# The view is told of trials that run, and does not say where.
_HERE = {'where': ''}


class View:
  """Draws; knows which trials run because it is told."""

  def __init__(self, total: int, done: int, out: TextIO | None = None):
    """`total` trials in this launch, of which `done` were complete."""
    self._out = out or sys.stdout
    self._terminal = self._out.isatty()
    self._total, self._complete, self._failed = total, done, 0
    self._running: list[base.Trial] = []
    self._start = self._last = time.monotonic()
    self._drawn = 0

  def event(self, text: str) -> None:
    """A line that stays."""
    self._erase()
    print(text, file=self._out, flush=True)

  def started(self, trial: base.Trial) -> None:
    """`trial` runs from now on."""
    self._running.append(trial)

  def ended(self, trial: base.Trial, status: str) -> None:
    """`trial` no longer runs; status as in `Outcome`, or 'retry'."""
    self._running = [t for t in self._running if t.run_id != trial.run_id]
    self._complete += status == 'complete'
    self._failed += status == 'failed'

  def tick(self) -> None:
    """Redraws when it is time to."""
    every = _TERMINAL_EVERY_S if self._terminal else _LINES_EVERY_S
    now = time.monotonic()
    if now - self._last < every:
      return
    self._last = now
    lines = self.lines()
    self._erase()
    if self._terminal:
      width = shutil.get_terminal_size().columns - 1
      lines = [line[:width] for line in lines]
      self._drawn = len(lines)
    print('\n'.join(lines), file=self._out, flush=True)

  def close(self) -> None:
    """Leaves the terminal clean for what is printed next."""
    self._erase()

  def lines(self) -> list[str]:
    """The view now: a heading and one line per running trial."""
    elapsed = table.duration(time.monotonic() - self._start)
    failed = f', {self._failed} failed' if self._failed else ''
    heading = (
      f'[{elapsed}] {self._complete}/{self._total} complete{failed}, '
      f'{len(self._running)} running'
    )
    return [heading, *_progress_lines(self._running)]

  def _erase(self) -> None:
    if self._drawn:
      # Cursor up over the block, then clear to the end of the screen.
      print(f'\x1b[{self._drawn}F\x1b[J', end='', file=self._out)
    self._drawn = 0


def _progress_lines(running: Sequence[base.Trial]) -> list[str]:
  width = max((len(trial.name) for trial in running), default=0)
  lines = []
  for row in table.rows(running, [], {t.run_id: _HERE for t in running}):
    parts = [f'  {row.name:{width}}']
    if row.steps is None:
      parts.append('starting')
    else:
      parts.append(f'step {row.steps}/{row.total_steps or "?"}')
    if row.loss is not None:
      parts.append(f'loss {row.loss:.4f}')
    if row.images_per_s is not None:
      parts.append(f'{row.images_per_s:.1f} images/s')
    if row.eta_s is not None:
      parts.append(f'eta {table.duration(row.eta_s)}')
    lines.append('  '.join(parts))
  return lines
