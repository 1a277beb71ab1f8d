"""Stage 1: train the tokenizer to reconstruct images.

Loss: weighted L1 and L2 errors, the quantiser's loss, and any further terms
that the caller adds (VAR, arXiv 2404.02905, equation 5). The
state is the usage of the codebook, which also drives the revival of dead
codes; `batch['image']` is uint8.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools

from flax.core import meta
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from varjax import rng as rngs
from varjax.evals import recon
from varjax.groups import MAIN, Group
from varjax.schedule import Steps
from varjax.spec import RunSpec
from varjax.tokenizers import usage
from varjax.tokenizers.autoencoder import Autoencoder
from varjax.tokenizers.base import Quantized
from varjax.types import Batch, CodeSpec, EvalOutput, LossOutput, PyTree

# (images, unclipped reconstructions, key) to a scalar with its weight in it.
LossTerm = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class ReconstructTask:
  """A `tasks.base.Task`: params are the tokenizer's, state is its usage.

  Attributes:
    run: reads `tokenizer`, `reconstruct` and `data.resolution`.
    extra_losses: (name, term) pairs added to the loss, such as a perceptual
      or an adversarial one.
  """

  run: RunSpec
  extra_losses: tuple[tuple[str, LossTerm], ...] = ()
  name: str = 'reconstruct'

  @functools.cached_property
  def tokenizer(self) -> Autoencoder:
    """What is trained."""
    return Autoencoder(self.run.tokenizer)

  @property
  def code_spec(self) -> CodeSpec:
    """Of the tokenizer."""
    return self.tokenizer.code_spec

  def stages(self, steps: Steps) -> tuple[tuple[int, ReconstructTask], ...]:
    """One stage."""
    del steps
    return ((0, self),)

  def groups(self, steps: Steps) -> dict[str, Group]:
    """The tokenizer."""
    return {MAIN: Group(self.run.optim, steps.warmup)}

  def init(self, rng: jax.Array) -> tuple[PyTree, usage.UsageState]:
    """Fresh weights (boxed) and empty statistics."""
    params = self.tokenizer.init(rng, self.run.data.resolution)
    spec = self.run.tokenizer
    state = usage.start(
      self.code_spec, spec.revive_every > 0, spec.kmeans_updates
    )
    return params, state

  def loss_fn(
    self,
    params: PyTree,
    state: usage.UsageState,
    frozen: PyTree,
    batch: Batch,
    rng: jax.Array,
  ) -> tuple[jax.Array, LossOutput]:
    """Loss over the batch, and the usage with this batch counted."""
    del frozen
    spec, weights = self.run.tokenizer, self.run.reconstruct
    tokenizer = self.tokenizer
    images = to_float(batch['image'])
    drop = [None, None]
    if spec.dropout:
      drop = list(jax.random.split(rngs.stream(rng, 'dropout')))
    features = tokenizer.encode_features(params, images, drop[0])
    quantized = tokenizer.quantizer(params).quantize(features)
    output = tokenizer.decode_unclipped(params, quantized.features, drop[1])

    error = output - images
    terms = {
      'l1': weights.l1 * jnp.mean(jnp.abs(error)),
      'l2': weights.l2 * jnp.mean(jnp.square(error)),
      'vq': weights.quantize * quantized.loss,
    }
    for name, term in self.extra_losses:
      terms[name] = term(images, output, rngs.stream(rng, name))
    loss = sum(terms.values(), start=jnp.float32(0))

    state = self._count(state, quantized, rng)
    share = usage.usage_share(state, self.code_spec, images.shape[0])
    metrics = {f'loss_{name}': value for name, value in terms.items()}
    metrics['psnr'] = jnp.mean(recon.psnr(images, jnp.clip(output, -1, 1)))
    metrics['usage'] = jnp.mean(share)
    metrics['perplexity'] = usage.perplexity(jnp.sum(state.ema, 0))
    metrics = jax.lax.stop_gradient(metrics)
    return loss, LossOutput(metrics, jax.lax.stop_gradient(state))

  def eval_fn(
    self,
    params: PyTree,
    state: usage.UsageState,
    frozen: PyTree,
    batch: Batch,
  ) -> EvalOutput:
    """Quality with all scales and with the first k, and code counts.

    Returns:
      per_image 'mse' [B], 'psnr' [B] in dB, 'psnr_scale' [B, K] of the
      image from the first k scales (or codes of a position); totals
      'code_count' [K, V], see `usage`. Images are clipped to [-1, 1].
    """
    del state, frozen
    images = to_float(batch['image'])
    codes = self.tokenizer.encode(params, images)
    partial = self.tokenizer.partial_images(params, codes)
    error = recon.mse(images[None], partial)  # [K, B]
    psnr = recon.psnr_of(error)
    valid = batch.get('mask')
    valid = None if valid is None else valid.astype(jnp.float32)
    return EvalOutput(
      per_image={'mse': error[-1], 'psnr': psnr[-1], 'psnr_scale': psnr.T},
      totals={'code_count': usage.count_codes(codes, self.code_spec, valid)},
    )

  def after_update(
    self,
    params: PyTree,
    state: usage.UsageState,
    rng: jax.Array,
    step: jax.Array,
  ) -> tuple[PyTree, usage.UsageState]:
    """Revives dead codes when it is time, and refits the codebook once."""
    spec = self.run.tokenizer
    if not (spec.revive_every or spec.kmeans_updates):
      return params, state
    entry, done = params['quantizer']['embedding'], step + 1
    codebook = meta.unbox(entry)
    if spec.revive_every:
      due = done % spec.revive_every == 0
      codebook, state = usage.revive(
        codebook, state, rng, spec.revive_below, due
      )
    if spec.kmeans_updates:
      due = done == spec.kmeans_updates
      key = rngs.stream(rng, 'kmeans')
      codebook, state = usage.refit(codebook, state, key, spec.znorm, due)
    boxed = isinstance(entry, meta.AxisMetadata)
    entry = entry.replace_boxed(codebook) if boxed else codebook
    quantizer = dict(params['quantizer'], embedding=entry)
    return dict(params, quantizer=quantizer), state

  def _count(
    self, state: usage.UsageState, quantized: Quantized, rng: jax.Array
  ) -> usage.UsageState:
    spec, seen = self.run.tokenizer, state.updates
    counts = usage.count_codes(quantized.codes, self.code_spec)
    state = usage.update(state, counts, spec.usage_decay, spec.official_usage)
    if not (spec.revive_every or spec.kmeans_updates):
      return state
    vectors = usage.sample_candidates(
      quantized.searched, self.code_spec, rngs.stream(rng, 'candidates')
    )
    return usage.collect(state, jax.lax.stop_gradient(vectors), seen)


def to_float(images: UInt8[Array, 'B H W 3']) -> Float[Array, 'B H W 3']:
  """8-bit images to float32 in [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1
