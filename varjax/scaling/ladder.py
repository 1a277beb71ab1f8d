"""A family of model sizes: from a depth or width to a whole run.

Between the specs and the planner. VAR's family grows depth and width
together (w = 64 d, arXiv 2404.02905 section 4.1); a sweep's own rule is
read from its records.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Protocol

from varjax import errors, flops
from varjax.params import scale_sequence
from varjax.spec import RunSpec


class Sizes(Protocol):
  """What a planner asks of a family: `Ladder`, or a list of experiments."""

  @property
  def base(self) -> RunSpec:
    """Everything that the sizes share."""
    ...

  @property
  def rungs(self) -> tuple[int, ...]:
    """The sizes to choose from, ascending."""
    ...

  def name(self, rung: int) -> str:
    """The name of a size, as `d16`."""
    ...

  def run(self, rung: int) -> RunSpec:
    """The base run with the model of one size."""
    ...


@dataclasses.dataclass(frozen=True)
class Ladder:
  """Sizes that differ in one number, `rung`.

  Attributes:
    base: everything that the sizes share.
    width_per_depth: w = this * depth, and the rung is the depth; 0 keeps
      the depth of `base`, and the rung is the number of heads.
    head_size: channels per attention head.
    rungs: the sizes to choose from, ascending.
  """

  base: RunSpec
  width_per_depth: int
  head_size: int
  rungs: tuple[int, ...]

  @property
  def rule(self) -> str:
    """The rule in words."""
    if self.width_per_depth:
      return (
        f'width = {self.width_per_depth} x depth, heads of {self.head_size}'
      )
    return f'depth {self.base.model.depth}, heads of {self.head_size}'

  def name(self, rung: int) -> str:
    """`d16` by depth, `w1024` by width."""
    if self.width_per_depth:
      return f'd{rung}'
    return f'w{rung * self.head_size}'

  def run(self, rung: int) -> RunSpec:
    """The base run with the model of one rung.

    Raises:
      ConfigError: a rung below 1.
    """
    if rung < 1:
      raise errors.ConfigError(f'size {rung}: must be at least 1')
    depth, width = self.base.model.depth, rung * self.head_size
    if self.width_per_depth:
      depth, width = rung, self.width_per_depth * rung
    model = dataclasses.replace(
      self.base.model, depth=depth, width=width, heads=width // self.head_size
    )
    return dataclasses.replace(self.base, task='generate', model=model)


def of_run(base: RunSpec, rungs: Sequence[int] = ()) -> Ladder:
  """The family that a run belongs to: its width / depth and head size.

  Raises:
    ConfigError: width is not a multiple of the depth, so there is no rule;
      or an order whose sequence is not known here.
  """
  scale_sequence(base)
  model = base.model
  if model.width % model.depth or model.width % model.heads:
    raise errors.ConfigError(
      f'model.width={model.width}: a family needs a width that is a multiple '
      f'of model.depth={model.depth} and of model.heads={model.heads}'
    )
  head_size = model.width // model.heads
  per_depth = model.width // model.depth
  if per_depth % head_size:
    return Ladder(base, 0, head_size, tuple(rungs) or tuple(range(1, 97)))
  return Ladder(base, per_depth, head_size, tuple(rungs) or tuple(range(2, 65)))


def of_runs(runs: Sequence[RunSpec]) -> Ladder:
  """The family that several runs share; the largest is the base.

  Raises:
    ConfigError: no run, or runs that follow no common rule.
  """
  if not runs:
    raise errors.ConfigError('no complete transformer run with a config')
  for run in runs:
    scale_sequence(run)
  base = max(
    runs, key=lambda r: flops.parameter_counts(r.model, r.tokenizer).body
  )
  shapes = {(r.model.depth, r.model.width, r.model.heads) for r in runs}
  heads = {width // count for _, width, count in shapes}
  ratios = {width / depth for depth, width, _ in shapes}
  depths = {depth for depth, _, _ in shapes}
  if len(heads) > 1 or (len(ratios) > 1 and len(depths) > 1):
    listed = ', '.join(f'{d}x{w}' for d, w, _ in sorted(shapes)[:6])
    raise errors.ConfigError(
      f'the sizes {listed} (depth x width) follow no rule with one width per '
      'layer or one depth; name a config with --config'
    )
  if len(ratios) == 1:
    return of_run(base)
  return Ladder(base, 0, heads.pop(), tuple(range(1, 97)))


def params(run: RunSpec, convention: str) -> float:
  """N of a run as a fit counted it (keys of `table.N_CONVENTIONS`).

  Raises:
    ConfigError: an unknown convention.
  """
  counts = flops.parameter_counts(run.model, run.tokenizer)
  if convention == 'body':
    return counts.body
  if convention == 'total':
    return counts.total
  if convention == 'body_no_adaln':
    return counts.body - counts.adaln
  if convention == 'body_head':
    return counts.total - counts.adaln
  if convention == 'effective':
    work = flops.train_flops_per_image(run.model, run.tokenizer)
    return work.body / (6 * flops.sequence_of(run.tokenizer).positions)
  raise errors.ConfigError(
    f'n_convention {convention!r}: must be body, total, body_no_adaln, '
    'body_head or effective'
  )
