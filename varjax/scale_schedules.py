"""Grids of a multi-scale tokenizer: how many scales, and which.

VAR (arXiv 2404.02905, section 3.1) leaves the schedule open and publishes
one of ten scales for each of two grids. Here is one for any number of them,
for the question what more or fewer sequential steps do. No JAX in here.
"""

from __future__ import annotations

from varjax import errors

Scale = int | tuple[int, int]

# Of the released models, by the side of the finest grid.
PUBLISHED = {
  16: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
  32: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
}


def scale_schedule(side: int, count: int) -> tuple[Scale, ...]:
  """`count` scales that end with a grid of side x side.

  Each scale grows by the ratio that would reach the finest in the steps that
  are left, rounded, and by at least one cell: linear at first, then geometric.
  For 16 and 10 this gives VAR's own schedule; for 32 and 10, where it does
  not, VAR's is returned. More scales than there are sides get rectangles
  between the squares, (n, n + 1).

  Args:
    side: of the finest grid.
    count: of the scales, 2 <= count <= 2 side - 1; 1 is the finest alone.

  Returns:
    Values of `tokenizer.scales`, coarse to fine.

  Raises:
    ConfigError: there are no so many different grids.
  """
  most = 2 * side - 1
  if side < 1 or not 1 <= count <= most:
    raise errors.ConfigError(
      f'scales={count}: a grid of side {side} has between 1 and {most} of them'
    )
  published = PUBLISHED.get(side, ())
  if len(published) == count:
    return published
  if count == 1:
    return (side,)
  if count <= side:
    return tuple(_growing(1, side, count))
  # Heights and widths together: a step of one makes only the width longer.
  return tuple(
    both // 2 if both % 2 == 0 else (both // 2, both // 2 + 1)
    for both in _growing(2, 2 * side, count)
  )


def _growing(first: int, last: int, count: int) -> list[int]:
  """Whole numbers in rising order, nearly geometric where that is possible."""
  sizes = [first]
  for left in range(count - 1, 0, -1):
    size = sizes[-1]
    sizes.append(max(size + 1, round(size * (last / size) ** (1 / left))))
  return sizes
