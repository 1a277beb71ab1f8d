"""Where the bytes of a compiled program go: by pass and by part of the model.

XLA keeps, in each instruction, the path of the JAX operation that it came
from; a fusion has the path of its last one. That is enough to say which
part of the network moves how much and in how many kernels: a profile
without a device, of traffic and not of time. No JAX in here.
"""

from __future__ import annotations

import dataclasses
import re

from varjax.aot import traffic
from varjax.hlo import Instruction

_PATH = re.compile(r'op_name="([^"]*)"')
# Where a part begins: scopes of modules, and those that functions name. The
# networks of losses come first: they have blocks of their own.
_ROOTS = (
  'perceptual', 'discriminator',
  'blocks', 'embed', 'adaln', 'head',
  'guidance', 'filters', 'draw',
  'encoder', 'decoder', 'quantizer',
)  # fmt: skip
# Transformations of JAX around the first scope that they meet.
_WRAPPED = re.compile(r'\b(?:jvp|transpose|vmap|remat|checkpoint)\(')
# Blocks of one level of a tokenizer are one part.
_NUMBERED = re.compile(r'^((?:up|down)_\d+)_(?:block|attn)_\d+$')
# What JAX puts between scopes: loops, choices by platform, `vmap()`, einsums
# (`ab,bc->ac`), and inner functions, as `jit(silu)` without its bracket.
_BETWEEN = re.compile(
  r'^(|while|body|closed_call|cond|branch_\d+_fun|.*->.*|.*\(.*)$'
)
_PRODUCTS = ('custom-call', 'dot', 'convolution')
_STACKS = ('dynamic_update_slice', 'dynamic_slice')


@dataclasses.dataclass(frozen=True)
class Part:
  """Kernels of one kind, in one pass, of one part of the model.

  Attributes:
    step: 'forward', 'recompute', 'backward', or 'update' for the loss'
      surroundings and the optimiser; 'forward' alone without training.
    place: module path, as `blocks/mlp/fc1` or `decoder/up_0/norm1`; 'scan'
      for the stacking of what a loop over layers keeps, 'other' for what has
      no path.
    kind: 'product' of matrices, a convolution (or another kernel of a
      library), or 'element-wise'.
    bytes: through memory in one call.
    launches: kernels in one call, every trip of a loop counted.
  """

  step: str
  place: str
  kind: str
  bytes: float
  launches: int

  @property
  def root(self) -> str:
    """Where its place begins."""
    return self.place.partition('/')[0]


def parts(text: str, is_training: bool = True) -> tuple[Part, ...]:
  """The parts of an optimised module, most bytes first.

  Args:
    text: of the module.
    is_training: whether it is an update.

  Raises:
    ConfigError: the text is not a module.
  """
  found: dict[tuple[str, str, str], tuple[float, int]] = {}
  for move in traffic.moves(text):
    if not move.bytes:
      continue
    step, place = _where(move.line)
    key = (step if is_training else 'forward', place, _kind(move.line))
    size, launches = found.get(key, (0.0, 0))
    found[key] = (size + move.bytes, launches + move.trips)
  listed = [Part(*key, *counts) for key, counts in found.items()]
  return tuple(sorted(listed, key=lambda part: -part.bytes))


def summed(listed: tuple[Part, ...]) -> tuple[Part, ...]:
  """One part for each beginning of a place, as 'blocks' or 'decoder'."""
  found: dict[str, tuple[float, int]] = {}
  for part in listed:
    size, launches = found.get(part.root, (0.0, 0))
    found[part.root] = (size + part.bytes, launches + part.launches)
  whole = [Part('all', name, 'all', *counts) for name, counts in found.items()]
  return tuple(sorted(whole, key=lambda part: -part.bytes))


def table(listed: tuple[Part, ...], most: int = 20) -> str:
  """The largest parts for people, with a line for the rest."""
  total = sum(part.bytes for part in listed) or 1.0
  rows = [('pass', 'part', 'kind', 'GiB', 'share', 'kernels')]
  for part in listed[:most]:
    rows.append((part.step, part.place, part.kind, *_counts(part, total)))
  if rest := listed[most:]:
    size = sum(part.bytes for part in rest)
    launches = sum(part.launches for part in rest)
    summed = Part('', f'{len(rest)} more', '', size, launches)
    rows.append(('', summed.place, '', *_counts(summed, total)))
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) if i < 3 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  )


def _counts(part: Part, total: float) -> tuple[str, str, str]:
  share = 100 * part.bytes / total
  return f'{part.bytes / 2**30:.2f}', f'{share:.1f} %', f'{part.launches:,}'


def _where(line: Instruction) -> tuple[str, str]:
  """(pass, place) of an instruction."""
  match = _PATH.search(line.rest)
  if match is None:
    return 'update', 'other'
  path = match[1]
  bare = _WRAPPED.sub('', path).replace(')', '')
  # `head.step` is a call of `head`; `head._classify` a method inside of it. A
  # sampler applies one `Block` to the weights of each layer of `blocks`.
  steps = [
    name if '._' in name else name.partition('.')[0]
    for name in bare.replace('/Block/', '/blocks/').split('/')
  ]
  if 'rematted_computation' in steps:
    step = 'recompute'
  elif 'transpose(' in path:
    step = 'backward'
  else:
    step = 'forward' if 'jvp(' in path else 'update'
  for root in _ROOTS:
    if root in steps:
      inner = steps[len(steps) - 1 - steps[::-1].index(root) : -1]
      return step, '/'.join(_named(inner))
  if steps[-1] in _STACKS:
    return step, 'scan'
  return step, 'other'


def _named(steps: list[str]) -> list[str]:
  """The modules and methods of a path, without what JAX puts in between."""
  named = []
  for name in steps:
    if _BETWEEN.match(name):
      continue
    name = _NUMBERED.sub(r'\1', name.rpartition('._')[2])
    # A scope around a module of the same name.
    if not named or name.lower() != named[-1]:
      named.append(name)
  return named


def _kind(line: Instruction) -> str:
  # On a TPU a product is fused with what is done to its output.
  is_product = line.opcode in _PRODUCTS or 'kind=kOutput' in line.rest
  return 'product' if is_product else 'element-wise'
