"""`varjax eval` on images, with a feature network of a few numbers."""

import json

import numpy as np
from PIL import Image
import pytest
import random_pipeline
import tiny_network

from varjax import cli, evaluations, features, pipeline

SIDE = 16


pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
  """The tiny network under its own name, and an empty cache."""
  monkeypatch.setitem(features.NETWORKS, 'tiny', lambda _: tiny_network.make())
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path / 'cache'))


def folder(root, n, seed=0, side=SIDE):
  rng = np.random.default_rng(seed)
  root.mkdir()
  for index in range(n):
    small = rng.integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(small).resize((side, side))
    image.save(root / f'{index}.png')
  return root


def run(*argv):
  return cli.main(['eval', '--features', 'tiny', *map(str, argv)])


def test_a_folder_against_another_in_one_command(tmp_path, capsys):
  a, b = folder(tmp_path / 'a', 20), folder(tmp_path / 'b', 25, 1)
  out = tmp_path / 'new' / 'scores.json'
  assert run('--samples', a, '--reference', b, '--out', out) == 0
  shown = capsys.readouterr().out
  assert '20 against 25' in shown
  assert 'tiny-' in shown
  assert 'no score here is an FID' in shown
  found = json.loads(out.read_text())
  assert found['values']['fd_tiny'] > 0
  assert 'fid' not in found['values']
  assert run('--samples', a, '--reference', a, '--out', out) == 0
  assert abs(json.loads(out.read_text())['values']['fd_tiny']) < 1e-6


def test_an_npz_against_a_folder(tmp_path, capsys):
  a = folder(tmp_path / 'a', 12)
  packed = tmp_path / 'a.npz'
  files = sorted(a.iterdir())
  np.savez(packed, arr_0=np.stack([np.asarray(Image.open(f)) for f in files]))
  assert run('--samples', packed, '--reference', a) == 0
  assert 'fd_tiny' in capsys.readouterr().out


def test_too_few_images_are_compared_by_kernel_distance(tmp_path, capsys):
  a, b = folder(tmp_path / 'a', 6), folder(tmp_path / 'b', 9, 1)
  assert run('--samples', a, '--reference', b) == 0
  shown = capsys.readouterr().out
  assert '\nfd_tiny ' not in shown
  assert '\nkd_tiny ' in shown
  assert 'note: fd_tiny is not given' in shown


def test_what_makes_no_sense_is_one_sentence(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folder(tmp_path / 'a', 9)
  folder(tmp_path / 'large', 9, side=20)
  pair = ('--samples', 'a', '--reference', 'a')
  for argv, said in (
    ((), 'nothing to evaluate'),
    (('--samples', 'a'), '--reference: needed'),
    (('--samples', 'a', '--reference', 'large'), 'resize the reference'),
    (('--samples', 'a', '--reference', 'none'), 'does not exist'),
    ((*pair, '--workdir', 'w'), 'one thing to evaluate'),
    ((*pair, '--sweep', 'cfg=1'), '--sweep: needs a run'),
    ((*pair, '--plot', 'x.png'), '--plot: draws'),
    ((*pair, '--splits', '0'), 'at least 1'),
    ((*pair, '--config.seed=1'), 'no meaning beside --reference'),
    ((*pair, '--features', 'none'), 'is unknown; allowed'),
    (('--workdir', 'w', '--sweep', 'cfg=1'), 'need --reference'),
    (('--vae', 'x', '--reference', 'a'), '--vae with --var'),
    (('--vae', 'x', '--var', 'y', '--reference', 'a'), '--samples_dir'),
  ):
    assert run(*argv) == 2, argv
    err = capsys.readouterr().err
    assert said in err, err
    assert len(err.strip().splitlines()) == 1
  assert not list(tmp_path.glob('*.json'))


# --- runs ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def pipe(tmp_path_factory):
  return random_pipeline.make(tmp_path_factory.mktemp('random'))


class FakeSampler:
  """Draws noise that depends on the settings; the real one compiles long."""

  rows = 2

  def __init__(self, settings, *, group, seed):
    self._seed = (seed, int(settings.cfg * 8), settings.top_k, group)

  def __call__(self, index, labels, in_flight=1):
    assert in_flight >= 1
    return np.stack(
      [
        np.random.default_rng((*self._seed, int(i), int(label))).integers(
          0, 256, (SIDE, SIDE, 3), np.uint8
        )
        for i, label in zip(index, labels, strict=True)
      ]
    )


@pytest.fixture
def workdir(pipe, tmp_path, monkeypatch):
  """A claimed folder whose weights are those of `pipe`, at update 7."""
  from varjax import checkpoint

  path = tmp_path / 'w'
  path.mkdir()
  random_pipeline.make(path)
  monkeypatch.setattr(
    pipeline.VarPipeline, 'from_workdir', lambda *_, **__: pipe
  )
  monkeypatch.setattr(checkpoint, 'latest_step', lambda _: 7)
  monkeypatch.setattr(pipe, 'group_sampler', FakeSampler)
  return path


def test_curves_are_resumed_point_by_point(workdir, tmp_path, capsys):
  real = folder(tmp_path / 'real', 12)
  argv = (
    '--workdir', workdir, '--reference', real, '--group', '2', '--top_k', '7',
    '--out', tmp_path / 'curve.json', '--plot', tmp_path / 'curve.png',
  )  # fmt: skip
  assert run(*argv, '--sweep', 'cfg=0,2') == 0
  first = capsys.readouterr()
  assert 'fd_tiny over is_tiny and precision_tiny over recall_tiny' in first.out
  lines = evaluations.read(workdir / 'evaluations.jsonl')
  assert [line.settings['cfg'] for line in lines] == [0, 2]
  assert {line.role for line in lines} == {'sweep'}
  assert lines[0].values != lines[1].values
  assert (lines[0].run_id, lines[0].steps) == ('random', 7)
  assert lines[0].settings['top_k'] == 7
  assert Image.open(tmp_path / 'curve.png').size[0] > 300
  samples = sorted((workdir / 'samples').glob('*.npz'))
  assert len(samples) == 2
  assert np.load(samples[0])['arr_0'].shape == (12, SIDE, SIDE, 3)
  # One more value: what is there is read, not sampled or scored again.
  stamps = [path.stat().st_mtime_ns for path in samples]
  assert run(*argv, '--sweep', 'cfg=0,2,3', '--discard') == 0
  assert [path.stat().st_mtime_ns for path in samples] == stamps
  again = evaluations.read(workdir / 'evaluations.jsonl')
  assert again[:2] == lines
  assert len(again) == 3
  assert sorted((workdir / 'samples').glob('*.npz')) == samples
  points = json.loads((tmp_path / 'curve.json').read_text())
  assert [p['values'] for p in points] == [p.values for p in again]


def test_the_protocol_of_a_run_joins_its_record(workdir, tmp_path, capsys):
  from varjax import records
  from varjax.records import RunRecord

  real = folder(tmp_path / 'real', 12)
  records.append(
    workdir / 'records.jsonl', RunRecord(run_id='random', status='complete')
  )
  assert run('--workdir', workdir, '--reference', real, '--group', '2') == 0
  assert 'samples of run random at update 7' in capsys.readouterr().out
  table = records.load(workdir / 'records.jsonl')
  assert table['fd_tiny'][0] > 0
  assert run('--workdir', workdir, '--reference', real, '--images', '2') == 2
  assert 'fewer than the 3 classes' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['cfg'], 'must be one of'),
    (['seed=1'], 'must be one of'),
    (['cfg=1', 'cfg=2'], 'each once'),
    (['top_k=1.5'], 'of type int'),
    (['top_p=2'], r'\[0, 1\]'),
    (['cfg=-1'], r'\[0, inf\]'),
  ],
)
def test_curves_that_cannot_be(words, said):
  from varjax import errors
  from varjax.scoring import sweep

  with pytest.raises(errors.ConfigError, match=said):
    sweep.parse(words)


