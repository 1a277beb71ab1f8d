"""The Inception of FID and LPIPS on random weights, against PyTorch."""

import contextlib
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors, features
from varjax.features import frozen_graph, inception, layers, lpips

SMALL = 16  # divides every width


@pytest.fixture(scope='module')
def state():
  """A sixteenth of the width, in the names of pytorch-fid."""
  rng, values = np.random.default_rng(0), {}
  for name, _, (inputs, outputs, height, width) in inception.convolutions():
    outputs //= SMALL
    inputs = inputs if inputs == 3 else inputs // SMALL
    spread = np.sqrt(2 / (inputs * height * width))
    values[f'{name}.conv.weight'] = (
      rng.normal(size=(outputs, inputs, height, width)) * spread
    )
    values[f'{name}.bn.weight'] = rng.uniform(0.8, 1.2, outputs)
    values[f'{name}.bn.bias'] = rng.normal(0, 0.1, outputs)
    values[f'{name}.bn.running_mean'] = rng.normal(0, 0.1, outputs)
    values[f'{name}.bn.running_var'] = rng.uniform(0.5, 1.5, outputs)
  values['fc.weight'] = rng.normal(0, 0.1, (1008, 2048 // SMALL))
  values['fc.bias'] = rng.normal(size=1008)
  return {name: value.astype(np.float32) for name, value in values.items()}


def test_the_network_gives_what_pytorch_gives(state):
  """Numbers of torch 2.13 running these weights layer by layer."""
  images = np.random.default_rng(1).integers(0, 256, (2, 107, 91, 3))
  params = inception.convert(state, SMALL)
  found = jax.jit(inception.forward)(params, images.astype(np.float32))
  np.testing.assert_allclose(
    found.pooled[0, :3], [1.5031104, 0.0, 0.2411477], atol=1e-5
  )
  np.testing.assert_allclose(found.pooled[0].sum(), 39.637859, rtol=1e-5)
  np.testing.assert_allclose(
    found.pooled[1, -3:], [0.0, 0.0, 0.6180187], atol=1e-5
  )
  np.testing.assert_allclose(
    found.logits[0, :3], [-1.1131563, 0.0675274, -0.4238601], atol=1e-5
  )
  np.testing.assert_allclose(found.spatial.sum(), 62.442463, rtol=1e-5)


def test_shapes_at_full_size():
  shape = jax.ShapeDtypeStruct
  params = {
    name: {
      'kernel': shape((height, width, inputs, outputs), jnp.float32),
      'bias': shape((outputs,), jnp.float32),
    }
    for name, _, (inputs, outputs, height, width) in inception.convolutions()
  }
  params['fc'] = {
    'kernel': shape((2048, 1008), jnp.float32),
    'bias': shape((1008,), jnp.float32),
  }
  found = jax.eval_shape(
    lambda p, x: inception.forward(p, inception.resize(x)),
    params,
    shape((2, 64, 48, 3), jnp.float32),
  )
  assert found.pooled.shape == (2, 2048)
  assert found.logits.shape == (2, 1008)
  assert found.spatial.shape == (2, 7 * 17 * 17)
  assert [m.shape[1:] for m in found.maps] == [
    (35, 35, 192), (35, 35, 288), (17, 17, 768), (8, 8, 2048),
  ]  # fmt: skip


def test_resize_is_that_of_tensorflow_1():
  """By the definition, one pixel at a time."""
  image = np.random.default_rng(0).uniform(0, 255, (1, 40, 350, 3))
  found = inception.resize(image.astype(np.float32))
  for i, j in ((0, 0), (1, 7), (150, 201), (297, 298), (298, 298)):
    y, x = i * 40 / 299, j * 350 / 299
    top, left = int(y), int(x)
    bottom, right = min(top + 1, 39), min(left + 1, 349)
    a, b = y - top, x - left
    wanted = (
      image[0, top, left] * (1 - a) * (1 - b)
      + image[0, top, right] * (1 - a) * b
      + image[0, bottom, left] * a * (1 - b)
      + image[0, bottom, right] * a * b
    )
    np.testing.assert_allclose(found[0, i, j], wanted, rtol=1e-4)


def test_pools_of_the_blocks_leave_padding_out():
  x = np.random.default_rng(0).normal(-5, 1, (1, 3, 4, 2)).astype(np.float32)
  mean = inception._mean_pool(x)
  np.testing.assert_allclose(mean[0, 0, 0], x[0, :2, :2].mean((0, 1)), 1e-5)
  np.testing.assert_allclose(mean[0, 1, 1], x[0, :3, :3].mean((0, 1)), 1e-5)
  highest = inception._max_pool(x, 1, 'SAME')
  np.testing.assert_allclose(highest[0, 0, 0], x[0, :2, :2].max((0, 1)))


# --- the frozen graph ---------------------------------------------------------


def field(number, content):
  """One field of a protocol buffer message."""
  if isinstance(content, int):
    return varint(number << 3) + varint(content)
  if isinstance(content, float):
    return varint(number << 3 | 5) + struct.pack('<f', content)
  return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
  data = b''
  while value > 127:
    data += bytes([value & 127 | 128])
    value >>= 7
  return data + bytes([value])


def constant(name, value, as_floats=False):
  value = np.asarray(value, '<f4')
  dims = b''.join(field(2, field(1, size)) for size in value.shape)
  numbers = field(5 if as_floats else 4, value.tobytes())
  tensor = field(1, 1) + field(2, dims) + numbers
  attributes = [(b'dtype', field(6, 1)), (b'value', field(8, tensor))]
  return node(name, b'Const', attributes)


def node(name, operation, attributes=()):
  content = field(1, name.encode()) + field(2, operation)
  content += field(3, b'some/input') + field(4, b'/cpu:0')
  for key, value in attributes:
    content += field(5, field(1, key) + field(2, value))
  return field(1, content)


def graph(state, scaled):
  """The same weights as TensorFlow would have frozen them."""
  data = field(4, field(1, 21))  # the versions, which are not read
  for name, theirs, _ in inception.convolutions():
    kernel = np.transpose(state[f'{name}.conv.weight'], (2, 3, 1, 0))
    data += constant(f'{theirs}/conv2d_params', kernel)
    norm = f'{theirs}/batchnorm'
    for part, key in (
      ('beta', 'bias'), ('gamma', 'weight'), ('moving_mean', 'running_mean'),
      ('moving_variance', 'running_var'),
    ):  # fmt: skip
      values = state[f'{name}.bn.{key}']
      data += constant(f'{norm}/{part}', values, as_floats=part == 'beta')
    data += node(
      norm,
      b'BatchNormWithGlobalNormalization',
      [
        (b'scale_after_normalization', field(5, int(scaled))),
        (b'variance_epsilon', field(4, 0.001)),
      ],
    )
  data += constant('softmax/weights', state['fc.weight'].T)
  return data + constant('softmax/biases', state['fc.bias'])


@pytest.mark.parametrize('scaled', [True, False])
def test_the_frozen_graph_holds_the_same_weights(state, tmp_path, scaled):
  path = tmp_path / 'graph.pb'
  path.write_bytes(graph(state, scaled))
  found = inception.from_graph(frozen_graph.read(path), SMALL)
  assert found.keys() == state.keys()
  for name, value in state.items():
    # A graph may say that the scale of its normalisation is not used.
    ignored = name.endswith('bn.weight') and not scaled
    np.testing.assert_array_equal(found[name], 1 if ignored else value, name)


def test_graphs_that_are_none_are_one_sentence(state, tmp_path):
  whole = graph(state, True)
  path = tmp_path / 'bad.pb'
  kernel = constant('conv/conv2d_params', np.zeros((3, 3, 3, 2)))
  huge = field(2, field(2, field(1, 2**40)) + field(2, field(1, 2**40)))
  lying = field(8, field(1, 1) + huge + field(4, b'1234'))
  for data, said in (
    (whole[:-7], 'longer than what is left'),
    (b'', 'without nodes'),
    (b'hello, world', 'not a frozen graph'),
    (b'\xff' * 40, 'not a frozen graph'),
    (node('x', b'Const', [(b'value', lying)]), 'has 4 bytes'),
    (kernel, 'conv/batchnorm/beta'),
  ):
    path.write_bytes(data)
    with pytest.raises(errors.CheckpointError, match=said) as caught:
      features.load('inception2015', path)
    assert str(caught.value).startswith(str(path))


def test_random_bytes_never_crash_the_reader(state, tmp_path):
  whole = bytearray(graph(state, True)[:4000])
  rng = np.random.default_rng(0)
  path = tmp_path / 'fuzz.pb'
  for _ in range(300):
    data = bytearray(whole)
    for where in rng.integers(0, len(data), 4):
      data[where] = rng.integers(256)
    path.write_bytes(data)
    with contextlib.suppress(errors.CheckpointError):
      frozen_graph.read(path)


def test_missing_weights_say_where_they_are_published():
  with pytest.raises(errors.CheckpointError, match='pytorch-fid') as caught:
    features.load('inception2015')
  assert 'classify_image_graph_def.pb' in str(caught.value)
  with pytest.raises(errors.CheckpointError, match='cannot be opened'):
    features.load('inception2015', 'absent.pth')
  with pytest.raises(errors.CheckpointError, match='torchvision'):
    lpips.load('')


# --- LPIPS --------------------------------------------------------------------


@pytest.fixture(scope='module')
def vgg():
  """A sixteenth of VGG16 with the linear weights of LPIPS."""
  rng, values, inputs = np.random.default_rng(0), {}, 3
  for indices, width in zip(lpips._CONVOLUTIONS, lpips._WIDTHS, strict=True):
    for index in indices:
      outputs, spread = width // SMALL, np.sqrt(2 / (9 * inputs))
      values[f'features.{index}.weight'] = (
        rng.normal(size=(outputs, inputs, 3, 3)) * spread
      )
      values[f'features.{index}.bias'] = rng.normal(0, 0.1, outputs)
      inputs = outputs
  for index, width in enumerate(lpips._WIDTHS):
    values[f'lin{index}.model.1.weight'] = rng.uniform(
      size=(1, width // SMALL, 1, 1)
    )
  return {name: value.astype(np.float32) for name, value in values.items()}


def test_lpips_gives_what_pytorch_gives(vgg):
  pairs = np.random.default_rng(1).integers(0, 256, (2, 2, 37, 40, 3))
  first, second = pairs.astype(np.float32)
  params = lpips.convert(vgg, SMALL)
  metric = lpips.Lpips(params, '')
  found = jax.jit(metric.distance)(params, first, second)
  np.testing.assert_allclose(found, [1.1929221, 1.2623854], rtol=1e-5)
  np.testing.assert_array_equal(metric.distance(params, first, first), 0)


def test_both_spellings_and_two_files_of_lpips(vgg, monkeypatch, tmp_path):
  convert = lpips.convert
  monkeypatch.setattr(lpips, 'convert', lambda state: convert(state, SMALL))
  groups = enumerate(lpips._CONVOLUTIONS, start=1)
  renamed = {
    f'features.{index}.{part}': f'net.slice{number}.{index}.{part}'
    for number, indices in groups
    for index in indices
    for part in ('weight', 'bias')
  }
  np.savez(
    tmp_path / 'all.npz', **{renamed.get(k, k): v for k, v in vgg.items()}
  )
  for name, start in (('vgg', 'features'), ('lin', 'lin')):
    chosen = {k: v for k, v in vgg.items() if k.startswith(start)}
    np.savez(tmp_path / f'{name}.npz', **chosen)
  one = lpips.load(tmp_path / 'all.npz')
  two = lpips.load(f'{tmp_path / "vgg.npz"},{tmp_path / "lin.npz"}')
  assert one.identity == two.identity
  with pytest.raises(errors.CheckpointError, match=r'lin0\.model\.1\.weight'):
    lpips.load(tmp_path / 'vgg.npz')


def test_weights_that_are_not_finite_are_refused(state):
  broken = dict(state)
  broken['Mixed_5b.branch_pool.bn.bias'] = np.full(2, np.nan, np.float32)
  with pytest.raises(errors.CheckpointError, match='NaN'):
    inception.convert(broken, SMALL)
  with pytest.raises(errors.CheckpointError, match='must be floats of shape'):
    layers.take({'x': np.zeros(3, 'f4')}, 'x', (4,))


# --- hostile files ------------------------------------------------------------


class Trap:
  """A pickle that would run a function of this test."""

  def __reduce__(self):
    return pytest.fail, ('a pickle was run',)


@pytest.mark.parametrize('name', ['efflite0', 'inception2015'])
def test_hostile_weights_run_nothing(name, tmp_path):
  pickled = tmp_path / 'trap.pth'
  pickled.write_bytes(pickle.dumps({'fc.weight': Trap()}, protocol=2))
  zipped = tmp_path / 'zip.pth'
  with zipfile.ZipFile(zipped, 'w') as archive:
    archive.writestr('archive/data.pkl', pickled.read_bytes())
  bomb = tmp_path / 'bomb.npz'
  with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('fc.weight.npy', bytes(2**27))
  for path, said in (
    (pickled, 'neither|asks for|no state dict needs'),
    (zipped, 'asks for|no state dict needs'),
    (bomb, 'more than 100 times'),
  ):
    with pytest.raises(errors.CheckpointError, match=said) as caught:
      features.load(name, path)
    assert len(str(caught.value).splitlines()) == 1
  with pytest.raises(errors.CheckpointError):
    lpips.load(zipped)
