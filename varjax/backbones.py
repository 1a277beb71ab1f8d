"""Frozen networks that stage 1 looks through, and their identities.

A perceptual loss and the DINO discriminator read pretrained weights: those
of a package, or of a file that the user names, in its public format. What
they are is part of the run id and of the record.
"""

from __future__ import annotations

import functools
import os

from varjax.discriminators import dino, vit
from varjax.features.base import hash_arrays
from varjax.interop import pth
from varjax.losses.perceptual import PERCEPTUAL, Perceptual
from varjax.spec import AdversarialSpec, PerceptualSpec, RunSpec
from varjax.types import PyTree


@functools.cache
def perceptual_network(spec: PerceptualSpec) -> Perceptual | None:
  """The network of the perceptual loss, None without one.

  Raises:
    CheckpointError: its weights are missing, damaged or hostile.
  """
  if not spec.backbone:
    return None
  return PERCEPTUAL[spec.backbone](os.path.expanduser(spec.weights))


@functools.cache
def discriminator_backbone(spec: AdversarialSpec) -> tuple[PyTree, str]:
  """Weights that the discriminator reads, and their hash; ({}, '') if none.

  Raises:
    CheckpointError: its weights are missing, damaged, hostile, or of
      another transformer.
  """
  if spec.discriminator != 'dino':
    return {}, ''
  state = pth.read_state(os.path.expanduser(spec.weights))
  weights = vit.from_state(state, spec.weights)
  dino.check_backbone(weights, spec.weights)
  return weights, hash_arrays(state)[:12]


def frozen(run: RunSpec) -> dict[str, PyTree]:
  """What a run of stage 1 passes to its task as `frozen`; {} of stage 2."""
  if run.task != 'reconstruct':
    return {}
  network = perceptual_network(run.reconstruct.perceptual)
  weights, _ = discriminator_backbone(run.reconstruct.adversarial)
  found: dict[str, PyTree] = {}
  if network is not None:
    found['perceptual'] = network.params
  if weights:
    found['discriminator'] = weights
  return found


def identities(run: RunSpec) -> dict[str, str]:
  """Which networks a run of stage 1 uses: 'perceptual', 'discriminator'.

  Those that are off, as all are in stage 2, are left out. A discriminator
  without a backbone is its kind alone.

  Raises:
    CheckpointError: weights are missing, damaged or hostile.
  """
  found: dict[str, str] = {}
  if run.task != 'reconstruct':
    return found
  network = perceptual_network(run.reconstruct.perceptual)
  if network is not None:
    found['perceptual'] = network.identity
  kind = run.reconstruct.adversarial.discriminator
  if kind:
    _, digest = discriminator_backbone(run.reconstruct.adversarial)
    found['discriminator'] = f'{kind}-{digest}' if digest else kind
  return found
