"""How hard an engine tries: the options that all engines share."""

from __future__ import annotations

import dataclasses

from varjax import errors

# However often a trial crashed, it is tried again within this time.
MAX_BACKOFF_S = 600.0


@dataclasses.dataclass(frozen=True)
class Policy:
  """Concurrency, retries, and what counts as a straggler.

  Attributes:
    parallel: trials at a time; 0 lets the engine decide.
    retries: further attempts after a crash.
    backoff_s: wait before the first retry; doubles with every further one,
      up to `MAX_BACKOFF_S`.
    silent_s: a running trial that has not moved for so long is a straggler;
      0 never.
    straggler_factor: so many times slower per image than the peers let one
      expect is a straggler; 0 never.
    restart_stragglers: stop stragglers and start them again, which counts
      as a retry.
    grace_s: time to save after a stop, before a straggler is killed.
  """

  parallel: int = 0
  retries: int = 2
  backoff_s: float = 5.0
  silent_s: float = 1800.0
  straggler_factor: float = 4.0
  restart_stragglers: bool = False
  grace_s: float = 60.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 0:
        raise errors.ConfigError(
          f'--{field.name}={getattr(self, field.name)}: must be 0 or more'
        )
    if 0 < self.straggler_factor <= 1:
      raise errors.ConfigError(
        f'--straggler_factor={self.straggler_factor}: must be above 1, or 0 '
        'to compare no speeds'
      )

  def wait_s(self, attempt: int) -> float:
    """Back-off after attempt number `attempt`, from 1."""
    # The exponent is capped as well: 2.0 ** 1100 is no float.
    doubled = self.backoff_s * 2.0 ** min(attempt - 1, 32)
    return min(doubled, max(MAX_BACKOFF_S, self.backoff_s))
