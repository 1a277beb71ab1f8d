"""Zero-shot editing: some positions are given, the rest is generated.

In-painting, out-painting and class-conditional editing (VAR section 5.2;
official demo). At every scale the embedded codes of a given image replace
the generated ones where a mask keeps them. Keeping whole coarse scales is
super-resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import einops
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float
import numpy as np

from varjax import errors
from varjax.tokenizers.resize import bilinear_matrix
from varjax.types import Codes

# Grids up to this many cells are always given: they set the global look.
_ALWAYS_KEPT = 3


@flax.struct.dataclass
class Known:
  """What of an image is given to the sampler."""

  codes: jax.Array  # [B, L, R] int32
  keep: jax.Array  # [L] or [B, L] bool, true where codes are given


def box_mask(
  side: int | tuple[int, int],
  box: tuple[float, float, float, float],
  *,
  keep: str,
) -> np.ndarray:
  """A mask on the finest grid from a box in relative coordinates.

  Args:
    side: P, or (height, width).
    box: (y0, x0, y1, x1) in [0, 1]; edges are rounded half to even.
    keep: 'inside' (out-painting) or 'outside' (in-painting).

  Returns:
    float32 [height, width], 1 where the image is kept.

  Raises:
    ConfigError: a box outside [0, 1] or upside down, or another `keep`.
  """
  if keep not in ('inside', 'outside'):
    raise errors.ConfigError(f'keep={keep!r}: must be one of inside, outside')
  y0, x0, y1, x1 = box
  if not (0 <= y0 <= y1 <= 1 and 0 <= x0 <= x1 <= 1):
    raise errors.ConfigError(
      f'box={box}: must be (y0, x0, y1, x1) with 0 <= start <= end <= 1'
    )
  height, width = (side, side) if isinstance(side, int) else side
  mask = np.zeros((height, width), np.float32)
  rows = slice(round(y0 * height), round(y1 * height))
  mask[rows, round(x0 * width) : round(x1 * width)] = 1
  return mask if keep == 'inside' else 1 - mask


def pixel_mask(
  keep: Bool[np.ndarray, 'H W'], grid: tuple[int, int]
) -> Float[np.ndarray, 'P P']:
  """A mask on the finest grid from one at image resolution.

  A cell is kept only if all of its pixels are: what is to be replaced never
  survives in a cell that it shares with its surroundings.

  Args:
    keep: [H, W], true where the image is kept.
    grid: (height, width) of the finest grid.

  Returns:
    float32 [height, width], 1 where the image is kept.

  Raises:
    ConfigError: the image is not a whole number of cells.
  """
  height, width = grid
  if keep.shape[0] % height or keep.shape[1] % width:
    raise errors.ConfigError(
      f'mask: {keep.shape} pixels do not divide into the finest grid {grid}'
    )
  cells = einops.rearrange(keep, '(h a) (w b) -> h w (a b)', h=height, w=width)
  return cells.all(axis=-1).astype(np.float32)


def keep_mask(mask: np.ndarray, grids: Sequence[tuple[int, int]]) -> np.ndarray:
  """Positions of every scale that a mask keeps.

  Args:
    mask: [P, P] on the finest grid, 1 where the image is kept.
    grids: (height, width) of each scale.

  Returns:
    bool [L]: the bilinear (not antialiased) mask is above 0.5. Grids of at
    most three cells are kept whole.

  Raises:
    ConfigError: the mask is not on the finest grid.
  """
  if mask.shape != tuple(grids[-1]):
    raise errors.ConfigError(
      f'mask: has shape {mask.shape}, must be the finest grid {grids[-1]}'
    )
  kept = []
  for height, width in grids:
    if height * width <= _ALWAYS_KEPT:
      kept.append(np.ones(height * width, bool))
      continue
    rows = bilinear_matrix(mask.shape[0], height)
    columns = bilinear_matrix(mask.shape[1], width)
    scaled = rows @ mask.astype(np.float32) @ columns.T
    kept.append((scaled > 0.5).reshape(-1))
  return np.concatenate(kept)


def known(
  codes: Codes, mask: np.ndarray, grids: Sequence[tuple[int, int]]
) -> Known:
  """Keeps the codes [B, L, R] of images where a mask on the finest grid is 1.

  Raises:
    ConfigError: the mask is not on the finest grid.
  """
  return Known(codes=codes, keep=jnp.asarray(keep_mask(mask, grids)))


def known_scales(
  codes: Codes, count: int, grids: Sequence[tuple[int, int]]
) -> Known:
  """Keeps the codes [B, L, R] of the `count` coarsest scales.

  Raises:
    ConfigError: there are not so many scales.
  """
  if not 0 <= count <= len(grids):
    raise errors.ConfigError(
      f'keep_scales={count}: must be in 0..{len(grids)}, the number of scales'
    )
  given = sum(height * width for height, width in grids[:count])
  return Known(codes=codes, keep=jnp.arange(codes.shape[1]) < given)


def merge(codes: Codes, given: Known) -> Codes:
  """Generated codes with the given ones put in."""
  keep = jnp.broadcast_to(given.keep, codes.shape[:2])
  return jnp.where(keep[..., None], given.codes, codes)
