"""What a trial's log says about how it ended."""

from __future__ import annotations

from collections.abc import Sequence
import datetime
import pathlib
import re
import shlex
import signal

from varjax.launch import base

_TAIL_BYTES = 16384
_MAX_CHARS = 400
_ANSI = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')


def header(attempt: int, command: Sequence[str]) -> bytes:
  """The line that separates attempts in a log."""
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  return f'--- attempt {attempt}, {now}: {shlex.join(command)}\n'.encode()


def begin(trial: base.Trial, attempt: int) -> int:
  """Starts a new part of the trial's log; returns where its output begins."""
  trial.workdir.mkdir(parents=True, exist_ok=True)
  with open(trial.log, 'ab') as log:
    log.write(header(attempt, trial.command))
    log.flush()
    return log.tell()


def last_line(log: pathlib.Path, start: int = 0) -> str:
  """The last line with text behind byte `start`, without bar and colours."""
  if not log.is_file():
    return ''
  with open(log, 'rb') as file:
    size = file.seek(0, 2)
    file.seek(max(start, size - _TAIL_BYTES))
    text = file.read().decode(errors='replace')
  # A progress bar redraws its line with carriage returns.
  for line in reversed(re.split(r'[\r\n]+', _ANSI.sub('', text))):
    if line.strip():
      return line.strip()[:_MAX_CHARS]
  return ''


def reason(trial: base.Trial, exit_code: int, log_start: int) -> str:
  """Why an attempt without a complete record ended, in one line."""
  last = last_line(trial.log, log_start)
  if exit_code < 0:
    return f'killed by {_signal(-exit_code)}; last output: {last or "none"}'
  if exit_code == 0:
    return (
      f'exited with 0 but left no complete record of run {trial.run_id} in '
      f'{trial.records}; last output: {last or "none"}'
    )
  return last or f'exited with {exit_code} and no output'


def _signal(number: int) -> str:
  """'SIGKILL'; real-time signals have no name."""
  try:
    return signal.Signals(number).name
  except ValueError:
    return f'signal {number}'
