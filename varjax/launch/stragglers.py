"""Trials that have gone silent, or are far slower than they should be.

Judged from what the launcher sees happen on its own monotonic clock: times
that a trial writes come from another machine, whose clock may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import statistics
from typing import Any

from varjax.launch import base, manifest, policy

# For so long after the first sign of life a speed is that of a compiler: runs
# tell their mean speed of the last half minute.
_WARM_S = 60.0
_MIN_PEERS = 2


@dataclasses.dataclass
class _Seen:
  """What is known of one running attempt."""

  trial: base.Trial
  moved_s: float
  first_moved_s: float | None = None
  content: Any = None
  seconds_per_image: float | None = None


class Watch:
  """Looks at the progress of running trials and names the stragglers."""

  def __init__(self, given: policy.Policy):
    self._policy = given
    self._seen: dict[str, _Seen] = {}
    # Of every trial that ever ran long enough, the ended ones included.
    self._speeds: dict[str, tuple[float, float | None]] = {}

  def begin(self, trial: base.Trial, now: float) -> None:
    """An attempt of `trial` runs from `now` on (monotonic seconds)."""
    content = manifest.read_json(trial.progress)
    self._seen[trial.run_id] = _Seen(trial, now, content=content)

  def end(self, trial: base.Trial) -> None:
    """It no longer does."""
    self._seen.pop(trial.run_id, None)

  def find(self, now: float) -> dict[str, str]:
    """Why each straggler is one, by run id."""
    for seen in self._seen.values():
      self._look(seen, now)
    found = {}
    for run_id, seen in self._seen.items():
      why = self._silence(seen, now) or self._slowness(seen)
      if why:
        found[run_id] = why
    return found

  def _look(self, seen: _Seen, now: float) -> None:
    content = manifest.read_json(seen.trial.progress)
    if not isinstance(content, Mapping) or content == seen.content:
      return
    seen.content, seen.moved_s = content, now
    if seen.first_moved_s is None:
      seen.first_moved_s = now
    rate = content.get('images_per_s')
    warm = now - seen.first_moved_s >= _WARM_S
    if warm and isinstance(rate, int | float) and rate > 0:
      seen.seconds_per_image = 1 / rate
      self._speeds[seen.trial.run_id] = (1 / rate, seen.trial.flops_per_image)

  def _silence(self, seen: _Seen, now: float) -> str:
    silent = now - seen.moved_s
    if not self._policy.silent_s or silent < self._policy.silent_s:
      return ''
    return f'has made no progress for {silent:.0f} s'

  def _slowness(self, seen: _Seen) -> str:
    own = seen.seconds_per_image
    if own is None or not self._policy.straggler_factor:
      return ''
    expected = expected_seconds(
      seen.trial.flops_per_image,
      [v for k, v in self._speeds.items() if k != seen.trial.run_id],
    )
    if expected is None or own < self._policy.straggler_factor * expected:
      return ''
    return (
      f'takes {own:.3g} s per image, {own / expected:.1f} times what its '
      'peers let expect'
    )


def expected_seconds(
  work: float | None, peers: list[tuple[float, float | None]]
) -> float | None:
  """The most seconds per image that a trial should need.

  A larger peer is slower per image than this trial, and a smaller one gets
  fewer FLOP/s out of a device than this trial: so each peer gives an upper
  bound, `seconds * max(1, work / work of the peer)`. The median of them
  stands one peer on a faster device.

  Args:
    work: FLOPs per image of the trial; None where it is not known.
    peers: (seconds per image, FLOPs per image) of other trials.

  Returns:
    Seconds per image, or None with fewer than two comparable peers.
  """
  if not work:
    return None
  bounds = [
    seconds * max(1.0, work / peer_work)
    for seconds, peer_work in peers
    if peer_work
  ]
  return statistics.median(bounds) if len(bounds) >= _MIN_PEERS else None
