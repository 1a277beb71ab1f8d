"""`varjax encode`: what it says of speed and of the arithmetic."""

import dataclasses
import re
import time

from flax.core import meta
import jax
import numpy as np
import pytest
import tiny

from varjax import cli
from varjax.evals.agreement import code_agreement
from varjax.tokenizers import artifact, make_tokenizer
from varjax.tools import encode
from varjax.types import CodeSpec


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """Images, and a random tokenizer that computes in bfloat16."""
  root = tmp_path_factory.mktemp('world')
  run = tiny.tokenizer_run(tiny.write_images(root / 'images'))
  spec = dataclasses.replace(
    run.tokenizer, kind='bsq', scales=(4,), code_dim=4, vocab=4,
    codes_per_position=2, revive_every=0, compute_dtype='bfloat16',
  )  # fmt: skip
  tokenizer = make_tokenizer(spec, 16)
  params = meta.unbox(jax.jit(lambda: tokenizer.init(jax.random.key(0), 16))())
  artifact.save(root / 'tok', spec, run.data, params)
  return root


def test_it_tells_the_speed_and_the_agreement_with_float32(world, capsys):
  argv = ['encode', '--tokenizer', str(world / 'tok'), '--quiet',
          '--out', str(world / 'codes'), '--batch_size', '4',
          '--check_fp32', '6']  # fmt: skip
  assert cli.main(argv) == 0
  out = capsys.readouterr().out
  assert len(re.findall(r'[\d,]+ images/s after the first batch', out)) == 2
  shares = re.findall(r'([\d.]+)% of the codes of 6 images', out)
  assert len(shares) == 2
  assert all(50 < float(share) <= 100 for share in shares)
  # Everything is there: nothing is encoded, and no rate is made up.
  assert cli.main(argv[:-2]) == 0
  out = capsys.readouterr().out
  assert 'images/s' not in out
  assert 'agree' not in out


def test_the_rate_leaves_out_resumed_images_and_the_first_batch(monkeypatch):
  clock = iter([0.0, 1.0, 5.0, 6.0, 7.0])
  monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
  speed = encode._Speed()
  for done in (100, 110, 120, 130):  # 100 were there, 110 compiled
    speed.update(done)
  assert str(speed) == '7.0 s, 10 images/s after the first batch'


def test_agreement_by_scale():
  spec = CodeSpec(((1, 1), (2, 2)), vocab=4, code_dim=1)
  reference = np.zeros((2, 5, 1), int)
  found = reference.copy()
  found[0, 3] = 1
  np.testing.assert_allclose(
    code_agreement(found, reference, spec), [1, 7 / 8, 9 / 10]
  )
