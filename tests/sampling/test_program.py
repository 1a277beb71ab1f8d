"""What the sampling program of the official VAR consists of: traced only."""

import contextlib
import functools

from flax.core import meta
import gpu_program
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp

from varjax.models.transformer import Transformer
from varjax.models.weights import stored
from varjax.orders import make_order
from varjax.sampling.generator import Generator
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec
from varjax.tokenizers import make_tokenizer

OFFICIAL = SampleSpec(cfg=1.5, top_k=900, top_p=0.96)


@functools.cache
def _traced(batch, keep=None, gpu=False):
  """The jaxpr of labels to images at the official code shapes."""
  spec = TokenizerSpec(ch=32, num_res_blocks=1, compute_dtype='bfloat16')
  # cuDNN, which 'auto' takes on a GPU, need not be installed here.
  backend = 'xla' if gpu else 'auto'
  model_spec = ModelSpec(depth=2, width=32, heads=2, attention=backend)
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
  if keep is not None:
    weights['model'] = jax.eval_shape(
      functools.partial(stored, compute_dtype='bfloat16', kind=keep),
      weights['model'],
    )
  generator = Generator.of(tokenizer, order, model)
  trace = jax.make_jaxpr(functools.partial(generator.draw, OFFICIAL))
  with gpu_program.seen() if gpu else contextlib.nullcontext():
    return trace(weights, jax.ShapeDtypeStruct((batch,), jnp.int32), key).jaxpr


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    if equation.primitive.name == 'pallas_call':
      continue  # What is inside is in registers.
    for inner in jaxprs_in_params(equation.params):
      yield from _equations(inner)


def test_nothing_is_sorted():
  names = {equation.primitive.name for equation in _equations(_traced(2))}
  assert 'dot_general' in names  # The walk sees the inside of loops.
  assert 'argmax' in names
  assert not names & {'sort', 'top_k', 'approx_top_k', 'cumsum'}


def _rounded_kernels(jaxpr):
  """Types from which kernels of a block are converted, inside the layers."""
  width = 32
  kernels = {
    (width, 3, width), (width, width), (width, 4 * width), (4 * width, width)
  }  # fmt: skip
  return {
    equation.invars[0].aval.dtype.name
    for equation in _equations(jaxpr)
    if equation.primitive.name == 'convert_element_type'
    and equation.invars[0].aval.shape in kernels
  }


def test_stored_weights_are_not_rounded_again_in_every_step():
  assert _rounded_kernels(_traced(2)) == {'float32'}
  assert not _rounded_kernels(_traced(2, ''))
  assert _rounded_kernels(_traced(2, 'int8')) == {'int8'}


def test_a_gpu_reads_weights_where_they_lie_and_logits_once():
  program = _traced(1, 'int8', gpu=True)
  assert not _rounded_kernels(program)
  calls = [
    equation.params['name']
    for equation in _equations(program)
    if equation.primitive.name == 'pallas_call'
  ]
  scales, products_of_a_block = 10, 4
  assert calls.count('filter_rows') == scales
  # Beside the blocks, the classifier of each scale, and one of all AdaLN.
  assert calls.count('few_rows') == scales * (products_of_a_block + 1) + 1


def test_no_step_copies_the_cache_of_all_layers():
  # [depth, images and halves, positions, heads, head size]
  whole = (2, 4, 680, 2, 16)
  made = [
    equation.primitive.name
    for equation in _equations(_traced(2, ''))
    for variable in equation.outvars
    if getattr(variable.aval, 'shape', ())[::3] == whole[::3]
    and len(variable.aval.shape) == 5
    and variable.aval.shape[1] == 4
  ]
  steps = 10
  assert made.count('scan') == 2 * steps  # new keys and values alone
  assert made.count('dynamic_update_slice') == 2 * steps
  assert 'slice' not in made
  assert 'concatenate' not in made
