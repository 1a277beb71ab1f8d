"""Known pixels put back over an edited image, with a soft edge.

After generation and decoding. The decoder changes every pixel a little, also
where all codes were kept; the official demo shows its output as it is. Here
the given image returns, and fades into the generated part over a few pixels.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
import numpy as np
from scipy import ndimage

from varjax import errors


def feather(
  generate: Bool[np.ndarray, 'H W'], pixels: int
) -> Float[np.ndarray, 'H W']:
  """Weight of the generated image.

  Args:
    generate: true where the image is to be replaced.
    pixels: width of the transition, outside of that region; 0 is a hard
      edge.

  Returns:
    float32 [H, W]: 1 inside the region, 1 - d / (pixels + 1) at a distance
    of d pixels from it, 0 from there on.

  Raises:
    ConfigError: `pixels` is negative.
  """
  if pixels < 0:
    raise errors.ConfigError(f'blend={pixels}: must be at least 0 pixels')
  if not generate.any():
    return np.zeros(generate.shape, np.float32)
  distance = ndimage.distance_transform_edt(~generate)
  weight = np.clip(1 - distance / (pixels + 1), 0, 1)
  return weight.astype(np.float32)


def composite(
  generated: Float[np.ndarray, 'H W 3'],
  original: Float[np.ndarray, 'H W 3'],
  generate: Bool[np.ndarray, 'H W'],
  pixels: int,
) -> Float[np.ndarray, 'H W 3']:
  """The generated region on the original image; values as given."""
  weight = feather(generate, pixels)[..., None]
  return weight * generated + (1 - weight) * original
