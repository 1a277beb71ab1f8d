"""The transformer of stage 2."""

from __future__ import annotations

import dataclasses


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
