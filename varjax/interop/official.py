"""Official VAR weights as a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from varjax import spec as specs
from varjax.interop import official_vae, official_var
from varjax.interop.infer import infer_config
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.pipeline import VarPipeline
from varjax.tokenizers.autoencoder import Autoencoder

__all__ = ['infer_config', 'pipeline']


def pipeline(
  config: Mapping[str, Any],
  vae_state: Mapping[str, np.ndarray],
  var_state: Mapping[str, np.ndarray],
  *,
  compute_dtype: str = 'float32',
) -> VarPipeline:
  """A pipeline from official state dicts.

  Args:
    config: the constructor arguments of the official classes ('ch', 'V',
      'Cvae', 'patch_nums', 'depth', 'embed_dim', 'num_heads', ...).
    vae_state, var_state: arrays under their official names.
    compute_dtype: of the transformer, 'float32' or 'bfloat16'.

  Raises:
    ConfigError: a key of the config is missing.
    CheckpointError: a tensor is missing, unknown or of another shape.
  """
  tokenizer_spec = official_vae.spec_from_config(config)
  model_spec = official_var.spec_from_config(
    config, compute_dtype=compute_dtype
  )
  order = make_order(specs.OrderSpec(), tokenizer_spec)
  return VarPipeline(
    Autoencoder(tokenizer_spec),
    official_vae.from_official(tokenizer_spec, vae_state),
    order,
    Transformer(model_spec, order.layout),
    official_var.from_official(model_spec, order.layout, var_state),
    label='official weights',
  )
