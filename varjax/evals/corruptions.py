"""Known damage to images, by which a score is judged.

A score of image quality must rise with each of these: blur takes detail
away, noise adds it where there is none, and swapped patches keep every
local texture but break what is where (as in Heusel et al., arXiv
1706.08500, section A1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

# (uint8 [H, W, 3], level, generator) -> uint8 [H, W, 3]
Damage = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def blur(
  image: np.ndarray, radius: float, rng: np.random.Generator
) -> np.ndarray:
  """A Gaussian of deviation `radius` pixels."""
  del rng
  return np.asarray(
    Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
  )


def noise(
  image: np.ndarray, deviation: float, rng: np.random.Generator
) -> np.ndarray:
  """Independent Gaussian noise, in units of 8-bit pixels, clipped."""
  noisy = image + rng.normal(0, deviation, image.shape)
  return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def swap(
  image: np.ndarray, pairs: float, rng: np.random.Generator
) -> np.ndarray:
  """Exchanges pairs of patches of a quarter of the side, no patch twice.

  Raises:
    ValueError: more pairs than the 8 that there are.
  """
  if not 0 <= pairs <= 8:
    raise ValueError(f'{pairs} pairs of 16 patches: at most 8')
  image = image.copy()
  height, width = image.shape[0] // 4, image.shape[1] // 4
  chosen = rng.permutation(16)[: 2 * int(pairs)].reshape(-1, 2)
  for first, second in chosen:
    (a, b), (c, d) = divmod(first, 4), divmod(second, 4)
    one = np.s_[a * height : (a + 1) * height, b * width : (b + 1) * width]
    two = np.s_[c * height : (c + 1) * height, d * width : (d + 1) * width]
    image[one], image[two] = image[two].copy(), image[one].copy()
  return image


CORRUPTIONS: dict[str, Damage] = {'blur': blur, 'noise': noise, 'swap': swap}


def corrupt(
  images: np.ndarray, kind: str, level: float, seed: int = 0
) -> np.ndarray:
  """Damages every image by itself; image i depends on `seed` and i alone.

  Args:
    images: uint8 [n, H, W, 3].
    kind: key of `CORRUPTIONS`.
    level: radius, deviation or number of pairs; 0 changes nothing.
    seed: of the damage.
  """
  damage = CORRUPTIONS[kind]
  return np.stack(
    [
      damage(image, level, np.random.default_rng((seed, index)))
      for index, image in enumerate(images)
    ]
  )
