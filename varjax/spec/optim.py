"""How weights are moved."""

from __future__ import annotations

import dataclasses

from varjax.spec.duration import Duration


@dataclasses.dataclass(frozen=True)
class OptimSpec:
  """AdamW, clipping and schedules (official VAR trainer).

  Attributes:
    lr: peak learning rate, or its value at `lr_reference_batch` images.
    lr_reference_batch: lr is scaled by batch / this; 0 leaves it alone.
    schedule: 'lin0', 'lin', 'lin00', 'cos', 'exp' or 'lin<T>'.
    warmup: length of the linear warm-up.
    warmup_start, final: factors of the peak at step 0 and at the end
      (official wp0 and wpe).
    beta1, beta2, eps: Adam.
    weight_decay, weight_decay_end: decoupled decay at the start and, by a
      half cosine, at the end; -1 keeps the start value.
    clip_norm: global gradient norm; 0 is no clipping.
    accumulate: micro-batches per update.
    moments_dtype: 'float32' or 'bfloat16', for the first moment.
  """

  lr: float = 1e-4
  lr_reference_batch: int = 0
  schedule: str = 'lin0'
  warmup: Duration = Duration(frac=0.02)
  warmup_start: float = 0.005
  final: float = 0.1
  beta1: float = 0.9
  beta2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.05
  weight_decay_end: float = -1.0
  clip_norm: float = 2.0
  accumulate: int = 1
  moments_dtype: str = 'float32'
