"""Weights from a file, whoever wrote it, without running any of it.

`.pth` of torch.save (both containers), `.safetensors` and `.npz`, told
apart by their first bytes. A damaged or hostile file is a sentence: no code
in it runs, no path in it is opened, and no more memory is taken than a few
times its size.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import numpy as np
import safetensors

from varjax import errors
from varjax.interop import npz, torch_file, unpickle

# Where the official trainer keeps each part, and other common wrappings.
PARTS = {'vae': ('vae_local', 'vae'), 'var': ('var_wo_ddp', 'var')}
_WRAPPINGS = ('trainer', 'state_dict', 'model')
_PREFIXES = ('module.', '_orig_mod.')
# bfloat16 doubles; tensors that share a storage are copied.
_MAX_GROWTH = 4


def read_state(
  path: str | os.PathLike[str], part: str = ''
) -> dict[str, np.ndarray]:
  """The state dict in a file.

  A nested checkpoint is entered through 'trainer', 'state_dict', 'model',
  and then `PARTS[part]`; names of the form 'PART/NAME' (as `varjax
  export-official` writes them into one .npz) are filtered in the same way;
  the prefixes 'module.' and '_orig_mod.' are removed when all names have
  them.

  Args:
    path: .pth, .safetensors or .npz.
    part: 'vae' or 'var', for files that hold both.

  Returns:
    Name to array; 16-bit floats become float32, other types stay.

  Raises:
    CheckpointError: missing, damaged, hostile, or not a state dict.
  """
  path = os.fspath(path)
  if part and part not in PARTS:
    raise ValueError(f'part={part!r}: must be one of {", ".join(PARTS)}')
  try:
    with open(path, 'rb') as file:
      head = file.read(16)
  except OSError as error:
    raise errors.CheckpointError(
      f'{path}: cannot be opened ({error.strerror})'
    ) from error
  if head[:2] == b'PK':
    if npz.is_npz(path):
      return _flat(npz.read(path), part, path)
    with torch_file.open_zip(path) as opened:
      return _flat(_arrays(opened, part, path), part, path)
  if head[8:9] == b'{':
    return _flat(_read_safetensors(path), part, path)
  if head[:1] == b'\x80':
    with torch_file.open_legacy(path) as opened:
      return _flat(_arrays(opened, part, path), part, path)
  raise errors.CheckpointError(
    f'{path}: not a .pth of torch.save, a .safetensors or an .npz'
  )


def _arrays(
  opened: torch_file.Opened, part: str, path: str
) -> dict[str, np.ndarray]:
  """The tensors of the state dict inside an opened file."""
  state = _unwrap(opened.tree, part, path)
  for name, value in state.items():
    if not isinstance(name, str) or not isinstance(value, unpickle.Tensor):
      raise errors.CheckpointError(
        f'{path}: entry {str(name)[:80]!r} of the state dict is not a tensor'
      )
  wanted = sum(t.count * max(t.storage.item_bytes, 4) for t in state.values())
  present = os.path.getsize(path)
  if wanted > _MAX_GROWTH * present:
    raise errors.CheckpointError(
      f'{path}: its tensors take {wanted} bytes, the file has {present}; '
      'they overlap more than weights do'
    )
  arrays: dict[str, np.ndarray] = {}
  storage, numbers = None, np.empty(0)
  for name, tensor in state.items():
    if tensor.storage != storage:
      storage, numbers = tensor.storage, opened.read(tensor.storage)
    arrays[name] = _strided(numbers, tensor)
  return arrays


def _strided(numbers: np.ndarray, tensor: unpickle.Tensor) -> np.ndarray:
  """Copies the view that a tensor is; its bounds were checked."""
  width = numbers.dtype.itemsize
  view = np.ndarray(
    tensor.shape,
    numbers.dtype,
    numbers,
    tensor.offset * width if tensor.count else 0,
    tuple(stride * width for stride in tensor.strides),
  )
  if tensor.storage.kind == unpickle.BFLOAT16:
    # bfloat16 is the upper half of a float32.
    wide = np.left_shift(view, 16, dtype=np.uint32)
    return np.array(wide, np.uint32, order='C').view(np.float32)
  return np.array(view, view.dtype.newbyteorder('='), order='C')


def _unwrap(tree: Any, part: str, path: str) -> Mapping[Any, Any]:
  """Descends into a checkpoint until there are tensors."""
  while isinstance(tree, Mapping):
    if not tree or any(isinstance(v, unpickle.Tensor) for v in tree.values()):
      return tree
    keys = [k for name in PARTS for k in PARTS[name] if k in tree]
    mine = [k for k in PARTS.get(part, ()) if k in tree]
    if not part and keys:
      raise errors.CheckpointError(
        f'{path}: holds {" and ".join(keys)}; say which part is wanted, '
        f'{" or ".join(PARTS)}'
      )
    inner = mine or [k for k in _WRAPPINGS if k in tree]
    if not inner:
      found = ', '.join(str(k)[:40] for k in list(tree)[:8])
      raise errors.CheckpointError(
        f'{path}: holds no state dict{f" of the {part}" if part else ""}; '
        f'its entries are {found}'
      )
    # A child replaces its parent, so a dictionary inside itself would turn
    # for ever; taking the entry out makes each step smaller.
    tree = tree.pop(inner[0]) if isinstance(tree, dict) else tree[inner[0]]
  raise errors.CheckpointError(
    f'{path}: holds a {type(tree).__name__}, not a state dict'
  )


def _flat(
  state: dict[str, np.ndarray], part: str, path: str
) -> dict[str, np.ndarray]:
  """Picks a part by the prefix of its names, and widens 16-bit floats."""
  parts = {name.partition('/')[0] for name in state if '/' in name}
  if parts and parts <= PARTS.keys():
    if not part and len(parts) > 1:
      raise errors.CheckpointError(
        f'{path}: holds {" and ".join(sorted(parts))}; say which part is wanted'
      )
    prefix = f'{part or min(parts)}/'
    state = {
      name.removeprefix(prefix): value
      for name, value in state.items()
      if name.startswith(prefix)
    }
  for prefix in _PREFIXES:
    if state and all(name.startswith(prefix) for name in state):
      state = {name.removeprefix(prefix): v for name, v in state.items()}
  if not state:
    raise errors.CheckpointError(
      f'{path}: holds no tensors{f" of the {part}" if part else ""}'
    )
  narrow = ('float16', 'bfloat16')
  return {
    name: value.astype(np.float32) if value.dtype.name in narrow else value
    for name, value in state.items()
  }


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise errors.CheckpointError(
      f'{path}: not a safetensors file that can be read ({error})'
    ) from error