# --- rejection ----------------------------------------------------------------


def test_rejection_keeps_the_best_of_its_candidates():
  from varjax import errors
  from varjax.evals.inception_score import log_softmax
  from varjax.scoring.rejection import Rejecter, Rejection
  from varjax.scoring.statistics import Extractor

  network = tiny_network.make()
  extract = Extractor(network, 8)
  pool = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
  asked = []

  def draw(index, labels):
    asked.append((index, labels))
    return pool[index]

  logits = network.apply(network.params, pool).logits
  log_probs = log_softmax(np.asarray(logits)).reshape(20, 3, 5)
  index, labels = np.arange(4, 9), np.arange(4, 9) % 5
  kept = Rejecter(draw, Rejection(3), extract, 5)(index, labels)
  best = [
    log_probs[i, :, label].argmax()
    for i, label in zip(index, labels, strict=True)
  ]
  np.testing.assert_array_equal(kept, pool[index * 3 + np.array(best)])
  np.testing.assert_array_equal(asked[0][0], np.arange(12, 27))
  np.testing.assert_array_equal(asked[0][1], np.repeat(labels, 3))
  sure = Rejecter(draw, Rejection(3, 'confidence'), extract, 2)(index, labels)
  best = log_probs[index].max(2).argmax(1)
  np.testing.assert_array_equal(sure, pool[index * 3 + best])
  with pytest.raises(errors.ConfigError, match='the run has 2 classes, tiny'):
    Rejecter(draw, Rejection(3), extract, 2)
  with pytest.raises(errors.ConfigError, match='nothing to reject'):
    Rejecter(draw, Rejection(1), extract, 5)


def test_sample_50k_rejects(workdir, capsys):
  argv = [
    'sample-50k', '--workdir', str(workdir), '--per_class', '2', '--group',
    '2', '--features', 'tiny', '--reject', '2', '--reject_by', 'confidence',
  ]  # fmt: skip
  assert cli.main([*argv, '--out', str(workdir / 'kept.npz')]) == 0
  assert np.load(workdir / 'kept.npz')['arr_0'].shape == (6, SIDE, SIDE, 3)
  manifest = json.loads((workdir / 'kept.npz.json').read_text())
  assert manifest['rejection'] == {'candidates': 2, 'criterion': 'confidence'}
  assert manifest['classifier'].startswith('tiny-')
  argv = [*argv[:-2], '--out', str(workdir / 'label.npz')]
  assert cli.main(argv) == 2
  assert 'the run has 3 classes' in capsys.readouterr().err
