"""Blocks of one shape as one module: scanned over depth, or unrolled."""

from __future__ import annotations

from flax import linen as nn

from varjax.models import maps, remat
from varjax.models.block import Block
from varjax.spec import ModelSpec


def stacked(spec: ModelSpec) -> type[Block]:
  """`Block` scanned over depth, with rematerialisation inside.

  Its weights, modulation, rates and prefix have a leading 'layers' axis.

  Raises:
    ConfigError: an unknown `remat`.
  """
  block, policy = Block, remat.policy(spec.remat)
  # Unrolling keeps the stacked weights, so checkpoints are interchangeable.
  unroll = max(spec.unroll, 1) if spec.scan else spec.depth
  if policy is not None:
    block = nn.remat(
      block,
      policy=policy,
      # Inside a scan nothing can merge forward and recomputed products.
      prevent_cse=unroll >= spec.depth,
      static_argnums=(6, 7, 8),
    )
  everywhere = nn.broadcast
  return nn.scan(
    block,
    variable_axes={'params': 0, maps.COLLECTION: 0},
    split_rngs={'params': True, 'drop_path': True},
    in_axes=(0, 0, 0, *(everywhere,) * 6),
    length=spec.depth,
    unroll=unroll,
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )
