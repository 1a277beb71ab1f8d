"""Which back end of attention a model takes, and what it spares.

The rule of `models.attention`, for counts of bytes and FLOPs that are made
without JAX.
"""

from __future__ import annotations

from varjax.params import Sequence
from varjax.spec import ModelSpec

# Channels of a head that the flash kernels have tiles for.
FLASH_HEADS = (16, 32, 64, 128)
# Do not compute what static blocks forbid.
SKIPPING = ('blockwise', 'flash', 'splash')
_GPU = ('gpu', 'cuda')  # NVIDIA's, by JAX's two names.


def on_gpu(platform: str) -> bool:
  """Whether a platform is that of NVIDIA's GPUs."""
  return platform in _GPU


def automatic(platform: str, dtype: str, static: bool) -> str:
  """What `model.attention=auto` takes.

  Args:
    platform: as JAX names it.
    dtype: compute type.
    static: whether there are static blocks, and heads that the flash back
      end has tiles for.
  """
  if platform == 'tpu':
    return 'splash'
  if on_gpu(platform) and dtype != 'float32':
    # Without a rule there is nothing to skip, and with one that varies by
    # example nothing that could be skipped.
    return 'flash' if static else 'cudnn'
  return 'xla' if platform == 'cpu' else 'blockwise'


def of_model(
  model: ModelSpec,
  sequence: Sequence,
  platform: str | None,
  divides: bool = True,
) -> str:
  """The back end of the blocks of a model in training.

  Args:
    model: the network.
    sequence: of its order.
    platform: as JAX names it; None where it is not known: 'auto' is then
      the reference, which spares nothing.
    divides: whether images and heads divide over the devices.

  Returns:
    A key of `models.attention.BACKENDS`.
  """
  fits = divides and model.width // model.heads in FLASH_HEADS
  static = fits and len(sequence.block_sizes) > 1
  if model.attention == 'auto':
    if platform is None:
      return 'xla'
    return automatic(platform, model.compute_dtype, static)
  if model.attention == 'flash' and not static:
    return automatic(platform or 'cpu', model.compute_dtype, False)
  return model.attention


def normalises(backend: str, model: ModelSpec) -> bool:
  """Whether queries and keys reach the kernel as they were projected.

  Nothing must come between their normalisation and the kernel, which keeps
  the inverse length of each row instead.
  """
  learned = model.position == 'learned'
  return backend == 'flash' and model.l2_norm and learned
