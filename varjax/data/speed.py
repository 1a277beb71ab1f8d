"""How fast images are encoded, and how much of the time they were waited for.

Told by `encode.encode_split` as it goes; `encoding` puts it on record.
"""

from __future__ import annotations

import time


class Speed:
  """Images encoded, and the rate without the first batch, which compiles."""

  def __init__(self) -> None:
    self._marks = [(time.monotonic(), 0)]
    self._waited_s = 0.0

  def update(self, done: int) -> None:
    """Told how many images there are now."""
    # The first call tells what an earlier encode had finished; after the
    # second, the program is compiled. Only the latest mark moves on.
    self._marks = [*self._marks[:3], (time.monotonic(), done)]

  def wait(self, seconds: float) -> None:
    """Told for how long a batch kept the device's thread waiting."""
    if len(self._marks) > 2:
      self._waited_s += seconds

  @property
  def has_begun(self) -> bool:
    """Whether it is known what there was before."""
    return len(self._marks) > 1

  @property
  def images(self) -> int:
    """Encoded now; what was there before does not count."""
    return self._marks[-1][1] - self._marks[1][1] if self.has_begun else 0

  @property
  def wall_s(self) -> float:
    """From the start to the last batch."""
    return self._marks[-1][0] - self._marks[0][0]

  @property
  def images_per_s(self) -> float | None:
    """Without the first batch; None where no other came."""
    if not self._steady:
      return None
    seconds, images = (
      after - before
      for before, after in zip(self._marks[2], self._marks[3], strict=True)
    )
    return images / seconds

  @property
  def data_wait(self) -> float | None:
    """Share of that time in which the device's thread waited for images."""
    if not self._steady:
      return None
    return min(self._waited_s / (self._marks[3][0] - self._marks[2][0]), 1.0)

  @property
  def _steady(self) -> bool:
    marks = self._marks
    return len(marks) > 3 and marks[3][1] > marks[2][1]

  def __str__(self) -> str:
    text = f'{self.wall_s:.1f} s'
    if self.images_per_s is None:
      return text
    return (
      f'{text}, {self.images_per_s:,.0f} images/s after the first batch '
      f'({self.data_wait:.0%} of it waiting for images)'
    )
