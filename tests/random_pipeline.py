"""A pipeline with random weights and a workdir that names it: no training."""

import pathlib

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.pipeline import VarPipeline
from varjax.tokenizers import make_tokenizer
from varjax.workdir import Workdir


def make(root: pathlib.Path) -> VarPipeline:
  """Claims `root` for a tiny run and returns a pipeline of its specs."""
  run = tiny.var_run(root / 'images', root / 'tokenizer', root / 'codes')
  Workdir(root).claim(run, 'random')
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  order = make_order(run.order, run.tokenizer)
  model = Transformer(run.model, order.layout)
  rng = np.random.default_rng(0)

  def draw(x):
    fan_in = np.prod(x.shape[:-1]) if len(x.shape) > 1 else 16
    noise = rng.normal(0, 1 / np.sqrt(fan_in), x.shape)
    return jnp.asarray(noise, jnp.float32)

  def weights(init, *args):
    return jax.tree.map(draw, meta.unbox(jax.eval_shape(init, *args)))

  key, label = jax.random.key(0), jnp.zeros(1, jnp.int32)
  layout = order.layout
  inputs = jnp.zeros((1, layout.positions - layout.start, layout.input_dim))
  params = weights(lambda: model.init({'params': key}, label, inputs)['params'])
  return VarPipeline(
    tokenizer,
    weights(lambda: tokenizer.init(key, run.data.resolution)),
    order,
    model,
    params,
    defaults=run.sample,
    label='run random at update 0',
  )
