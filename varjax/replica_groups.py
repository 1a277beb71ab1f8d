"""Which devices take part together in a collective of compiled HLO.

XLA prints the groups in three ways: a list of lists, an iota that is
reshaped and transposed (`[4,2]<=[2,4]T(1,0)`), and axes of a mesh
(`mesh['a'=2,'b'=4] {'a'}`). Read by `collectives`.
"""

from __future__ import annotations

import re

import numpy as np

from varjax import errors

Groups = tuple[tuple[int, ...], ...]

_LISTS = re.compile(r'\{((?:\{[\d,]*\},?)*)\}')
_IOTA = re.compile(r'\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(
  r"mesh\[(?P<axes>[^\]]*)\]"
  r'(?:, ?device_ids=\((?P<ids>[^{]*)\))?'
  r' ?\{(?P<over>[^}]*)\}'
)  # fmt: skip
_AXIS = re.compile(r"'?([\w.]+)'?=(\d+)")
_OVER = re.compile(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?")


def parse(text: str, devices: int) -> Groups:
  """The groups of an HLO attribute.

  Args:
    text: what follows `replica_groups=`; more text may follow.
    devices: of the program; an empty list means all of them together.

  Returns:
    Device numbers of each group, all groups of one size.

  Raises:
    ConfigError: a notation that is not one of the three.
  """
  if found := _LISTS.match(text):
    groups = [_numbers(g) for g in re.findall(r'\{([\d,]*)\}', found[1])]
    groups = [group for group in groups if group]
    return tuple(groups) or (tuple(range(devices)),)
  if found := _IOTA.match(text):
    return _rows(_iota(found[2], found[3]).reshape(_numbers(found[1])))
  if found := _MESH.match(text):
    return _of_mesh(found['axes'], found['ids'], found['over'])
  raise errors.ConfigError(
    f'replica_groups={text[:60]!r}: this notation is not known; it must be a '
    'list of lists, an iota or axes of a mesh'
  )


def _of_mesh(axes: str, ids: str | None, over: str) -> Groups:
  """Groups along the axes `over` of a mesh; `'a':(2)3` is a part of one."""
  sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
  taken: dict[str, list[tuple[int, int]]] = {}
  for name, before, size in _OVER.findall(over):
    whole = (1, sizes[name])
    taken.setdefault(name, []).append(
      (int(before), int(size)) if before else whole
    )
  # Every axis is cut into the parts that are taken and the rest.
  shape: list[int] = []
  moved: list[int] = []
  for name, size in sizes.items():
    done = 1
    for before, part in sorted(taken.get(name, [])):
      if before > done:
        shape.append(before // done)
      moved.append(len(shape))
      shape.append(part)
      done = before * part
    shape.append(size // done)
  count = int(np.prod(list(sizes.values())))
  order = np.arange(count)
  if ids:
    found = _IOTA.search(ids) or re.search(
      r'()\[([\d,]+)\](?:T\(([\d,]+)\))?', ids
    )
    if found:
      order = _iota(found[2], found[3]).reshape(-1)
    else:
      order = np.array([int(n) for n in re.findall(r'\d+', ids)])
  kept = [axis for axis in range(len(shape)) if axis not in moved]
  members = int(np.prod([shape[axis] for axis in moved]))
  grid = order.reshape(shape).transpose([*kept, *moved])
  return _rows(grid.reshape(-1, members))


def _iota(dims: str, permutation: str | None) -> np.ndarray:
  shape = _numbers(dims)
  grid = np.arange(int(np.prod(shape))).reshape(shape)
  return grid.transpose(_numbers(permutation)) if permutation else grid


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(int(n) for n in text.split(',') if n)


def _rows(grid: np.ndarray) -> Groups:
  return tuple(tuple(int(n) for n in row) for row in grid)
