"""Stage 1: train the tokenizer to reconstruct images.

Loss: weighted L1 and L2 errors and the quantiser's loss (VAR, arXiv
2404.02905, equation 5); on request a perceptual distance in the maps of a
frozen network and an adversarial loss with a discriminator that is trained
in the same update (VQGAN, arXiv 2012.09841). `batch['image']` is uint8.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools

from flax.core import meta
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from varjax import backbones
from varjax import rng as rngs
from varjax.evals import recon, ssim
from varjax.groups import MAIN, Group
from varjax.losses import adaptive
from varjax.schedule import Steps
from varjax.spec import RunSpec
from varjax.tasks.adversary import Adversary
from varjax.tokenizers import usage
from varjax.tokenizers.autoencoder import Autoencoder
from varjax.tokenizers.base import Quantized
from varjax.types import Batch, CodeSpec, EvalOutput, LossOutput, PyTree

# The parameter group, and the entry of params and frozen, of that network.
DISCRIMINATOR = 'discriminator'
# From a gradient at the images to that of the decoder's last kernel.
ToLastLayer = Callable[[jax.Array], PyTree]


@flax.struct.dataclass
class ReconstructState:
  """What stage 1 keeps outside of gradients."""

  usage: usage.UsageState
  updates: jax.Array  # [] int32, updates made
  discriminator: PyTree  # state of the discriminator; {} where it has none


@dataclasses.dataclass(frozen=True)
class ReconstructTask:
  """A `tasks.base.Task`; params are the tokenizer's.

  With an adversarial loss they have one more entry, `DISCRIMINATOR`, which
  is a parameter group of its own.

  Attributes:
    run: reads `tokenizer`, `reconstruct` and `data.resolution`.
    adversary: in the stage with an adversarial loss, else None.
    early: in the stage before it, which does not train the discriminator.
  """

  run: RunSpec
  adversary: Adversary | None = None
  early: bool = False
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
    """One stage, or another one where the adversarial loss begins."""
    if steps.adversarial is None:
      return ((0, self),)
    adversary = dataclasses.replace(self._adversary, steps=steps.adversarial)
    late = dataclasses.replace(self, adversary=adversary)
    start = steps.adversarial.start
    if not start:
      return ((0, late),)
    return ((0, dataclasses.replace(self, early=True)), (start, late))

  def groups(self, steps: Steps) -> dict[str, Group]:
    """The tokenizer, and the discriminator if there is one."""
    found = {MAIN: Group(self.run.optim, steps.warmup)}
    times = steps.adversarial
    if times is not None and not self.early:
      found[DISCRIMINATOR] = Group(
        self.run.reconstruct.adversarial.optim, times.lr_warmup, times.start
      )
    return found

  def init(self, rng: jax.Array) -> tuple[PyTree, ReconstructState]:
    """Fresh weights (boxed) and empty statistics."""
    params = self.tokenizer.init(rng, self.run.data.resolution)
    discriminator: PyTree = {}
    if self.run.reconstruct.adversarial.discriminator:
      network = self._adversary.discriminator
      weights, discriminator = network.init(rngs.stream(rng, DISCRIMINATOR))
      params = {**params, DISCRIMINATOR: weights}
    spec = self.run.tokenizer
    counts = usage.start(
      self.code_spec, spec.revive_every > 0, spec.kmeans_updates
    )
    zero = jnp.zeros((), jnp.int32)
    return params, ReconstructState(counts, zero, discriminator)

  def loss_fn(
    self,
    params: PyTree,
    state: ReconstructState,
    frozen: PyTree,
    batch: Batch,
    rng: jax.Array,
  ) -> tuple[jax.Array, LossOutput]:
    """Loss over the batch, and the usage with this batch counted.

    Its gradient at the discriminator is that of the discriminator's loss
    alone, and that at the tokenizer of everything else.
    """
    images = to_float(batch['image'])
    drop = [None, None]
    if self.run.tokenizer.dropout:
      drop = list(jax.random.split(rngs.stream(rng, 'dropout')))
    features = self.tokenizer.encode_features(params, images, drop[0])
    quantized = self.tokenizer.quantizer(params).quantize(features)
    output, to_last_layer = self._decode(params, quantized.features, drop[1])

    terms = {'vq': self.run.reconstruct.quantize * quantized.loss}
    discriminator, metrics = state.discriminator, {}
    if self.adversary is None:
      loss, pixels = self._pixel_loss(output, images, frozen)
    else:
      key = rngs.stream(rng, DISCRIMINATOR)
      loss, pixels, discriminator, metrics = self._adversarial(
        self.adversary, params, state, frozen, images, output, to_last_layer,
        key,
      )  # fmt: skip
    loss += terms['vq']
    terms |= pixels

    counts = self._count(state.usage, quantized, rng)
    share = usage.usage_share(counts, self.code_spec, images.shape[0])
    picks = jnp.sum(counts.ema, 0)
    metrics |= {f'loss_{name}': value for name, value in terms.items()}
    metrics['psnr'] = jnp.mean(recon.psnr(images, jnp.clip(output, -1, 1)))
    metrics['usage'] = jnp.mean(share)
    metrics['perplexity'] = usage.perplexity(picks)
    below = self.run.tokenizer.revive_below
    metrics['dead'] = jnp.mean(usage.dead_codes(counts, below))
    after = state.replace(usage=counts, discriminator=discriminator)
    metrics = jax.lax.stop_gradient(metrics)
    return loss, LossOutput(metrics, jax.lax.stop_gradient(after))

  def eval_fn(
    self,
    params: PyTree,
    state: ReconstructState,
    frozen: PyTree,
    batch: Batch,
  ) -> EvalOutput:
    """Quality with all scales and with the first k, and code counts.

    Returns:
      per_image 'mse' [B], 'psnr' [B] in dB, 'psnr_scale' [B, K] of the
      image from the first k scales (or codes of a position), 'ssim' [B]
      where a window fits, 'perceptual' [B] where a run has such a network;
      totals 'code_count' [K, V], see `usage`. Images are clipped to [-1, 1].
    """
    del state
    images = to_float(batch['image'])
    codes = self.tokenizer.encode(params, images)
    partial = self.tokenizer.partial_images(params, codes)
    error = recon.mse(images[None], partial)  # [K, B]
    psnr = recon.psnr_of(error)
    per_image = {'mse': error[-1], 'psnr': psnr[-1], 'psnr_scale': psnr.T}
    if self.run.data.resolution >= ssim.WINDOW:
      per_image['ssim'] = ssim.ssim(images, partial[-1])
    if self.run.reconstruct.perceptual.backbone:
      per_image['perceptual'] = self._distance(images, partial[-1], frozen)
    valid = batch.get('mask')
    valid = None if valid is None else valid.astype(jnp.float32)
    counts = usage.count_codes(codes, self.code_spec, valid)
    return EvalOutput(per_image=per_image, totals={'code_count': counts})

  def after_update(
    self,
    params: PyTree,
    state: ReconstructState,
    rng: jax.Array,
    step: jax.Array,
  ) -> tuple[PyTree, ReconstructState]:
    """Counts; revives dead codes when due, and refits the codebook once."""
    spec, done = self.run.tokenizer, step + 1
    state = state.replace(updates=done)
    if not (spec.revive_every or spec.kmeans_updates):
      return params, state
    entry, counts = params['quantizer']['embedding'], state.usage
    codebook = meta.unbox(entry)
    if spec.revive_every:
      due = done % spec.revive_every == 0
      codebook, counts = usage.revive(
        codebook, counts, rng, spec.revive_below, due
      )
    if spec.kmeans_updates:
      due = done == spec.kmeans_updates
      key = rngs.stream(rng, 'kmeans')
      codebook, counts = usage.refit(codebook, counts, key, spec.znorm, due)
    boxed = isinstance(entry, meta.AxisMetadata)
    entry = entry.replace_boxed(codebook) if boxed else codebook
    quantizer = dict(params['quantizer'], embedding=entry)
    return dict(params, quantizer=quantizer), state.replace(usage=counts)

  @property
  def _adversary(self) -> Adversary:
    dtype = jnp.dtype(self.run.tokenizer.compute_dtype)
    spec = self.run.reconstruct.adversarial
    return Adversary(spec, self.run.data.resolution, dtype)

  def _decode(
    self, params: PyTree, features: jax.Array, drop: jax.Array | None
  ) -> tuple[jax.Array, ToLastLayer]:
    """Images, and the way from their gradient to the last kernel's."""
    decoder = params['decoder']

    def decode(kernel: PyTree) -> jax.Array:
      last = dict(decoder['conv_out'], kernel=kernel)
      changed = dict(params, decoder=dict(decoder, conv_out=last))
      return self.tokenizer.decode_unclipped(changed, features, drop)

    kernel = decoder['conv_out']['kernel']
    if self.adversary is None:
      return decode(kernel), lambda gradient: gradient
    return jax.vjp(decode, kernel)

  def _pixel_loss(
    self, output: jax.Array, images: jax.Array, frozen: PyTree
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The reconstruction loss and its terms, weighted."""
    weights = self.run.reconstruct
    error = output - images
    terms = {
      'l1': weights.l1 * jnp.mean(jnp.abs(error)),
      'l2': weights.l2 * jnp.mean(jnp.square(error)),
    }
    if weights.perceptual.backbone and weights.perceptual.weight:
      distance = jnp.mean(self._distance(images, output, frozen))
      terms['perceptual'] = weights.perceptual.weight * distance
    return sum(terms.values(), start=jnp.float32(0)), terms

  @jax.named_scope('perceptual')
  def _distance(
    self, images: jax.Array, output: jax.Array, frozen: PyTree
  ) -> Float[Array, ' B']:
    """Perceptual distance of pairs; the gradient is the second's alone."""
    spec = self.run.reconstruct.perceptual
    network = backbones.perceptual_network(spec)
    assert network is not None
    side = spec.resolution or images.shape[1]

    def prepare(x: jax.Array) -> jax.Array:
      shape = (x.shape[0], side, side, 3)
      if x.shape != shape:
        x = jax.image.resize(x, shape, 'bilinear')
      return 127.5 * (x + 1)

    return network.distance(
      frozen['perceptual'], prepare(images), prepare(output)
    )

  def _adversarial(
    self,
    adversary: Adversary,
    params: PyTree,
    state: ReconstructState,
    frozen: PyTree,
    images: jax.Array,
    output: jax.Array,
    to_last_layer: ToLastLayer,
    rng: jax.Array,
  ) -> tuple[jax.Array, dict[str, jax.Array], PyTree, dict[str, jax.Array]]:
    """Both networks' losses in one, terms, the new state, and metrics."""
    updates = state.updates
    fixed = jax.lax.stop_gradient(output)
    backbone = frozen.get(DISCRIMINATOR, {})
    weights, discriminator = adversary.discriminator.prepare(
      params[DISCRIMINATOR], state.discriminator
    )
    (pixels, terms), of_pixels = jax.value_and_grad(
      self._pixel_loss, has_aux=True
    )(fixed, images, frozen)
    against, of_adversary = jax.value_and_grad(adversary.generator_loss)(
      fixed, weights, backbone, updates, rngs.stream(rng, 'generator')
    )
    scale, metrics = adversary.weight(updates), {}
    if adversary.spec.adaptive:
      metrics['adaptive_weight'] = adaptive.adaptive_weight(
        to_last_layer, of_pixels, of_adversary
      )
      scale *= metrics['adaptive_weight']
    loss = adaptive.attach(
      output, pixels + scale * against, of_pixels + scale * of_adversary
    )
    told, more = adversary.discriminator_loss(
      weights, images, fixed, backbone, updates, rngs.stream(rng, 'told')
    )
    terms = dict(terms, adversarial=scale * against)
    return loss + told, terms, discriminator, metrics | more

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
