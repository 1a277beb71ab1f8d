"""A small vision transformer in the names of the published DINO weights."""

import numpy as np
from scipy import special

PATCH, TOKENS = 16, 197


def state(width=64, depth=12, seed=0):
  """A random state dict; the published one has width 384."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(0, 0.05, shape).astype(np.float32)

  found = {
    'cls_token': draw(1, 1, width),
    'pos_embed': draw(1, TOKENS, width),
    'patch_embed.proj.weight': draw(width, 3, PATCH, PATCH),
    'patch_embed.proj.bias': draw(width),
    'norm.weight': 1 + draw(width),
    'norm.bias': draw(width),
  }
  for i in range(depth):
    shapes = {
      'norm1': (width,), 'norm2': (width,),
      'attn.qkv': (3 * width, width), 'attn.proj': (width, width),
      'mlp.fc1': (4 * width, width), 'mlp.fc2': (width, 4 * width),
    }  # fmt: skip
    for name, shape in shapes.items():
      weight = draw(*shape)
      found[f'blocks.{i}.{name}.weight'] = weight + (len(shape) == 1)
      found[f'blocks.{i}.{name}.bias'] = draw(shape[0])
  return found


def reference_tokens(state, images, after):
  """One image, one patch, one head at a time, in float64, from the paper."""
  s = {k: np.float64(v) for k, v in state.items()}
  width = s['cls_token'].shape[-1]
  mean = np.array([0.485, 0.456, 0.406])
  std = np.array([0.229, 0.224, 0.225])

  def linear(x, name):
    return x @ s[f'{name}.weight'].T + s[f'{name}.bias']

  def norm(x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-6
    )
    return x * s[f'{name}.weight'] + s[f'{name}.bias']

  results = []
  for image in (np.float64(images) + 1) / 2:
    image = ((image - mean) / std).transpose(2, 0, 1)
    x = [s['cls_token'][0, 0]]
    for row in range(0, image.shape[1], PATCH):
      for column in range(0, image.shape[2], PATCH):
        patch = image[:, row : row + PATCH, column : column + PATCH]
        x.append(
          (s['patch_embed.proj.weight'] * patch).sum((1, 2, 3))
          + s['patch_embed.proj.bias']
        )
    x = np.stack(x) + s['pos_embed'][0]
    found = [x] if -1 in after else []
    for i in range(max(after) + 1):
      y = linear(norm(x, f'blocks.{i}.norm1'), f'blocks.{i}.attn.qkv')
      heads = []
      for start in range(0, width, 64):
        q, k, v = (y[:, n * width + start :][:, :64] for n in range(3))
        heads.append(special.softmax(q @ k.T / 8, -1) @ v)
      x = x + linear(np.concatenate(heads, 1), f'blocks.{i}.attn.proj')
      y = linear(norm(x, f'blocks.{i}.norm2'), f'blocks.{i}.mlp.fc1')
      y = y * 0.5 * (1 + special.erf(y / np.sqrt(2)))
      x = x + linear(y, f'blocks.{i}.mlp.fc2')
      if i in after:
        found.append(x)
    results.append(found)
  return [np.stack(layer) for layer in zip(*results, strict=True)]
