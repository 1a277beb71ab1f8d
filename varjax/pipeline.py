"""VarPipeline: a tokenizer and a transformer, ready to use.

The interface for people: load from a workdir or from official weights, then
encode, decode, score, sample and edit images. Every method is compiled once
per shape; weights stay on the device and are arguments of the programs.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varjax import checkpoint, errors
from varjax import spec as specs
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.orders.base import Order
from varjax.sampling import by_scale, parallel
from varjax.sampling import edit as editing
from varjax.sampling import settings as settings_lib
from varjax.sampling.generator import Generator
from varjax.tokenizers import artifact
from varjax.tokenizers.base import Tokenizer
from varjax.types import PyTree

_AS_TRAINED = specs.PrecisionSpec()


class VarPipeline:
  """Images to codes and back, likelihoods, samples and edits.

  Attributes:
    tokenizer, order, model: the parts, without weights.
    defaults: guidance and truncation where a call names none.
    precision: types that samples are computed and stored in.
    label: what the weights are, for people ('run 1a2b at update 300').
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    tokenizer_params: PyTree,
    order: Order,
    model: Transformer,
    params: PyTree,
    *,
    defaults: specs.SampleSpec | None = None,
    precision: specs.PrecisionSpec = _AS_TRAINED,
    label: str = '',
  ):
    self._generator = Generator.of(tokenizer, order, model, precision)
    self.tokenizer = tokenizer
    self.order = order
    self.model = self._generator.model
    self.precision = precision
    self.defaults = defaults or specs.SampleSpec()
    self.label = label
    self._weights = jax.device_put(
      self._generator.kept(tokenizer_params, params)
    )

  @classmethod
  def from_workdir(
    cls,
    path: str | os.PathLike[str],
    *,
    tokenizer_dir: str = '',
    precision: specs.PrecisionSpec = _AS_TRAINED,
  ) -> VarPipeline:
    """Loads the newest checkpoint of a `generate` run.

    Args:
      path: workdir of the run.
      tokenizer_dir: where the tokenizer is now; '' uses the run's own path.
      precision: types to compute and store in.

    Raises:
      CheckpointError: not a workdir, no checkpoint, or a run of stage 1.
      DataError: the tokenizer is missing, corrupt, or of another spec.
    """
    # Not at the top: a machine that only samples may lack ml_collections.
    from varjax.workdir import Workdir

    workdir = Workdir(pathlib.Path(path))
    run = workdir.run()
    if run.task != 'generate':
      raise errors.CheckpointError(
        f'{path}: holds a {run.task} run; this needs a generate run'
      )
    trained = artifact.load_of(run, tokenizer_dir, path)
    order = make_order(run.order, trained.spec)
    params = checkpoint.load_weights(workdir.path)
    step = checkpoint.latest_step(workdir.path)
    return cls(
      trained.tokenizer,
      trained.params,
      order,
      Transformer(run.model, order.layout),
      params,
      defaults=run.sample,
      precision=precision,
      label=f'run {workdir.run_id()} at update {step}',
    )

  @classmethod
  def from_official(
    cls,
    vae_path: str | os.PathLike[str],
    var_path: str | os.PathLike[str],
    *,
    patch_nums: Sequence[int | Sequence[int]] | None = None,
    compute_dtype: str = 'float32',
    **given: Any,
  ) -> VarPipeline:
    """Loads the released weights, or any in their format.

    Args:
      vae_path, var_path: .pth, .safetensors or .npz, see `interop.pth`;
        nothing in them is executed.
      patch_nums: the scales, where they cannot be inferred.
      compute_dtype: of the transformer, 'float32' or 'bfloat16'.
      **given: what else cannot be inferred, see `interop.infer`.

    Raises:
      CheckpointError: a file is damaged, or a tensor is missing, unknown or
        of another shape.
      ConfigError: something must be given.
    """
    # These modules build pipelines, so they import this one.
    from varjax.interop import official, pth

    vae = pth.read_state(vae_path, 'vae')
    var = pth.read_state(var_path, 'var')
    config = official.infer_config(vae, var, patch_nums, **given)
    return official.pipeline(config, vae, var, compute_dtype=compute_dtype)

  @property
  def weight_bytes(self) -> int:
    """Of the transformer's weights, as they are kept."""
    return sum(x.nbytes for x in jax.tree.leaves(self._weights['model']))

  @property
  def num_classes(self) -> int:
    """Class labels; the label `num_classes` (or any negative) is "none"."""
    return self.model.spec.num_classes

  @property
  def mixes(self) -> bool:
    """Whether `smooth` sampling is possible: codes have features to mix."""
    layout = self.order.layout
    whole = self.model.spec.head_factors == layout.rounds == 1
    return whole and layout.input_kind == 'features'

  @property
  def grids(self) -> tuple[tuple[int, int], ...]:
    """(height, width) of each scale."""
    return self.tokenizer.code_spec.grids

  def encode(self, images: jax.Array | np.ndarray) -> tuple[jax.Array, ...]:
    """Codes of images.

    Args:
      images: float [B, H, W, 3] in [-1, 1].

    Returns:
      int32 [B, h, w] for each scale.
    """
    codes = self._encode(self._weights, jnp.asarray(images, jnp.float32))
    return by_scale.split(codes, self.tokenizer.code_spec)

  def decode(self, codes: Sequence[jax.Array | np.ndarray]) -> jax.Array:
    """Images [B, H, W, 3] in [-1, 1] of codes as `encode` returns them.

    Raises:
      DataError: scales of another number or shape.
    """
    codes = by_scale.join(codes, self.tokenizer.code_spec)
    return self._decode(self._weights, codes)

  def logits(
    self,
    labels: jax.Array | np.ndarray,
    codes: Sequence[jax.Array | np.ndarray],
  ) -> jax.Array:
    """Teacher-forced logits, float32 [B, L, V], without label drop.

    Args:
      labels: int [B]; negative is "no class".
      codes: int [B, h, w] for each scale.

    Raises:
      ConfigError: the head predicts sub-tokens, not codes.
    """
    if self.model.spec.head_factors > 1:
      raise errors.ConfigError(
        f'model.head_factors={self.model.spec.head_factors}: this model has '
        'logits of sub-tokens, not of whole codes'
      )
    labels = self._labels(labels)
    codes = by_scale.join(codes, self.tokenizer.code_spec)
    return self._logits(self._weights, labels, codes)

  def sample(
    self,
    labels: jax.Array | np.ndarray,
    rng: jax.Array,
    *,
    gumbel: jax.Array | np.ndarray | None = None,
    **settings: Any,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Generates one image per label.

    Args:
      labels: int [B]; negative is "no class".
      rng: one key (image i draws from `fold_in(rng, i)`), or a key for each
        image: then an image does not depend on the batch it is in.
      gumbel: noise [B, L, V] for `smooth`.
      **settings: `cfg`, `top_k` and the other fields of `spec.SampleSpec`;
        what is not named, or None, is as in `defaults`.

    Returns:
      Images float32 [B, H, W, 3] in [0, 1], and the codes as drawn.

    Raises:
      ConfigError: a setting that does not exist or cannot be.
    """
    return self._generate(labels, rng, settings, gumbel, None)

  def edit(
    self,
    images: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    keep_mask: np.ndarray,
    rng: jax.Array,
    *,
    gumbel: jax.Array | np.ndarray | None = None,
    **settings: Any,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Generates what a mask does not keep (VAR section 5.2).

    Args:
      images: float [B, H, W, 3] in [-1, 1].
      labels: int [B]; negative, the official choice for in- and
        out-painting, is "no class".
      keep_mask: [h, w] on the finest grid, 1 where the image is kept; see
        `sampling.edit.box_mask`.
      rng, gumbel, **settings: see `sample`.

    Returns:
      Images float32 [B, H, W, 3] in [0, 1], and the codes that were drawn,
      before the kept ones replaced them.

    Raises:
      ConfigError: the mask is not on the finest grid.
    """
    codes = self._encode(self._weights, jnp.asarray(images, jnp.float32))
    known = editing.known(codes, np.asarray(keep_mask), self.grids)
    return self._generate(labels, rng, settings, gumbel, known)

  def super_resolve(
    self,
    images: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    keep_scales: int,
    rng: jax.Array,
    *,
    gumbel: jax.Array | np.ndarray | None = None,
    **settings: Any,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Keeps the codes of the coarse scales and generates the finer ones.

    Args:
      images: float [B, H, W, 3] in [-1, 1], enlarged to full size.
      labels: int [B]; negative is "no class".
      keep_scales: how many scales are given, in [0, K].
      rng, gumbel, **settings: see `sample`.

    Returns:
      As `edit`.

    Raises:
      ConfigError: there are not so many scales.
    """
    codes = self._encode(self._weights, jnp.asarray(images, jnp.float32))
    known = editing.known_scales(codes, keep_scales, self.grids)
    return self._generate(labels, rng, settings, gumbel, known)

  def sample_batches(
    self,
    labels: np.ndarray,
    seed: int,
    batch_size: int,
    **settings: Any,
  ) -> np.ndarray:
    """Many images in batches; image i depends on `seed` and i alone.

    Returns:
      float32 [n, H, W, 3] in [0, 1].
    """
    key = jax.random.key(seed)
    fold = jax.vmap(functools.partial(jax.random.fold_in, key))
    images = []
    for start in range(0, len(labels), batch_size):
      # The last batch is padded: another shape would compile again.
      index = np.arange(start, start + batch_size)
      part = labels[np.minimum(index, len(labels) - 1)]
      batch, _ = self.sample(part, fold(jnp.asarray(index)), **settings)
      images.append(np.asarray(batch)[: len(labels) - start])
    return np.concatenate(images)

  def settings(self, **changes: Any) -> specs.SampleSpec:
    """The defaults with `changes`; None changes nothing.

    Raises:
      ConfigError: a setting that does not exist, or of another type.
    """
    return settings_lib.changed(self.defaults, changes)

  def group_sampler(
    self,
    settings: specs.SampleSpec,
    *,
    group: int,
    seed: int,
    devices: Sequence[jax.Device] | None = None,
  ) -> parallel.GroupSampler:
    """Samples by image number over several devices; see `GroupSampler`."""

    def draw(weights, labels, keys):
      return self._generator.draw(settings, weights, labels, keys)[0]

    return parallel.GroupSampler(
      draw, self._weights, group=group, seed=seed, devices=devices
    )

  # --- compiled parts -------------------------------------------------------

  @functools.cached_property
  def _encode(self):
    return jax.jit(
      lambda weights, images: self.tokenizer.encode(
        weights['tokenizer'], images
      )
    )

  @functools.cached_property
  def _decode(self):
    return jax.jit(
      lambda weights, codes: self.tokenizer.decode(weights['tokenizer'], codes)
    )

  @functools.cached_property
  def _logits(self):
    def logits(weights, labels, codes):
      quantizer = self.tokenizer.quantizer(weights['tokenizer'])
      keys = jax.random.split(jax.random.key(0), codes.shape[0])
      example = self.order.example(quantizer, codes, keys)
      variables = {'params': weights['model']}
      result = self.model.apply(
        variables,
        labels,
        example.inputs,
        positions=example.positions,
        steps=example.steps,
        origins=example.origins,
      )
      return result[:, :, 0]

    return jax.jit(logits)

  @functools.lru_cache(maxsize=16)  # noqa: B019 - a pipeline lives long
  def _sampler(self, settings: specs.SampleSpec):
    return jax.jit(functools.partial(self._generator.draw, settings))

  def _generate(self, labels, rng, changes, gumbel, known):
    noise = None if gumbel is None else jnp.asarray(gumbel)
    images, codes = self._sampler(self.settings(**changes))(
      self._weights, self._labels(labels), rng, noise, known
    )
    return images, by_scale.split(codes, self.tokenizer.code_spec)

  def _labels(self, labels: jax.Array | np.ndarray) -> jax.Array:
    labels = np.atleast_1d(np.asarray(labels))
    if labels.size and labels.max() > self.num_classes:
      raise errors.DataError(
        f'label {labels.max()}: must be below {self.num_classes}, or '
        'negative for "no class"'
      )
    none = labels < 0
    return jnp.asarray(np.where(none, self.num_classes, labels), jnp.int32)
