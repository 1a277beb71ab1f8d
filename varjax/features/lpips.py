"""LPIPS with VGG16 (Zhang et al., arXiv 1801.03924), from the user's files.

The maps are relu1_2 to relu5_3 of VGG16; how much a channel counts was
learned from human judgements. No package brings these weights: a state dict
of the `lpips` package holds both parts, or torchvision's VGG16 and the
linear weights of `lpips` are given as two files.
"""

from __future__ import annotations

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from varjax import errors
from varjax.backbone_costs import VGG16
from varjax.evals import perceptual
from varjax.features import layers
from varjax.features.base import hash_arrays
from varjax.interop import pth
from varjax.types import PyTree

NAME = 'lpips_vgg16'
# Index of each convolution in `features` of torchvision, by map.
_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_WIDTHS = tuple(widths[-1] for widths in VGG16)
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_PUBLISHED = (
  'give a state dict of lpips.LPIPS(net="vgg"), or two files as '
  'VGG,LINEAR: vgg16-397923af.pth of torchvision and '
  'lpips/weights/v0.1/vgg.pth of the package lpips'
)


@dataclasses.dataclass(frozen=True, eq=False)
class Lpips:
  """The metric: `distance(params, images, others)`.

  Attributes:
    params: weights, a pytree of arrays.
    weights_hash: of them.
  """

  params: PyTree
  weights_hash: str

  @property
  def identity(self) -> str:
    """Name and weights; equal means comparable."""
    return f'{NAME}-{self.weights_hash[:12]}'

  def distance(
    self,
    params: PyTree,
    images: Float[Array, 'B H W 3'],
    others: Float[Array, 'B H W 3'],
  ) -> Float[Array, ' B']:
    """LPIPS of each pair of images in [0, 255]; differentiable."""
    both = [maps(params, x) for x in (images, others)]
    return perceptual.distance(*both, params['linear'])


def load(path: str | os.PathLike[str]) -> Lpips:
  """LPIPS with the weights of one file, or of two with a comma between.

  Raises:
    CheckpointError: none was given, or one is missing, damaged, hostile or
      of other shapes.
  """
  text = os.fspath(path)
  if not text:
    raise errors.CheckpointError(
      f'{NAME} is in no package, so its weights must be given; {_PUBLISHED}'
    )
  parts = [text] if os.path.exists(text) else text.split(',')
  state = {}
  for part in parts:
    state |= pth.read_state(part)
  try:
    params = convert(state)
  except errors.CheckpointError as error:
    raise errors.CheckpointError(
      f'{text}: not weights of LPIPS with VGG16 ({error}); {_PUBLISHED}'
    ) from error
  flat = {
    jax.tree_util.keystr(key): value
    for key, value in jax.tree_util.tree_leaves_with_path(params)
  }
  return Lpips(params, hash_arrays(flat))


def convert(state: layers.State, divisor: int = 1) -> PyTree:
  """Weights by layer, from either spelling of their names.

  Args:
    state: names of torchvision ('features.0.weight') or of lpips
      ('net.slice1.0.weight'), and 'lin0.model.1.weight' to 'lin4...'.
    divisor: of all widths, for tests.

  Raises:
    CheckpointError: a tensor is missing, of another shape, or a linear
      weight is negative.
  """
  convolutions, inputs = [], 3
  for number, (indices, width) in enumerate(
    zip(_CONVOLUTIONS, _WIDTHS, strict=True), start=1
  ):
    width //= divisor
    group = []
    for index in indices:
      name = f'features.{index}'
      if f'{name}.weight' not in state:
        name = f'net.slice{number}.{index}'
      kernel = layers.take(state, f'{name}.weight', (width, inputs, 3, 3))
      bias = layers.take(state, f'{name}.bias', (width,))
      group.append(
        {
          'kernel': np.transpose(kernel, (2, 3, 1, 0)).astype(np.float32),
          'bias': bias.astype(np.float32),
        }
      )
      inputs = width
    convolutions.append(group)
  linear = []
  for index, width in enumerate(_WIDTHS):
    name = f'lin{index}.model.1.weight'
    weight = layers.take(state, name, (1, width // divisor, 1, 1)).ravel()
    if (weight < 0).any():
      raise errors.CheckpointError(f'{name}: has a negative weight')
    linear.append(weight.astype(np.float32))
  return {'convolutions': convolutions, 'linear': linear}


def maps(
  params: PyTree, images: Float[Array, 'B H W 3']
) -> tuple[jax.Array, ...]:
  """relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of images in [0, 255]."""
  scaled = images / 127.5 - 1
  x = (scaled - _SHIFT[None, None, None]) / _SCALE[None, None, None]
  found = []
  for number, group in enumerate(params['convolutions']):
    if number:
      x = _pool(x)
    x = functools.reduce(
      lambda x, weights: jax.nn.relu(layers.conv(weights, x)), group, x
    )
    found.append(x)
  return tuple(found)


def _pool(x: jax.Array) -> jax.Array:
  window = (1, 2, 2, 1)
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, window, window, 'VALID'
  )
