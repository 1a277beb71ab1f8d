"""Inception-v3 of 2015: the feature network of FID, from the user's file.

The graph that TensorFlow published on 2015-12-05 (arXiv 1512.00567), which
every FID since Heusel et al. (arXiv 1706.08500) is made with. It is not the
Inception of torchvision: average pools leave padding out of the mean, the
last block pools by maximum, and there are 1008 classes. Images are resized
inside it, bilinearly and without half-pixel centres, as TensorFlow 1 does.

Read from either public form: `classify_image_graph_def.pb`, or the weights
that pytorch-fid made of it. The module names are those of the latter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import os

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from varjax import errors
from varjax.features import frozen_graph, layers
from varjax.features.base import Features, Network
from varjax.interop import pth
from varjax.types import PyTree

NAME = 'inception2015'
RESOLUTION = 299
PREPROCESSING = (
  'bilinear to 299x299 without half-pixel centres or antialiasing, as '
  'TensorFlow 1; (x - 128) / 128'
)
CLASSES = 1008
_EPS = 1e-3
_PUBLISHED = (
  'the file is published as classify_image_graph_def.pb in the archive '
  'inception-2015-12-05.tgz of TensorFlow, and as '
  'pt_inception-2015-12-05-6726825d.pth in the releases of pytorch-fid; '
  'give it with --feature_weights'
)
# sFID of guided-diffusion: channels of mixed_6/conv, 7 x 17 x 17 numbers.
_SPATIAL_CHANNELS = 7

# Channels in and out, height and width of the kernel.
Shape = tuple[int, int, int, int]


def _stem() -> Iterator[tuple[str, str, Shape]]:
  yield 'Conv2d_1a_3x3', 'conv', (3, 32, 3, 3)
  yield 'Conv2d_2a_3x3', 'conv_1', (32, 32, 3, 3)
  yield 'Conv2d_2b_3x3', 'conv_2', (32, 64, 3, 3)
  yield 'Conv2d_3b_1x1', 'conv_3', (64, 80, 1, 1)
  yield 'Conv2d_4a_3x3', 'conv_4', (80, 192, 3, 3)


def _block(
  kind: str, inputs: int, width: int
) -> Iterator[tuple[str, str, Shape]]:
  """Branch, its name in TensorFlow, and its shape, of one kind of block."""
  if kind == 'A':
    yield 'branch1x1', 'conv', (inputs, 64, 1, 1)
    yield 'branch5x5_1', 'tower/conv', (inputs, 48, 1, 1)
    yield 'branch5x5_2', 'tower/conv_1', (48, 64, 5, 5)
    yield 'branch3x3dbl_1', 'tower_1/conv', (inputs, 64, 1, 1)
    yield 'branch3x3dbl_2', 'tower_1/conv_1', (64, 96, 3, 3)
    yield 'branch3x3dbl_3', 'tower_1/conv_2', (96, 96, 3, 3)
    yield 'branch_pool', 'tower_2/conv', (inputs, width, 1, 1)
  elif kind == 'B':
    yield 'branch3x3', 'conv', (inputs, 384, 3, 3)
    yield 'branch3x3dbl_1', 'tower/conv', (inputs, 64, 1, 1)
    yield 'branch3x3dbl_2', 'tower/conv_1', (64, 96, 3, 3)
    yield 'branch3x3dbl_3', 'tower/conv_2', (96, 96, 3, 3)
  elif kind == 'C':
    yield 'branch1x1', 'conv', (inputs, 192, 1, 1)
    yield 'branch7x7_1', 'tower/conv', (inputs, width, 1, 1)
    yield 'branch7x7_2', 'tower/conv_1', (width, width, 1, 7)
    yield 'branch7x7_3', 'tower/conv_2', (width, 192, 7, 1)
    yield 'branch7x7dbl_1', 'tower_1/conv', (inputs, width, 1, 1)
    yield 'branch7x7dbl_2', 'tower_1/conv_1', (width, width, 7, 1)
    yield 'branch7x7dbl_3', 'tower_1/conv_2', (width, width, 1, 7)
    yield 'branch7x7dbl_4', 'tower_1/conv_3', (width, width, 7, 1)
    yield 'branch7x7dbl_5', 'tower_1/conv_4', (width, 192, 1, 7)
    yield 'branch_pool', 'tower_2/conv', (inputs, 192, 1, 1)
  elif kind == 'D':
    yield 'branch3x3_1', 'tower/conv', (inputs, 192, 1, 1)
    yield 'branch3x3_2', 'tower/conv_1', (192, 320, 3, 3)
    yield 'branch7x7x3_1', 'tower_1/conv', (inputs, 192, 1, 1)
    yield 'branch7x7x3_2', 'tower_1/conv_1', (192, 192, 1, 7)
    yield 'branch7x7x3_3', 'tower_1/conv_2', (192, 192, 7, 1)
    yield 'branch7x7x3_4', 'tower_1/conv_3', (192, 192, 3, 3)
  else:
    yield 'branch1x1', 'conv', (inputs, 320, 1, 1)
    yield 'branch3x3_1', 'tower/conv', (inputs, 384, 1, 1)
    yield 'branch3x3_2a', 'tower/mixed/conv', (384, 384, 1, 3)
    yield 'branch3x3_2b', 'tower/mixed/conv_1', (384, 384, 3, 1)
    yield 'branch3x3dbl_1', 'tower_1/conv', (inputs, 448, 1, 1)
    yield 'branch3x3dbl_2', 'tower_1/conv_1', (448, 384, 3, 3)
    yield 'branch3x3dbl_3a', 'tower_1/mixed/conv', (384, 384, 1, 3)
    yield 'branch3x3dbl_3b', 'tower_1/mixed/conv_1', (384, 384, 3, 1)
    yield 'branch_pool', 'tower_2/conv', (inputs, 192, 1, 1)


# Name, kind, channels in, and the width that distinguishes it.
BLOCKS = (
  ('Mixed_5b', 'A', 192, 32), ('Mixed_5c', 'A', 256, 64),
  ('Mixed_5d', 'A', 288, 64), ('Mixed_6a', 'B', 288, 0),
  ('Mixed_6b', 'C', 768, 128), ('Mixed_6c', 'C', 768, 160),
  ('Mixed_6d', 'C', 768, 160), ('Mixed_6e', 'C', 768, 192),
  ('Mixed_7a', 'D', 768, 0), ('Mixed_7b', 'E', 1280, 0),
  ('Mixed_7c', 'E', 2048, 0),
)  # fmt: skip


def convolutions() -> Iterator[tuple[str, str, Shape]]:
  """Name, name in TensorFlow and shape of every convolution."""
  yield from _stem()
  for index, (name, kind, inputs, width) in enumerate(BLOCKS):
    scope = f'mixed_{index}' if index else 'mixed'
    for branch, theirs, shape in _block(kind, inputs, width):
      yield f'{name}.{branch}', f'{scope}/{theirs}', shape


def load(path: str | os.PathLike[str] = '') -> Network:
  """The network with the weights of a file, in either public form.

  Raises:
    CheckpointError: no file was given, or it is damaged, hostile, or of
      other shapes.
  """
  if not os.fspath(path):
    raise errors.CheckpointError(
      f'{NAME} is in no package, so its weights must be given; {_PUBLISHED}'
    )
  try:
    if os.fspath(path).endswith('.pb'):
      params = convert(from_graph(frozen_graph.read(path)))
    else:
      params = convert(pth.read_state(path))
  except errors.CheckpointError as error:
    text = str(error)
    if text.startswith(os.fspath(path)):
      raise
    raise errors.CheckpointError(
      f'{path}: not weights of the Inception of 2015 ({text}); {_PUBLISHED}'
    ) from error
  return Network(
    name=NAME,
    resolution=RESOLUTION,
    preprocessing=PREPROCESSING,
    params=params,
    forward=forward,
    resize=resize,
  )


def from_graph(
  nodes: dict[str, frozen_graph.Node], divisor: int = 1
) -> dict[str, np.ndarray]:
  """The state dict that the constants of the frozen graph are.

  Args:
    nodes: of the graph.
    divisor: of all widths but the image's, for tests.

  Raises:
    CheckpointError: a constant is missing.
  """
  state: dict[str, np.ndarray] = {}
  for name, theirs, shape in convolutions():
    width = shape[1] // divisor
    kernel = _constant(nodes, f'{theirs}/conv2d_params')
    state[f'{name}.conv.weight'] = np.transpose(kernel, (3, 2, 0, 1))
    norm = f'{theirs}/batchnorm'
    state[f'{name}.bn.bias'] = _constant(nodes, f'{norm}/beta')
    state[f'{name}.bn.running_mean'] = _constant(nodes, f'{norm}/moving_mean')
    state[f'{name}.bn.running_var'] = _constant(
      nodes, f'{norm}/moving_variance'
    )
    scaled = nodes[norm].attributes if norm in nodes else {}
    # The operation has an input gamma and may be told to ignore it.
    if scaled.get('scale_after_normalization', 0.0):
      state[f'{name}.bn.weight'] = _constant(nodes, f'{norm}/gamma')
    else:
      state[f'{name}.bn.weight'] = np.ones(width, np.float32)
    eps = scaled.get('variance_epsilon', _EPS)
    if abs(eps - _EPS) > 1e-9:
      raise errors.CheckpointError(f'{norm}: epsilon is {eps}, not {_EPS}')
  state['fc.weight'] = _constant(nodes, 'softmax/weights').T
  state['fc.bias'] = _constant(nodes, 'softmax/biases')
  return state


def convert(state: layers.State, divisor: int = 1) -> dict[str, layers.Weights]:
  """Folds every batch normalisation of a state dict.

  Args:
    state: under the names of pytorch-fid.
    divisor: of all widths but the image's, for tests.

  Raises:
    CheckpointError: names the tensor that is missing or of another shape.
  """
  params = {}
  for name, _, (inputs, outputs, height, width) in convolutions():
    outputs //= divisor
    inputs = inputs if inputs == 3 else inputs // divisor
    params[name] = layers.fold(
      layers.take(
        state, f'{name}.conv.weight', (outputs, inputs, height, width)
      ),
      *(
        layers.take(state, f'{name}.bn.{part}', (outputs,))
        for part in ('weight', 'bias', 'running_mean', 'running_var')
      ),
      eps=_EPS,
    )
  kernel = layers.take(state, 'fc.weight', (CLASSES, 2048 // divisor))
  params['fc'] = {
    'kernel': kernel.T.astype(np.float32),
    'bias': layers.take(state, 'fc.bias', (CLASSES,)).astype(np.float32),
  }
  return params


def forward(params: PyTree, images: Float[Array, 'B H W 3']) -> Features:
  """Features of images in [0, 255], at the resolution that they have.

  The logits are without the biases of the classifier, as the Inception
  score of guided-diffusion and of the original code takes them. Maps are
  what enters the first block, each reduction, and the mean at the end: 192,
  288, 768 and 2048 channels.
  """
  x = (images - 128) / 128
  x = _conv(params['Conv2d_1a_3x3'], x, 2, 'VALID')
  x = _conv(params['Conv2d_2a_3x3'], x, 1, 'VALID')
  x = _conv(params['Conv2d_2b_3x3'], x)
  x = _max_pool(x)
  x = _conv(params['Conv2d_3b_1x1'], x)
  x = _conv(params['Conv2d_4a_3x3'], x, 1, 'VALID')
  x = _max_pool(x)
  maps, spatial = [x], x
  for name, kind, _, _ in BLOCKS:
    if kind in 'BD':
      maps.append(x)
    weights = {
      key.removeprefix(f'{name}.'): value
      for key, value in params.items()
      if key.startswith(f'{name}.')
    }
    if name == 'Mixed_6d':
      spatial = _conv(weights['branch1x1'], x)[..., :_SPATIAL_CHANNELS]
    x = block(kind, weights, x, last=name == 'Mixed_7c')
  maps.append(x)
  pooled = jnp.mean(x, (1, 2))
  return Features(
    pooled=pooled,
    spatial=spatial.reshape(spatial.shape[0], -1),
    logits=pooled @ params['fc']['kernel'],
    maps=tuple(maps),
  )


def block(
  kind: str,
  weights: dict[str, layers.Weights],
  x: Float[Array, 'B H W C'],
  last: bool = False,
) -> jax.Array:
  """One block; `last` pools by maximum, the one quirk of the final block."""

  def run(names: Sequence[str], start: jax.Array = x) -> jax.Array:
    for name in names:
      start = _conv(weights[name], start)
    return start

  def end(name: str, start: jax.Array) -> jax.Array:
    return _conv(weights[name], start, 2, 'VALID')

  def chain(stem: str, count: int) -> list[str]:
    return [f'{stem}_{number}' for number in range(1, count + 1)]

  if kind == 'A':
    parts = [
      run(['branch1x1']),
      run(chain('branch5x5', 2)),
      run(chain('branch3x3dbl', 3)),
      run(['branch_pool'], _mean_pool(x)),
    ]
  elif kind == 'B':
    double = run(chain('branch3x3dbl', 2))
    parts = [
      end('branch3x3', x), end('branch3x3dbl_3', double), _max_pool(x),
    ]  # fmt: skip
  elif kind == 'C':
    parts = [
      run(['branch1x1']),
      run(chain('branch7x7', 3)),
      run(chain('branch7x7dbl', 5)),
      run(['branch_pool'], _mean_pool(x)),
    ]
  elif kind == 'D':
    parts = [
      end('branch3x3_2', run(['branch3x3_1'])),
      end('branch7x7x3_4', run(chain('branch7x7x3', 3))),
      _max_pool(x),
    ]
  else:
    single = run(['branch3x3_1'])
    double = run(chain('branch3x3dbl', 2))
    pooled = _max_pool(x, 1, 'SAME') if last else _mean_pool(x)
    parts = [
      run(['branch1x1']),
      run(['branch3x3_2a'], single),
      run(['branch3x3_2b'], single),
      run(['branch3x3dbl_3a'], double),
      run(['branch3x3dbl_3b'], double),
      run(['branch_pool'], pooled),
    ]
  return jnp.concatenate(parts, -1)


def resize(images: Float[Array, 'B H W 3']) -> Float[Array, 'B 299 299 3']:
  """ResizeBilinear of TensorFlow 1: pixel i looks at i * size / 299."""
  rows, columns = (_bilinear(side) for side in images.shape[1:3])
  return jnp.einsum(
    'ih,bhwc,jw->bijc',
    rows,
    images,
    columns,
    precision=jax.lax.Precision.HIGHEST,
  )


def _bilinear(side: int) -> np.ndarray:
  """The matrix [299, side] of one axis."""
  where = np.arange(RESOLUTION, dtype=np.float32) * np.float32(
    side / RESOLUTION
  )
  low = np.minimum(np.floor(where).astype(int), side - 1)
  high = np.minimum(low + 1, side - 1)
  share = where - low
  matrix = np.zeros((RESOLUTION, side), np.float32)
  np.add.at(matrix, (np.arange(RESOLUTION), low), 1 - share)
  np.add.at(matrix, (np.arange(RESOLUTION), high), share)
  return matrix


def _conv(
  weights: layers.Weights,
  x: jax.Array,
  stride: int = 1,
  padding: str = 'SAME',
) -> jax.Array:
  return jax.nn.relu(layers.conv(weights, x, stride, padding))


def _max_pool(x: jax.Array, stride: int = 2, padding: str = 'VALID'):
  window = (1, 3, 3, 1)
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, window, (1, stride, stride, 1), padding
  )


def _mean_pool(x: jax.Array) -> jax.Array:
  """Mean over 3x3 pixels, of those that there are at the border."""
  window, stride = (1, 3, 3, 1), (1, 1, 1, 1)

  def total(values):
    return jax.lax.reduce_window(
      values, 0.0, jax.lax.add, window, stride, 'SAME'
    )

  return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _constant(nodes: dict[str, frozen_graph.Node], name: str) -> np.ndarray:
  node = nodes.get(name)
  if node is None or node.value is None:
    raise errors.CheckpointError(f'{name}: no such constant in the graph')
  return node.value
