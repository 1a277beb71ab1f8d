"""What the sampling program of the official VAR consists of: traced only."""

import functools

from flax.core import meta
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp

from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.pipeline import VarPipeline
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec
from varjax.tokenizers import make_tokenizer

OFFICIAL = SampleSpec(cfg=1.5, top_k=900, top_p=0.96)


@functools.cache
def _traced(batch, settings=OFFICIAL):
  """The jaxpr of labels to images at the official code shapes."""
  spec = TokenizerSpec(ch=32, num_res_blocks=1, compute_dtype='bfloat16')
  model_spec = ModelSpec(depth=2, width=32, heads=2)
  tokenizer = make_tokenizer(spec, 256)
  order = make_order(OrderSpec(), spec)
  model = Transformer(model_spec, order.layout)
  inputs = jnp.zeros((1, order.layout.positions - 1, spec.code_dim))
  label, key = jnp.zeros(1, jnp.int32), jax.random.key(0)
  weights = {
    'tokenizer': meta.unbox(jax.eval_shape(lambda: tokenizer.init(key, 256))),
    'model': meta.unbox(jax.eval_shape(model.init, key, label, inputs))[
      'params'
    ],
  }
  pipe = VarPipeline(tokenizer, {}, order, model, {})
  return jax.make_jaxpr(functools.partial(pipe._draw, settings))(
    weights, jax.ShapeDtypeStruct((batch,), jnp.int32), key
  ).jaxpr


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jaxprs_in_params(equation.params):
      yield from _equations(inner)


def test_nothing_is_sorted():
  names = {equation.primitive.name for equation in _equations(_traced(2))}
  assert 'dot_general' in names  # The walk sees the inside of loops.
  assert 'argmax' in names
  assert not names & {'sort', 'top_k', 'approx_top_k', 'cumsum'}
