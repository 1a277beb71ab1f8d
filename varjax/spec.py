"""Frozen specifications: what a run is, with nothing left to default later.

`config.py` turns an ml_collections ConfigDict into these once, at the
boundary; no other module reads a ConfigDict. No JAX in here, so that
planning, accounting and fitting can use the specs anywhere.

A field marked `identity=False` does not change what the run computes (a
path, a logging interval, a role) and is left out of the run id.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def _not_identity(default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
  """A field that does not take part in the run id."""
  if default is not dataclasses.MISSING:
    kwargs['default'] = default
  return dataclasses.field(metadata={'identity': False}, **kwargs)


def _added(default: Any) -> Any:
  """A field younger than the first trained tokenizers.

  Their ids are hashes of their fields: it takes part where it is set.
  """
  return dataclasses.field(default=default, metadata={'added': True})


@dataclasses.dataclass(frozen=True)
class Duration:
  """A length of training; exactly one field is set (all zero: never).

  Attributes:
    images: images seen, repeats counted.
    steps: optimiser updates.
    epochs: passes over the training split.
    frac: share of the whole run, in [0, 1].
  """

  images: int = 0
  steps: int = 0
  epochs: float = 0.0
  frac: float = 0.0


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Which images, and how they become square crops (official VAR data code).

  Attributes:
    name: 'emoji' (built in), 'folder', 'npz' (images packed into one file),
      or the name of a tfds builder.
    data_dir: folder of class folders, path of the packed file, or the tfds
      data directory ('' uses the tfds default).
    resolution: side of the crop in pixels.
    train_split, val_split: tfds split names, or sub-folders.
    resize_ratio: shorter side is resized to round(ratio * resolution).
    flip: random horizontal flip in training.
    num_classes: classes of the labels; 0 takes the source's own count.
  """

  name: str = 'emoji'
  data_dir: str = _not_identity('')
  resolution: int = 32
  train_split: str = 'train'
  val_split: str = 'validation'
  resize_ratio: float = 1.125
  flip: bool = False
  num_classes: int = 0


