"""Tiny transformers with random weights under any order."""

import dataclasses
import functools

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np

from varjax.evals import nll
from varjax.models.transformer import Transformer
from varjax.orders.base import Order
from varjax.spec import ModelSpec, OrderSpec, RunSpec, TokenizerSpec
from varjax.tasks.generate import GenerateTask
from varjax.tokenizers import msvq, rq
from varjax.tokenizers.base import Quantizer
from varjax.types import Example, PyTree

MODEL = ModelSpec(
  depth=2, width=8, heads=2, num_classes=3, compute_dtype='float32'
)


@dataclasses.dataclass(frozen=True)
class World:
  """A transformer of one order, its weights, and a quantizer."""

  order: Order
  model: Transformer
  params: PyTree
  quantizer: Quantizer

  def logits(self, example: Example, labels=None) -> jax.Array:
    """Teacher-forced logits of an example."""
    batch = example.targets.shape[0]
    labels = jnp.zeros(batch, jnp.int32) if labels is None else labels
    return self.model.apply(
      {'params': self.params},
      labels,
      example.inputs,
      example.positions,
      example.steps,
      origins=example.origins,
      sums=example.sums,
    )

  def nats(self, example: Example, labels=None) -> jax.Array:
    """Weighted nats of each row [B, L]."""
    logits = self.logits(example, labels)
    return nll.cross_entropy(logits, example.targets) * example.weights


def world(
  order: OrderSpec,
  spec: TokenizerSpec,
  model: ModelSpec = MODEL,
  scale: float = 0.5,
) -> World:
  """Weights depend on shapes and their order alone."""
  task = GenerateTask(RunSpec(order=order, tokenizer=spec, model=model))
  rng = np.random.default_rng(0)

  def draw(x):
    return jnp.asarray(rng.normal(0, scale, x.shape), jnp.float32)

  shapes, _ = jax.eval_shape(task.init, jax.random.key(0))
  params = jax.tree.map(draw, meta.unbox(shapes))
  return World(task.order, task.model, params, quantizer(spec))


def quantizer(spec: TokenizerSpec) -> Quantizer:
  """A quantizer with random weights."""
  rng = np.random.default_rng(1)
  dim = spec.code_dim
  if spec.kind == 'rq':
    table = jnp.asarray(rng.normal(0, 1, (spec.vocab, dim)), jnp.float32)
    return rq.ResidualQuantizer.bind(spec, {'embedding': table})
  return msvq.Quantizer(
    jnp.asarray(rng.normal(0, 1, (spec.vocab, dim)), jnp.float32),
    jnp.asarray(rng.normal(0, 0.3, (2, 3, 3, dim, dim)), jnp.float32),
    jnp.asarray(rng.normal(0, 0.3, (2, dim)), jnp.float32),
    grids=spec.grids,
    phi_count=2,
  )


@functools.cache
def keys(count: int, same: bool = False) -> jax.Array:
  """A key per image, different ones or all the same."""
  key = jax.random.key(5)
  if same:
    return jnp.broadcast_to(key, (count,))
  return jax.random.split(key, count)
