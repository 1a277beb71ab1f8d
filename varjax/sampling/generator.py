"""From labels to images: what a sampling program computes, and of what.

The seam between people and compilers. `VarPipeline` and bulk sampling jit
`Generator.draw` with real weights; `varjax aot` lowers the same function with
their shapes alone.
"""

from __future__ import annotations

import dataclasses
import functools

import jax

from varjax import spec as specs
from varjax import validation
from varjax.models.transformer import Transformer
from varjax.models.weights import stored
from varjax.orders.base import Order
from varjax.sampling import loop
from varjax.sampling.edit import Known
from varjax.tokenizers.autoencoder import Autoencoder
from varjax.tokenizers.base import Tokenizer
from varjax.types import PyTree

_AS_TRAINED = specs.PrecisionSpec()


@dataclasses.dataclass(frozen=True)
class Generator:
  """A tokenizer, an order and a transformer, without weights.

  Attributes:
    tokenizer, order: as trained.
    model: as it samples, see `of`.
    precision: types that samples are computed and stored in.
  """

  tokenizer: Tokenizer
  order: Order
  model: Transformer
  precision: specs.PrecisionSpec

  @classmethod
  def of(
    cls,
    tokenizer: Tokenizer,
    order: Order,
    model: Transformer,
    precision: specs.PrecisionSpec = _AS_TRAINED,
  ) -> Generator:
    """Of parts as they were trained.

    Raises:
      ConfigError: there is no such precision.
    """
    validation.check_precision(precision)
    if precision.compute:
      spec = dataclasses.replace(model.spec, compute_dtype=precision.compute)
      model = Transformer(spec, model.layout)
    return cls(tokenizer, order, model, precision)

  def kept(self, tokenizer: PyTree, model: PyTree) -> dict[str, PyTree]:
    """The weights as `draw` reads them.

    Args:
      tokenizer: its weights.
      model: the transformer's, unboxed, as trained.
    """
    compute, kind = self.model.spec.compute_dtype, self.precision.weights
    return {'tokenizer': tokenizer, 'model': stored(model, compute, kind)}

  @functools.cached_property
  def decoder(self) -> Tokenizer:
    """The tokenizer as it decodes samples; it encodes as it was trained."""
    if not (self.precision.compute and isinstance(self.tokenizer, Autoencoder)):
      return self.tokenizer
    spec = dataclasses.replace(
      self.tokenizer.spec, compute_dtype=self.precision.compute
    )
    return Autoencoder(spec)

  def draw(
    self,
    settings: specs.SampleSpec,
    weights: PyTree,
    labels: jax.Array,
    rng: jax.Array,
    gumbel: jax.Array | None = None,
    known: Known | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Images and codes; the body of the sampling programs.

    Args:
      settings: guidance and truncation; static.
      weights: of `kept`.
      labels: int32 [B]; num_classes is "no class".
      rng: one key, or a key for each image.
      gumbel: noise [B, L, V] for `smooth`.
      known: given positions, for editing.

    Returns:
      Images float32 [B, H, W, 3] in [0, 1], and codes int32 [B, L, R].
    """
    codes, features = loop.sample(
      self.model,
      weights['model'],
      self.order,
      self.tokenizer.quantizer(weights['tokenizer']),
      labels,
      rng,
      settings,
      gumbel=gumbel,
      known=known,
      cache_dtype=self.precision.cache,
    )
    if features is None:
      images = self.decoder.decode(weights['tokenizer'], codes)
    else:
      images = self.decoder.decode_features(weights['tokenizer'], features)
    return (images + 1) / 2, codes
