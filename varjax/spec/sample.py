"""How images are sampled: settings, and the types of a sampler."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SampleSpec:
  """How images are sampled; it does not change what a run trains.

  In a run these are the defaults of its samples.

  Attributes:
    cfg: classifier-free guidance at the last step; it grows linearly from 0
      at the first. 0 is none, and computes none.
    top_k: codes kept per position, 0 for all; 1 is greedy.
    top_p: probability mass kept per position, 0 for all.
    smooth: mix codes instead of drawing one (`more_smooth`): nicer to look
      at, not for scores.
    guided: (first, stop), the steps at which guidance is on; () is all
      (guidance in a limited interval, arXiv 2404.07724). Its strength there
      is what it would be otherwise.
  """

  cfg: float = 1.5
  top_k: int = 0
  top_p: float = 0.0
  smooth: bool = False
  guided: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PrecisionSpec:
  """Types that a sampler computes and stores in; '' is as the run has it.

  Attributes:
    compute: 'float32' or 'bfloat16', of the transformer and the decoder.
    weights: 'int8', or '' for the compute type.
    cache: 'int8', or '' for the compute type.
  """

  compute: str = ''
  weights: str = ''
  cache: str = ''
