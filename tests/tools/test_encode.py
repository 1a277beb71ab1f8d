"""`varjax encode`: what it says of speed and of the arithmetic."""

import dataclasses
import re
import time

from flax.core import meta
import jax
import numpy as np
import pytest
import tiny

from varjax import cli, errors
from varjax.data import codes, encoding
from varjax.data.speed import Speed
from varjax.evals.agreement import code_agreement
from varjax.tokenizers import artifact, make_tokenizer
from varjax.tools import dry_run, encode
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


def _argv(world, *more):
  return ['encode', '--quiet', '--tokenizer', str(world / 'tok'),
          '--out', str(world / 'codes'),
          '--batch_size', '4', *more]  # fmt: skip


def test_it_tells_and_records_the_speed_and_the_agreement(world, capsys):
  assert cli.main(_argv(world, '--check_fp32', '6')) == 0
  out = capsys.readouterr().out
  assert len(re.findall(r'[\d,]+ images/s after the first batch', out)) == 2
  shares = re.findall(r'([\d.]+)% of the codes of 6 images', out)
  assert len(shares) == 2
  assert all(50 < float(share) <= 100 for share in shares)
  for split, count in (('train', 30), ('validation', 12)):
    (found,) = encoding.read(world / 'codes' / split)
    assert (found.split, found.complete) == (split, True)
    assert (found.images, found.batch_images) == (count, 4)
    assert found.compute_dtype == 'bfloat16'
    assert found.device_kind == jax.devices()[0].device_kind
    assert found.images_per_s > 0
    assert 0 <= found.data_wait <= 1
    assert found.agreement.images == 6
    assert f'{found.agreement.share:.2%}' in out
    assert f'{found.images_per_s:,.0f} images/s' in out
  # It is no part of what the codes are.
  manifest = codes.open_codes(world / 'codes', 'train').manifest
  assert encoding.FILE not in str(manifest)
  assert manifest.content_hash() == manifest.codes_id
  # Everything is there: nothing is encoded, and no rate is made up.
  assert cli.main(_argv(world)) == 0
  out = capsys.readouterr().out
  assert out.count('on record, 30 images') == 1
  assert len(encoding.read(world / 'codes' / 'train')) == 1
  # Another measurement of the same codes.
  assert cli.main(_argv(world, '--splits', 'train', '--check_fp32', '4')) == 0
  capsys.readouterr()
  _, found = encoding.read(world / 'codes' / 'train')
  assert (found.images, found.images_per_s, found.data_wait) == (0, None, None)
  text = encoding.describe(world / 'codes' / 'train')
  assert 'images/s' in text
  assert 'of the codes of 4 images' in text
  run = tiny.var_run(world / 'images', world / 'tok', world / 'codes')
  described = dry_run.describe(run)
  assert re.search(r'codes encoded +30 images in .*; [\d.]+%', described)


def test_a_killed_encode_is_on_record_and_a_refused_one_is_not(
  world, tmp_path, monkeypatch, capsys
):
  argv = _argv(world, '--splits', 'train', '--shard_images', '8')
  argv[argv.index('--out') + 1] = str(tmp_path)
  real, calls = encode._encoder, []

  def dying(*parts):
    call = real(*parts)

    def die(images):
      calls.append(len(images))
      if len(calls) == 5:
        raise KeyboardInterrupt
      return call(images)

    return die

  monkeypatch.setattr(encode, '_encoder', dying)
  with pytest.raises(KeyboardInterrupt):
    encode.main(argv[1:])
  monkeypatch.setattr(encode, '_encoder', real)
  folder = tmp_path / 'train'
  (killed,) = encoding.read(folder)
  assert (killed.complete, killed.images) == (False, 16)
  assert encode.main(argv[1:]) == 0
  _, rest = encoding.read(folder)
  assert (rest.complete, rest.images) == (True, 14)
  assert cli.main([*argv, '--seed', '1']) != 0
  assert 'seed is 0' in capsys.readouterr().err
  assert len(encoding.read(folder)) == 2


@pytest.mark.parametrize(
  'line',
  ['{"schema": 2}', '[]', '{"schema": 1}',
   '{"schema": 1, "agreement": {"images": "6"}}'],
)  # fmt: skip
def test_a_record_that_is_none_is_refused(tmp_path, line):
  (tmp_path / encoding.FILE).write_text(line + '\n')
  with pytest.raises(errors.DataError, match=r'encoding\.jsonl:1: not the'):
    encoding.read(tmp_path)
  assert encoding.read(tmp_path / 'nowhere') == []
  assert encoding.describe(tmp_path / 'nowhere') == ''


def test_the_rate_leaves_out_resumed_images_and_the_first_batch(monkeypatch):
  clock = iter([0.0, 1.0, 5.0, 6.0, 7.0])
  monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
  speed = Speed()
  speed.wait(9.0)
  for done in (100, 110):  # 100 were there, 110 compiled
    speed.update(done)
  assert (speed.images, speed.images_per_s, speed.data_wait) == (10, None, None)
  speed.wait(0.5)
  for done in (120, 130):
    speed.update(done)
  assert (speed.images, speed.images_per_s, speed.data_wait) == (30, 10, 0.25)
  assert str(speed) == (
    '7.0 s, 10 images/s after the first batch (25% of it waiting for images)'
  )


def test_agreement_by_scale():
  spec = CodeSpec(((1, 1), (2, 2)), vocab=4, code_dim=1)
  reference = np.zeros((2, 5, 1), int)
  found = reference.copy()
  found[0, 3] = 1
  np.testing.assert_allclose(
    code_agreement(found, reference, spec), [1, 7 / 8, 9 / 10]
  )