@dataclasses.dataclass(frozen=True)
class TokenizerSpec:
  """The image tokenizer: a convolutional autoencoder and a quantizer.

  The defaults are VAR's multi-scale residual VQ-VAE (section 3). What each
  kind reads and requires is in docs/tokenizers.md.

  Attributes:
    kind: the quantizer, key of `tokenizers.TOKENIZERS`.
    ch: base channels of the convolutional encoder and decoder.
    ch_mult: channel multiplier per resolution level; the down-sampling
      factor is 2 ** (len(ch_mult) - 1).
    num_res_blocks: residual blocks per encoder level (decoder: one more).
    norm_groups, norm_eps: GroupNorm.
    dropout: in the residual blocks, training only.
    attention: self-attention at the coarsest level and in the middle.
    code_dim: channels of a code, C (`z_channels`).
    vocab: values of one code, V.
    scales: grid of each scale, an int for a square or (height, width).
    quant_conv_size: kernel of the convolutions around the quantiser.
    phi_ratio: weight of the residual convolution phi, in [0, 1].
    phi_count: phi modules shared over scales; 0 is one per scale.
    znorm: nearest code by cosine instead of Euclidean distance; features
      and codes of kind 'vq' then have unit length.
    commitment: beta, weight of the commitment term.
    usage_decay: decay of the per-scale running code counts.
    official_usage: count usage with upstream's shared-counter quirk.
    revive_every: updates between revivals of unused codes; 0 is never.
    revive_below: a code is dead when its share of recent picks, times V,
      is below this.
    kmeans_updates: after this many updates the codebook is replaced by the
      k-means centres of their features; 0 keeps the random start.
    latent_dim: channels between the network and the convolutions around the
      quantiser (LlamaGen's z_channels); 0 is code_dim.
    codes_per_position: R; several for 'rq', and for 'lfq' and 'bsq', which
      cut the bits of a position into R codes.
    levels: of each channel, for 'fsq'.
    entropy: weight of the entropy penalty, which wants every choice sure and
      all codes used.
    entropy_diversity: weight, inside of it, of the second wish.
    entropy_temperature: of the soft choice, softmax(-distance^2 / this).
    entropy_bits: channels of 'lfq' and 'bsq' whose joint use is measured
      exactly; groups of them count as independent.
    compute_dtype: 'float32' or 'bfloat16', of the network; weights and the
      quantiser are always float32.
  """

  kind: str = 'msvq'
  ch: int = 160
  ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
  num_res_blocks: int = 2
  norm_groups: int = 32
  norm_eps: float = 1e-6
  dropout: float = 0.0
  attention: bool = True
  code_dim: int = 32
  vocab: int = 4096
  scales: tuple[int | tuple[int, int], ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
  quant_conv_size: int = 3
  phi_ratio: float = 0.5
  phi_count: int = 4
  znorm: bool = False
  commitment: float = 0.25
  usage_decay: float = 0.99
  official_usage: bool = False
  revive_every: int = 0
  revive_below: float = 0.1
  kmeans_updates: int = _added(0)
  latent_dim: int = _added(0)
  codes_per_position: int = _added(1)
  levels: tuple[int, ...] = _added(())
  entropy: float = _added(0.0)
  entropy_diversity: float = _added(1.0)
  entropy_temperature: float = _added(0.01)
  entropy_bits: int = _added(1)
  compute_dtype: str = _added('float32')

  @property
  def grids(self) -> tuple[tuple[int, int], ...]:
    """Scales as (height, width) pairs."""
    return tuple((s, s) if isinstance(s, int) else s for s in self.scales)

  @property
  def downsample(self) -> int:
    """Pixels per cell of the finest grid, along each side."""
    return 2 ** (len(self.ch_mult) - 1)

  @property
  def latent_channels(self) -> int:
    """Channels between the network and the quantiser's convolutions."""
    return self.latent_dim or self.code_dim


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


@dataclasses.dataclass(frozen=True)
class PerceptualSpec:
  """The perceptual loss of stage 1, and its metric in evaluations.

  Attributes:
    backbone: key of `losses.perceptual.PERCEPTUAL`; '' is no such loss.
    weights: file with the backbone's weights, for one that ships in no
      package ('lpips_vgg16' also takes two, VGG,LINEAR). Its content, not
      its path, is part of the run id.
    weight: of the loss; 0 only measures the distance.
    resolution: side that images are resized to first; 0 leaves them.
  """

  backbone: str = ''
  weights: str = _not_identity('')
  weight: float = 1.0
  resolution: int = 0


@dataclasses.dataclass(frozen=True)
class AdversarialSpec:
  """The adversarial loss of stage 1 (VQGAN; the authors' trainer vaex).

  Attributes:
    discriminator: key of `discriminators.DISCRIMINATORS`; '' is none.
    weights: file with the weights of the frozen network that 'dino' reads.
      Its content, not its path, is part of the run id.
    ch, layers: width and down-sampling steps of 'patch'.
    weight: of the generator's loss, before the adaptive weight.
    adaptive: also scale it to the size of the reconstruction gradient at
      the last layer of the decoder.
    start: from when on there is an adversarial loss.
    warmup: over which its weight rises from 0.
    blur: over which a blur of the discriminator's input fades; 0 is none.
    translation, colour, cutout: strength of the differentiable augmentation
      of what the discriminator sees; shares of the side, and of 1.
    consistency: weight of the consistency between a strong and a weak
      augmentation.
    optim: of the discriminator; its schedule begins at `start`, and its
      `accumulate` is not read.
  """

  discriminator: str = ''
  weights: str = _not_identity('')
  ch: int = 64
  layers: int = 3
  weight: float = 0.4
  adaptive: bool = True
  start: Duration = Duration(frac=0.2)
  warmup: Duration = Duration(frac=0.02)
  blur: Duration = Duration(frac=0.04)
  translation: float = 0.125
  colour: float = 1.0
  cutout: float = 0.2
  consistency: float = 4.0
  optim: OptimSpec = OptimSpec(
    lr=3e-4,
    schedule='cos',
    warmup=Duration(frac=0.01),
    final=0.3,
    beta1=0.5,
    beta2=0.9,
    weight_decay=5e-4,
    clip_norm=10.0,
  )


@dataclasses.dataclass(frozen=True)
class ReconstructSpec:
  """The stage-1 losses (VAR equation 5).

  Attributes:
    l1, l2: weights of the absolute and the squared error of pixels.
    quantize: weight of the quantiser's loss.
    perceptual, adversarial: further losses, off by default.
  """

  l1: float = 0.2
  l2: float = 1.0
  quantize: float = 1.0
  perceptual: PerceptualSpec = PerceptualSpec()
  adversarial: AdversarialSpec = AdversarialSpec()


@dataclasses.dataclass(frozen=True)
class OrderSpec:
  """In which sequence codes are produced.

  Attributes:
    name: key of `orders.ORDERS`.
    permutation: 'raster', 'coarse' (nested sub-grids first) or 'random', of
      the set-wise order.
    sets: sizes of the sets that a permutation is cut into, in the set-wise
      order; () is one position each.
    context: how the set-wise order shows earlier sets to later ones,
      'shifted' or 'separate'.
    given: positions before the first set that are shown and not predicted.
    splits: sequential sets of each scale, in the split-scale order; () is
      one each.
    mask_ratio: how many positions the masked order hides in training,
      'cosine' or 'uniform'.
    turns: forward passes of the masked order's decoding; temperature: of
      the noise on its confidences.
  """

  name: str = 'scale'
  permutation: str = 'raster'
  sets: tuple[int, ...] = ()
  context: str = 'shifted'
  given: int = 0
  splits: tuple[int, ...] = ()
  mask_ratio: str = 'cosine'
  turns: int = _not_identity(8)
  temperature: float = _not_identity(4.5)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """The transformer (VAR section 3, official code).

  Attributes:
    depth, width, heads, mlp_ratio: layers, D, N, M / D.
    num_classes: class labels; index num_classes is "no class".
    norm: 'adaln' (LayerNorm modulated by the class), 'layernorm' or
      'rmsnorm'; without AdaLN the class is in the start symbols alone.
    mlp: 'gelu', or 'swiglu' with `mlp_ratio` for each of its two halves.
    position: 'learned' table, 'rotary1d' or 'rotary2d'.
    rotary_base: wavelength factor of the rotary positions.
    bias: of the linear layers of the blocks, LayerNorm and classifier.
    head_factors: each code is predicted as this many independent sub-tokens
      of vocab ** (1 / this) values, for large vocabularies; 1 is whole.
    depth_layers: of the transformer over the codes of one position, for an
      order that predicts them one after the other ('residual').
    l2_norm: unit-length queries and keys with a learned per-head scale;
      otherwise the softmax scale is softmax_scale / sqrt(head size).
    softmax_scale: 0.25 is upstream's; everyone else has 1.
    shared_adaln: one AdaLN projection for all blocks plus a per-block table.
    drop_path: rate of the last block; the others rise linearly from 0.
    label_drop: probability that a training label becomes "no class".
    label_drop_in_eval: upstream's quirk, labels are dropped there too.
    label_smoothing: share of the target mass spread over the codebook.
    init_std: standard deviation of the weights; -1 is sqrt(1 / (3 width)).
    init_gamma, init_adaln, init_head: official alng, aln and hd factors.
    compute_dtype: 'float32' or 'bfloat16'; weights are always float32.
    products: type of the products with the blocks' weights while training:
      'compute' (compute_dtype) or 'fp8' (`models.fp8`).
    remat: what a block computes again in its backward pass: 'none',
      'light' (element-wise work), 'dots' (attention too), 'slim' (the first
      product of the MLP), 'full' (everything), or 'auto': the first of these
      that fits the device's memory by the estimate.
    loss_chunks: parts of a sequence whose logits the loss computes one after
      the other; 0 or 1 is all at once.
    scan: one scanned block instead of `depth` unrolled ones: quicker to
      compile, but what a layer keeps is copied into a stack of all layers.
    unroll: layers in one trip of the scan; 0 chooses in training: all, which
      is no scan, on NVIDIA GPUs that hold whole weights, and 1 elsewhere.
    attention: back end, key of `models.attention.BACKENDS`, or 'auto'.
    fused: whether training blocks normalise and sum in `models.fused`'s
      kernels, 'on' or 'off', or 'auto': on an NVIDIA GPU in bfloat16,
      unless they are scanned.
  """

  depth: int = 16
  width: int = 1024
  heads: int = 16
  mlp_ratio: float = 4.0
  num_classes: int = 1000
  norm: str = 'adaln'
  mlp: str = 'gelu'
  position: str = 'learned'
  rotary_base: float = 10_000.0
  bias: bool = True
  head_factors: int = 1
  depth_layers: int = 4
  l2_norm: bool = True
  softmax_scale: float = 0.25
  shared_adaln: bool = False
  drop_path: float = 0.0
  label_drop: float = 0.1
  label_drop_in_eval: bool = False
  label_smoothing: float = 0.0
  init_std: float = -1.0
  init_gamma: float = 1e-3
  init_adaln: float = 0.5
  init_head: float = 0.02
  compute_dtype: str = 'bfloat16'
  products: str = 'compute'
  remat: str = 'none'
  loss_chunks: int = 0
  scan: bool = True
  unroll: int = 0
  attention: str = 'auto'
  fused: str = 'auto'


@dataclasses.dataclass(frozen=True)
class ProgressiveSpec:
  """Coarse scales first, to save compute (official code; off).

  Attributes:
    share: part of the run after which every scale is trained (official pg),
      in [0, 1); 0 trains every scale from the start. Otherwise the learning
      rate follows the schedule `lin<share>`, whatever `optim.schedule` is.
    first: index of the finest scale of the first stage (official pg0).
    fade: over which the loss of a new scale fades in (official pgwp).
  """

  share: float = 0.0
  first: int = 4
  fade: Duration = Duration(frac=1 / 300)


@dataclasses.dataclass(frozen=True)
class MeshSpec:
  """Devices along each mesh axis; one of them may be -1 (what is left)."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1


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


@dataclasses.dataclass(frozen=True)
class ScoreSpec:
  """Scores of images during training; they do not change what it trains.

  Attributes:
    fractions: shares of the run, in (0, 1], after which images are scored,
      through the averaged weights where a run keeps them; () is never.
    images: to sample of a transformer; a tokenizer reconstructs the whole
      validation split.
    features: the feature network, key of `features.NETWORKS`.
    weights: file of its weights, '' where a package brings them.
  """

  fractions: tuple[float, ...] = ()
  images: int = 2048
  features: str = 'efflite0'
  weights: str = ''


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """One training run, completely.

  Attributes:
    task: 'reconstruct' (stage 1, the tokenizer) or 'generate' (stage 2).
    name: a label for people.
    role: 'fit', 'holdout' or 'debug': what the scaling fit may use it for.
    seed: the one seed; every random stream is folded from it.
    total: length of the run.
    batch_size: images per update, over all devices.
    ema: decay of the moving average of the weights that is evaluated and
      sampled from, such as 0.9999; 0 keeps none.
    eval_batch_size: images per evaluation step; 0 uses batch_size.
    input: 'codes' reads the cache, 'images' encodes on the fly
      (reconstruct always reads images).
    tokenizer_dir: workdir of the trained tokenizer (generate).
    codes_dir: code cache written by `varjax encode` (generate, 'codes').
    init_from: workdir whose newest weights the run starts from (generate),
      '' for a random start. The content of those weights, not the path, is
      part of the run id. A class embedding of another number of classes
      starts random; everything else must have the same shape.
    evaluate: interval of evaluations; there is always one after the last
      update.
    checkpoint: interval of checkpoints; there is always one at the end.
    score: when images are scored against the validation split.
    keep_checkpoints: how many to keep.
    data_timeout_s: longest wait for a batch before the run ends with exit
      code 75, so that a launcher tries again; 0 waits for ever.
    data_prefetch: batches that are put on the devices ahead of the update
      that reads them; 0 puts each when it is needed.
    log: interval of logged training metrics.
  """

  task: str = 'generate'
  name: str = _not_identity('')
  role: str = _not_identity('fit')
  seed: int = 0
  total: Duration = Duration(epochs=200.0)
  batch_size: int = 768
  ema: float = 0.0
  eval_batch_size: int = _not_identity(0)
  input: str = 'codes'
  tokenizer_dir: str = _not_identity('')
  codes_dir: str = _not_identity('')
  init_from: str = _not_identity('')
  data: DataSpec = DataSpec()
  tokenizer: TokenizerSpec = TokenizerSpec()
  reconstruct: ReconstructSpec = ReconstructSpec()
  order: OrderSpec = OrderSpec()
  model: ModelSpec = ModelSpec()
  optim: OptimSpec = OptimSpec()
  progressive: ProgressiveSpec = ProgressiveSpec()
  mesh: MeshSpec = _not_identity(MeshSpec())
  sample: SampleSpec = _not_identity(SampleSpec())
  evaluate: Duration = _not_identity(Duration(frac=0.1))
  checkpoint: Duration = _not_identity(Duration(frac=0.1))
  score: ScoreSpec = _not_identity(ScoreSpec())
  keep_checkpoints: int = _not_identity(2)
  data_timeout_s: float = _not_identity(600.0)
  data_prefetch: int = _not_identity(2)
  log: Duration = _not_identity(Duration(steps=50))
