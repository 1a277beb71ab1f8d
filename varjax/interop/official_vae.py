"""The official VQVAE checkpoint (`vae_ch160v4096z32.pth`) in and out.

A state dict is a mapping from tensor names to arrays, as `torch.load` gives
them after `.numpy()`; no torch is needed. Convolution kernels are OIHW
there and HWIO here; nothing else changes, so both ways are exact to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import re
from typing import Any

from flax import traverse_util
from flax.core import meta
import jax
import numpy as np

from varjax import errors
from varjax.spec import TokenizerSpec
from varjax.tokenizers.autoencoder import Autoencoder
from varjax.types import PyTree

# A training statistic, not a weight; its number of scales may differ.
USAGE_BUFFER = 'quantize.ema_vocab_hit_SV'
_EMBEDDING = ('quantizer', 'embedding')
_PHI = ('quantizer', 'phi')
# Our module names to official ones; all others are the same.
_MODULES = (
  (r'^(down|up)_(\d+)_(block|attn)_(\d+)$', r'\1.\2.\3.\4'),
  (r'^(down|up)_(\d+)_(down|up)sample_conv$', r'\1.\2.\3sample.conv'),
  (r'^mid_', 'mid.'),
)


def spec_from_config(config: Mapping[str, Any]) -> TokenizerSpec:
  """The tokenizer that official constructor arguments describe.

  Args:
    config: 'ch', 'Cvae', 'V', 'patch_nums', 'quant_resi',
      'share_quant_resi', 'quant_conv_ks', 'using_znorm', 'beta', 'ch_mult',
      'num_res_blocks', 'norm_groups', 'norm_eps_gn', 'dropout'; what is
      missing has the official default, other keys are ignored.
  """
  spec = TokenizerSpec()
  return TokenizerSpec(
    ch=config.get('ch', spec.ch),
    ch_mult=tuple(config.get('ch_mult', spec.ch_mult)),
    num_res_blocks=config.get('num_res_blocks', spec.num_res_blocks),
    norm_groups=config.get('norm_groups', spec.norm_groups),
    norm_eps=config.get('norm_eps_gn', spec.norm_eps),
    dropout=float(config.get('dropout', spec.dropout)),
    code_dim=config.get('Cvae', spec.code_dim),
    vocab=config.get('V', spec.vocab),
    scales=tuple(
      tuple(s) if isinstance(s, list | tuple) else int(s)
      for s in config.get('patch_nums', spec.scales)
    ),
    quant_conv_size=config.get('quant_conv_ks', spec.quant_conv_size),
    phi_ratio=abs(float(config.get('quant_resi', spec.phi_ratio))),
    phi_count=config.get('share_quant_resi', spec.phi_count),
    znorm=bool(config.get('using_znorm', spec.znorm)),
    commitment=float(config.get('beta', spec.commitment)),
  )


def from_official(
  spec: TokenizerSpec, state: Mapping[str, np.ndarray]
) -> PyTree:
  """Official state dict to plain weights (numpy, float32).

  Args:
    spec: what the checkpoint holds, see `spec_from_config`.
    state: names to arrays; the usage buffer is ignored.

  Raises:
    CheckpointError: a tensor is missing, unknown, or of another shape.
  """
  left = {name: np.asarray(v) for name, v in state.items()}
  left.pop(USAGE_BUFFER, None)
  flat = {}
  for path, shape in _shapes(spec).items():
    parts = []
    for name, part_shape in _tensors(spec, path, shape):
      if name not in left:
        raise errors.CheckpointError(
          f'{name}: missing in the checkpoint; this tokenizer needs it with '
          f'shape {_official_shape(part_shape)}'
        )
      value = left.pop(name)
      if value.shape != _official_shape(part_shape):
        raise errors.CheckpointError(
          f'{name}: shape {value.shape} in the checkpoint, but the tokenizer '
          f'needs {_official_shape(part_shape)}'
        )
      parts.append(_to_ours(value))
    value = np.stack(parts) if path[:2] == _PHI else parts[0]
    flat[path] = np.ascontiguousarray(value, np.float32)
  if left:
    raise errors.CheckpointError(
      f'{min(left)}: in the checkpoint, but this tokenizer has no such '
      'tensor; do ch_mult, num_res_blocks and share_quant_resi agree?'
    )
  return traverse_util.unflatten_dict(flat)


def to_official(
  spec: TokenizerSpec, params: PyTree, usage: np.ndarray | None = None
) -> dict[str, np.ndarray]:
  """Weights to an official state dict, the inverse of `from_official`.

  Args:
    spec: of the weights.
    params: boxed or plain.
    usage: running code counts [K, V] for the usage buffer, which a strict
      `load_state_dict` expects; None leaves the buffer out.

  Raises:
    CheckpointError: the weights are not those of `spec`, or the official
      class cannot hold them.
  """
  if spec.kind != 'msvq' or spec.latent_channels != spec.code_dim:
    raise errors.CheckpointError(
      f'tokenizer.kind={spec.kind!r}, latent_dim={spec.latent_dim}: the '
      "official class is kind='msvq' with latent_dim=0, and holds nothing else"
    )
  flat = traverse_util.flatten_dict(meta.unbox(params))
  state = {}
  for path, shape in _shapes(spec).items():
    found = np.shape(flat[path]) if path in flat else None
    if found != shape:
      raise errors.CheckpointError(
        f'{"/".join(path)}: shape {found} in the weights, but the tokenizer '
        f'has {shape}'
      )
    value = np.asarray(flat[path], np.float32)
    names = list(_tensors(spec, path, shape))
    parts = value if path[:2] == _PHI else [value]
    for (name, _), part in zip(names, parts, strict=True):
      state[name] = _to_official(part)
  if usage is not None:
    state[USAGE_BUFFER] = np.asarray(usage, np.float32)
  return state


def _shapes(spec: TokenizerSpec) -> dict[tuple[str, ...], tuple[int, ...]]:
  """Path and shape of every weight of a tokenizer."""
  tokenizer = Autoencoder(spec)
  resolution = max(spec.grids[-1]) * spec.downsample
  shapes = jax.eval_shape(
    lambda: meta.unbox(tokenizer.init(jax.random.key(0), resolution))
  )
  flat = traverse_util.flatten_dict(shapes)
  return {path: leaf.shape for path, leaf in flat.items()}


def _tensors(
  spec: TokenizerSpec, path: tuple[str, ...], shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Official names, and our shapes, of the tensors in one weight."""
  if path == _EMBEDDING:
    yield 'quantize.embedding.weight', shape
    return
  leaf = 'bias' if path[-1] == 'bias' else 'weight'
  if path[:2] == _PHI:
    for module in range(shape[0]):
      owner = {
        0: f'quantize.quant_resi.{module}',
        1: 'quantize.quant_resi.qresi',
      }.get(spec.phi_count, f'quantize.quant_resi.qresi_ls.{module}')
      yield f'{owner}.{leaf}', shape[1:]
    return
  yield '.'.join((*map(_official_module, path[:-1]), leaf)), shape


def _official_module(name: str) -> str:
  for pattern, official in _MODULES:
    name = re.sub(pattern, official, name)
  return name


def _official_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def _to_ours(value: np.ndarray) -> np.ndarray:
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _to_official(value: np.ndarray) -> np.ndarray:
  value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
  return np.ascontiguousarray(value)
