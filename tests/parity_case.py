"""An official fixture: config, weights, inputs and outputs."""

import importlib.util
import types

import numpy as np


def load(parity_dir, name):
  """Reads fixture `name` with the reader that lies beside it."""
  spec = importlib.util.spec_from_file_location(
    'fixture_io', parity_dir / 'fixture_io.py'
  )
  reader = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(reader)
  info, vae, var, inputs, outputs = reader.load_fixture(
    str(parity_dir / f'{name}.npz')
  )
  images = np.moveaxis(inputs['img_i8'].astype(np.float32) / 128, 1, -1)
  return types.SimpleNamespace(
    config=info['config'],
    info=info['info'],
    vae=vae,
    var=var,
    inputs=inputs,
    outputs=outputs,
    images=images,  # [B, H, W, 3]
    labels=inputs['label'],
  )


def image(outputs, name):
  """(NHWC image, stride) of an output; only every stride-th pixel is kept."""
  (key,) = [k for k in outputs if k.partition('@')[0] == name]
  stride = int(key.partition('@s')[2] or 1)
  return np.moveaxis(outputs[key], 1, -1), stride
