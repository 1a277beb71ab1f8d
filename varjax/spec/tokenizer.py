"""What the symbols are: the tokenizer of every kind."""

from __future__ import annotations

import dataclasses

from varjax.spec.fields import added


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
  kmeans_updates: int = added(0)
  latent_dim: int = added(0)
  codes_per_position: int = added(1)
  levels: tuple[int, ...] = added(())
  entropy: float = added(0.0)
  entropy_diversity: float = added(1.0)
  entropy_temperature: float = added(0.01)
  entropy_bits: int = added(1)
  compute_dtype: str = added('float32')

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
