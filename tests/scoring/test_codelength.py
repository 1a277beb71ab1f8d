"""Bits per dimension of a whole model, on a tokenizer of known behaviour."""

import dataclasses
import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from varjax import errors
from varjax.evals import bits
from varjax.evaluate import Evaluation
from varjax.scoring import codelength
from varjax.tokenizers.artifact import TrainedTokenizer
from varjax.types import CodeSpec


@dataclasses.dataclass(frozen=True)
class Means:
  """A tokenizer whose one code is the mean grey of the image, V = 256."""

  code_spec = CodeSpec(grids=((1, 1),), vocab=256, code_dim=1)

  def encode(self, params, images):
    grey = (images.mean((1, 2, 3)) + 1) * params['half']
    return jnp.round(grey)[:, None, None]

  def decode(self, params, codes):
    grey = codes[:, :, :, None] / params['half'] - 1
    return jnp.broadcast_to(grey, (len(codes), 16, 16, 3))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  root = tiny.write_images(tmp_path_factory.mktemp('images'))
  run = tiny.tokenizer_run(root)
  params = {'half': np.float32(127.5)}
  return run, TrainedTokenizer(
    Means(), params, 'means', run.tokenizer, run.data
  )


def test_a_tokenizer_alone_pays_for_every_code(trained):
  _, means = trained
  found = codelength.of_tokenizer(means)
  assert found.codes == pytest.approx(8 / (16 * 16 * 3))
  assert found.prior == 'uniform'
  assert found.images == 12
  # The same by hand, with the fit to the training split.
  train = codelength._spread(means, 512)
  assert len(train[0]) == 30
  residual = bits.fit(*train)
  pairs = list(codelength._pairs(means, 'validation'))
  lengths = np.concatenate([residual.bits(*pair) for pair in pairs])
  assert found.residual == pytest.approx(lengths.mean() / 768)
  assert found.error == pytest.approx(lengths.std(ddof=1) / math.sqrt(12) / 768)
  assert found.residual < 8


def test_a_prior_pays_for_its_nats(trained):
  run, means = trained
  run = dataclasses.replace(run, task='generate')
  positions = 21  # 1 + 4 + 16

  def evaluation(images):
    mean = {'loss': np.array(2.0)}
    return Evaluation(mean, {'loss': np.array(0.1)}, {}, images, 0.0)

  found = codelength.of_run(run, means, evaluation(12))
  alone = codelength.of_tokenizer(means)
  dims = 768 * math.log(2)
  assert found.codes == pytest.approx(2.0 * positions / dims)
  assert found.residual == alone.residual
  assert found.error == pytest.approx(alone.error + 0.1 * positions / dims)
  assert found.label == pytest.approx(math.log2(3) / 768)
  assert found.prior == 'exact'
  with pytest.raises(errors.DataError, match='evaluated on 11 images'):
    codelength.of_run(run, means, evaluation(11))


def test_a_surrogate_bounds_nothing(trained, monkeypatch):
  run, means = trained
  order = SimpleNamespace(loss_kind='surrogate')
  monkeypatch.setattr(codelength, 'make_order', lambda *_: order)
  with pytest.raises(errors.ConfigError, match='bounds no likelihood'):
    codelength.of_run(run, means, None)
