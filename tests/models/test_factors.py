"""A factorised head: bijection, normalisation, the same task and sampler."""

import dataclasses

from flax.core import meta
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors, params
from varjax.evals import nll
from varjax.models import factors
from varjax.orders import sequence_of
from varjax.sampling import loop
from varjax.spec import (
  DataSpec,
  ModelSpec,
  OrderSpec,
  RunSpec,
  SampleSpec,
  TokenizerSpec,
)
from varjax.tasks.generate import GenerateTask
from varjax.tokenizers import make_tokenizer
from varjax.validation import validate

VOCAB, FACTORS = 16, 2
RUN = RunSpec(
  data=DataSpec(resolution=4),
  order=OrderSpec(name='raster'),
  tokenizer=TokenizerSpec(
    kind='bsq', ch=4, ch_mult=(1, 1), num_res_blocks=1, norm_groups=2,
    attention=False, code_dim=4, vocab=VOCAB, scales=(2,),
  ),
  model=ModelSpec(
    depth=1, width=8, heads=2, num_classes=3, compute_dtype='float32',
    head_factors=FACTORS,
  ),
)  # fmt: skip


@hypothesis.given(st.integers(2, 9), st.integers(1, 4), st.data())
@hypothesis.settings(deadline=None, max_examples=8)
def test_digits_are_a_bijection(base, count, data):
  codes = data.draw(
    st.lists(st.integers(0, base**count - 1), min_size=6, max_size=6)
  )
  codes = jnp.asarray(codes, jnp.int32).reshape(1, 3, 2)
  digits = factors.split(codes, base**count, count)
  assert digits.shape == (1, 3, 2 * count)
  assert int(digits.max()) < base
  np.testing.assert_array_equal(factors.join(digits, base**count, count), codes)


def test_probabilities_of_all_codes_sum_to_one():
  """And the loss is minus the log of their product over the sub-tokens."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(1, 1, FACTORS, 4)) * 2, jnp.float32)
  every = jnp.arange(VOCAB)[:, None, None]
  digits = factors.split(every, VOCAB, FACTORS)
  repeated = jnp.broadcast_to(logits, (VOCAB, 1, FACTORS, 4))
  nats = nll.cross_entropy(repeated, digits)
  np.testing.assert_allclose(jnp.sum(jnp.exp(-nats)), 1, rtol=1e-5)
  share = np.exp(logits[0, 0]) / np.exp(logits[0, 0]).sum(-1, keepdims=True)
  product = share[0, 13 % 4] * share[1, 13 // 4]
  np.testing.assert_allclose(jnp.exp(-nats[13, 0]), product, rtol=1e-5)


def test_a_code_is_wrong_if_one_of_its_digits_is():
  logits = jax.nn.one_hot(jnp.asarray([[[1, 2, 0, 3]]]), 4)
  targets = jnp.asarray([[[1, 2, 1, 3]]])
  np.testing.assert_allclose(nll.wrong(logits, targets), [[1 / 4]])
  np.testing.assert_allclose(nll.wrong(logits, targets, 2), [[1 / 2]])


@pytest.fixture(scope='module')
def world():
  task = GenerateTask(RUN)
  shapes = meta.unbox(jax.eval_shape(task.init, jax.random.key(0))[0])
  rng = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32), shapes
  )
  codes = jnp.asarray(rng.integers(0, VOCAB, (3, 4, 1)), jnp.int32)
  quantizer = make_tokenizer(RUN.tokenizer, 4).quantizer({})
  return task, weights, quantizer, codes


def test_counts_equal_the_weights(world):
  _, weights, _, _ = world
  sequence = sequence_of(RUN.order, RUN.tokenizer)
  counts = params.parameter_counts(RUN.model, sequence)
  assert counts.total == sum(x.size for x in jax.tree.leaves(weights))
  assert counts.head == (8 + 1) * 2 * 4  # not (8 + 1) * 16


def test_task_and_sampler_agree_on_codes(world):
  task, weights, quantizer, codes = world
  batch = {'codes': codes, 'label': jnp.zeros(3, jnp.int32)}
  frozen = {'quantizer': quantizer}
  sample = jax.jit(
    lambda weights, labels: loop.run(
      task.model, weights, task.order, quantizer, labels, jax.random.key(0),
      SampleSpec(cfg=0),
    )
  )  # fmt: skip
  samples = sample(weights, batch['label'])
  assert samples.codes.shape == codes.shape
  assert int(samples.codes.max()) >= 4  # more than one sub-token can say
  assert int(samples.codes.max()) < VOCAB
  assert samples.logits.shape == (3, 4, FACTORS, 4)
  # The sampler's logits, teacher-forced, give the task's loss of its codes.
  batch['codes'] = samples.codes
  evaluate = jax.jit(lambda w, b: task.eval_fn(w, {}, frozen, b))
  output = evaluate(weights, batch)
  digits = factors.split(samples.codes, VOCAB, FACTORS)
  nats = nll.cross_entropy(samples.logits, digits)
  np.testing.assert_allclose(
    output.per_image['loss'], jnp.mean(nats, 1), rtol=1e-4
  )
  with pytest.raises(errors.ConfigError, match='smooth=True'):
    loop.run(
      task.model, weights, task.order, quantizer, batch['label'],
      jax.random.key(0), SampleSpec(smooth=True),
    )  # fmt: skip


@pytest.mark.parametrize('count', [0, 3])
def test_impossible_factors_are_refused(count):
  model = dataclasses.replace(RUN.model, head_factors=count)
  with pytest.raises(errors.ConfigError, match=r'model\.head_factors'):
    validate(dataclasses.replace(RUN, model=model))


def test_a_single_factor_changes_nothing():
  model = dataclasses.replace(RUN.model, head_factors=1)
  sequence = sequence_of(RUN.order, RUN.tokenizer)
  assert params.head_outputs(model, sequence) == VOCAB
  codes = jnp.arange(6).reshape(1, 3, 2)
  assert factors.split(codes, VOCAB, 1) is codes
