"""Images from a trained run, in compiled batches of one shape."""

from __future__ import annotations

import jax
import numpy as np

from varjax import rng
from varjax.sampling.loop import sample
from varjax.trained import TrainedGenerator


class Generator:
  """Samples codes and decodes them in one compiled program.

  Args:
    loaded: the trained run.
    cfg: guidance at the last scale.
    top_k, top_p: truncation of the code distribution; 0 is off.
    smooth: official "more_smooth" sampling.
  """

  def __init__(
    self,
    loaded: TrainedGenerator,
    *,
    cfg: float,
    top_k: int,
    top_p: float,
    smooth: bool = False,
  ):
    self._loaded = loaded
    self._weights = jax.device_put(
      {
        'params': loaded.params,
        'quantizer': loaded.quantizer,
        'tokenizer': loaded.trained.params,
      }
    )

    def run(weights, labels, key):
      codes, features = sample(
        loaded.model,
        weights['params'],
        loaded.order,
        weights['quantizer'],
        labels,
        key,
        cfg=cfg,
        top_k=top_k,
        top_p=top_p,
        smooth=smooth,
      )
      images = loaded.trained.tokenizer.decode_features(
        weights['tokenizer'], features
      )
      return (images + 1) / 2, codes

    self._run = jax.jit(run)

  def images(
    self, labels: np.ndarray, seed: int, batch_size: int
  ) -> np.ndarray:
    """One image per label, float32 [n, H, W, 3] in [0, 1]."""
    batches = []
    for index, start in enumerate(range(0, len(labels), batch_size)):
      part = labels[start : start + batch_size]
      padded = np.resize(part, batch_size) if len(part) < batch_size else part
      key = rng.for_step(seed, index)
      images, _ = self._run(self._weights, padded.astype(np.int32), key)
      batches.append(np.asarray(images)[: len(part)])
    return np.concatenate(batches)
