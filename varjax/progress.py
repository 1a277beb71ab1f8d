"""How far a run is: a bar for a person, progress.json for a program.

Called by the train loop after every step; costs no device work. On a
terminal it is one bar, elsewhere one line every now and then.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, TextIO

FILE = 'progress.json'
_WINDOW_S = 30.0


class Progress:
  """Shows and stores step, loss, images per second and time left."""

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    total_steps: int,
    batch_size: int,
    start_step: int = 0,
    line_every_s: float = 30.0,
    stream: TextIO | None = None,
    enabled: bool = True,
    clock: Callable[[], float] = time.monotonic,
    wall_s: Callable[[], float] | None = None,
  ):
    """Starts the clock.

    Args:
      workdir: of the run.
      total_steps: updates of the run.
      batch_size: images per update.
      start_step: the restored step.
      line_every_s: seconds between lines where there is no terminal.
      stream: stderr by default.
      enabled: False on all processes but the first.
      clock: seconds, for tests.
      wall_s: seconds of the run so far, all of its processes in sequence.
    """
    self._file = pathlib.Path(workdir) / FILE
    self._total, self._batch_size = total_steps, batch_size
    self._step, self._loss = start_step, None
    self._line_every_s = line_every_s
    self._stream = sys.stderr if stream is None else stream
    self._enabled = enabled
    self._clock, self._wall_s = clock, wall_s
    now = clock()
    self._wrote_s, self._printed_s = -math.inf, now
    # (time, step) of the last half minute: the compilation of the first
    # step drops out of the rate soon.
    self._history = collections.deque([(now, start_step)])
    self._bar: Any = None
    if enabled:
      self._file.parent.mkdir(parents=True, exist_ok=True)
      if self._stream.isatty():
        # Imported here: most runs have no terminal.
        import tqdm

        self._bar = tqdm.tqdm(
          total=total_steps,
          initial=start_step,
          unit='step',
          file=self._stream,
          dynamic_ncols=True,
        )

  def update(self, step: int, loss: float | None = None) -> None:
    """Reports `step` updates made.

    Args:
      step: updates made.
      loss: the newest loss that is on the host; None keeps the one before.
    """
    if not self._enabled:
      return
    before, self._step = self._step, step
    self._loss = self._loss if loss is None else float(loss)
    now = self._clock()
    self._history.append((now, step))
    while len(self._history) > 2 and now - self._history[1][0] > _WINDOW_S:
      self._history.popleft()
    if self._bar is not None:
      self._bar.set_postfix_str(self._postfix(), refresh=False)
      self._bar.update(step - before)
    elif now - self._printed_s >= self._line_every_s:
      self._print_line(now)
    if now - self._wrote_s >= 1.0:
      self._write(now)

  def close(self) -> None:
    """Stores and shows the last state."""
    if not self._enabled:
      return
    self._write(self._clock())
    if self._bar is not None:
      self._bar.close()
    else:
      self._print_line(self._clock())

  def _rate(self) -> float | None:
    """Steps per second, None before it is known."""
    (t0, s0), (t1, s1) = self._history[0], self._history[-1]
    return (s1 - s0) / (t1 - t0) if t1 > t0 and s1 > s0 else None

  def _values(self) -> dict[str, Any]:
    rate = self._rate()
    left = max(self._total - self._step, 0)
    loss = self._loss
    return {
      'step': self._step,
      'total_steps': self._total,
      'loss': loss if loss is not None and math.isfinite(loss) else None,
      'images_per_s': rate and round(rate * self._batch_size, 3),
      'eta_s': 0.0 if not left else rate and round(left / rate, 1),
      'wall_s': self._wall_s and round(self._wall_s(), 3),
      'time': time.time(),
    }

  def _write(self, now: float) -> None:
    self._wrote_s = now
    partial = self._file.with_suffix('.partial')
    partial.write_text(json.dumps(self._values()) + '\n')
    os.replace(partial, self._file)

  def _print_line(self, now: float) -> None:
    self._printed_s = now
    values = self._values()
    eta = values['eta_s']
    left = '' if eta is None else f', {_duration(eta)} left'
    text = f'step {self._step}/{self._total}{left}'
    print(', '.join(filter(None, [text, self._postfix()])), file=self._stream)
    self._stream.flush()

  def _postfix(self) -> str:
    rate = self._rate()
    parts = []
    if self._loss is not None:
      parts.append(f'loss {self._loss:.4g}')
    if rate is not None:
      parts.append(f'{rate * self._batch_size:.4g} images/s')
    return ', '.join(parts)


def reached_s(workdir: str | os.PathLike[str]) -> float:
  """Seconds that a run had spent when it was last heard of; 0 unknown."""
  try:
    values = json.loads((pathlib.Path(workdir) / FILE).read_text())
    return float(values.get('wall_s') or 0.0)
  except (OSError, ValueError, AttributeError):
    # Never written, or by hand: then no loss is booked.
    return 0.0


def _duration(seconds: float) -> str:
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  if hours:
    return f'{hours}h{m:02d}m'
  return f'{m}m{s:02d}s' if m else f'{s}s'
