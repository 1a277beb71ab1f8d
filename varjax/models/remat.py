"""What a block keeps for its backward pass, and what it computes again.

`model.remat` is a key of `POLICIES`. A block names its intermediate values
here; a named policy lists those that it keeps. What the policies cost in
bytes and in repeated work is in `varjax.memory` and `varjax.flops`.

An attention kernel that is differentiated by hand names its output and its
row statistics `ATTENTION` inside its forward rule: only then does a policy
that keeps them spare the second run of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from varjax import errors

QUERY, KEY, VALUE = 'query', 'key', 'value'  # Before normalisation.
ATTENTION = 'attention'  # What the kernel returns and needs again.
PROJECTION = 'projection'
HIDDEN = 'hidden'  # Before the activation of the MLP.
MLP = 'mlp'
SCALE = 'scale'  # Of a tensor in float8: one number, a pass to find again.

Policy = Callable[..., Any]

_names = jax.checkpoint_policies.save_only_these_names
_light = (QUERY, KEY, VALUE, ATTENTION, PROJECTION, HIDDEN, MLP, SCALE)
_slim = tuple(name for name in _light if name != HIDDEN)

POLICIES: dict[str, Policy | None] = {
  'none': None,
  # Every product and the attention: only element-wise work is repeated.
  'light': _names(*_light),
  # Products without batch axes: attention is repeated.
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _names(SCALE)
  ),
  # As light, but the first product of the MLP, the widest, is repeated.
  'slim': _names(*_slim),
  'full': jax.checkpoint_policies.nothing_saveable,
}


def name(x: jax.Array, label: str) -> jax.Array:
  """x, known to the policies as `label`."""
  return checkpoint_name(x, label)


def policy(remat: str) -> Policy | None:
  """The policy of `model.remat`; None keeps everything.

  Raises:
    ConfigError: there is no such policy.
  """
  if remat not in POLICIES:
    raise errors.ConfigError(
      f'model.remat={remat!r}: must be one of {", ".join(POLICIES)}'
    )
  return POLICIES[remat]
