"""Random images, and ways to store them."""

import io
import zipfile

import numpy as np
from PIL import Image

SIDE = 12


def pictures(n, seed=0, side=SIDE):
  """Smooth random images, uint8 [n, side, side, 3]."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (n, 3, 3, 3), np.uint8)
  large = [
    np.asarray(
      Image.fromarray(s).resize((side, side), Image.Resampling.BICUBIC)
    )
    for s in small
  ]
  return np.stack(large)


def write_folder(root, values):
  """A folder of one PNG file for each image."""
  root.mkdir(parents=True)
  for index, value in enumerate(values):
    Image.fromarray(value).save(root / f'{index:04d}.png')
  return root


def write_npz(path, **arrays):
  """An .npz of these arrays; returns its path."""
  np.savez(path, **arrays)
  return path


def all_of(found, size=16):
  """All images of a set, read in batches of `size`."""
  return np.concatenate(list(found.batches(size, 0, 1)))


def npy_header(shape, dtype='|u1'):
  """The bytes above an array of this shape."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': dtype, 'fortran_order': False, 'shape': shape}
  )
  return header.getvalue()


def lying_npz(path, shape, data):
  """An .npz whose header declares `shape` above `data`."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('arr_0.npy', npy_header(shape) + data)
  return path
