"""`sample`, `sample-50k`, `edit` on a pipeline with random weights."""

import json

import jax
import numpy as np
from PIL import Image
import pytest
import random_pipeline
import tiny_network

from varjax import cli, features, pipeline
from varjax.evals import sheets

SIDE = 16  # of the images; the finest grid is 4


@pytest.fixture(scope='module')
def pipe(tmp_path_factory):
  return random_pipeline.make(tmp_path_factory.mktemp('random'))


@pytest.fixture
def workdir(pipe, tmp_path, monkeypatch):
  """A claimed folder whose weights are those of `pipe`."""
  random_pipeline.make(tmp_path)
  monkeypatch.setattr(
    pipeline.VarPipeline, 'from_workdir', lambda *_, **__: pipe
  )
  return tmp_path


# --- sample-50k ---------------------------------------------------------------


@pytest.fixture(scope='module')
def samplers(pipe):
  """The same sampling on one device and on eight."""
  settings = pipe.settings(top_k=7, top_p=0.9)
  devices = jax.devices()
  assert len(devices) == 8
  return [
    pipe.group_sampler(settings, group=2, seed=4, devices=devices[:n])
    for n in (1, 8)
  ]


def test_images_do_not_depend_on_devices_or_batch(samplers):
  one, eight = samplers
  assert (one.rows, eight.rows) == (2, 16)
  index = np.arange(11)
  images = one(index, index % 3)
  assert images.shape == (11, SIDE, SIDE, 3)
  assert images.dtype == np.uint8
  assert len({x.tobytes() for x in images}) == 11
  np.testing.assert_array_equal(eight(index, index % 3), images)
  np.testing.assert_array_equal(one(index, index % 3, 4), images)
  rest = index[4:]
  np.testing.assert_array_equal(eight(rest, rest % 3), images[4:])


def _bulk(workdir, out, *more):
  return cli.main(
    [
      'sample-50k', '--workdir', str(workdir), '--out', str(workdir / out),
      '--per_class', '4', '--top_k', '7', '--top_p', '0.9', '--seed', '4',
      '--group', '2', *more,
    ]
  )  # fmt: skip


def test_command_writes_every_class_alike(samplers, workdir, capsys):
  assert _bulk(workdir, 'a.npz') == 0
  assert '12 images of run random at update 0' in capsys.readouterr().out
  images = np.load(workdir / 'a.npz')['arr_0']
  index = np.arange(12)
  np.testing.assert_array_equal(images, samplers[0](index, index % 3))
  manifest = json.loads((workdir / 'a.npz.json').read_text())
  assert manifest['weights'] == 'run random at update 0'
  assert (manifest['cfg'], manifest['top_k'], manifest['images']) == (
    1.5,
    7,
    12,
  )
  # Another batch size is the same set of images, so nothing is left to do.
  assert _bulk(workdir, 'a.npz', '--batch_size', '3') == 0
  assert 'are already in' in capsys.readouterr().out
  assert _bulk(workdir, 'a.npz', '--cfg', '2') == 2
  assert 'cfg=1.5 there, 2.0 here' in capsys.readouterr().err
  assert _bulk(workdir, 'b.npz', '--batch_size', '3') == 0
  assert (workdir / 'a.npz').read_bytes() == (workdir / 'b.npz').read_bytes()


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (['--out', 'x.npy'], 'must end in .npz'),
    (['--out', 'x.npz', '--per_class', '0'], '--per_class=0'),
    (['--out', 'x.npz', '--classes', '4'], 'the run has 3 classes'),
    (['--out', 'x.npz', '--seed', '-1'], '--seed=-1'),
  ],
)
def test_bad_sets_are_one_sentence(workdir, argv, said, capsys, monkeypatch):
  monkeypatch.chdir(workdir)
  assert cli.main(['sample-50k', '--workdir', '.', *argv]) == 2
  err = capsys.readouterr().err
  assert said in err
  assert len(err.strip().splitlines()) == 1
  assert not list(workdir.glob('x.*'))


# --- sample -------------------------------------------------------------------


def _grid(*more):
  argv = ['sample', '--workdir', '.', '--out', 'grid.png', '--columns', '1']
  return cli.main([*argv, '--labels', '2,0', *more])


@pytest.mark.usefixtures('workdir')
def test_sample_keeps_what_the_classifier_prefers(pipe, monkeypatch):
  network = tiny_network.make()
  monkeypatch.setitem(features.NETWORKS, 'tiny', lambda _: network)
  kept = ('--reject', '3', '--reject_by', 'confidence', '--features', 'tiny')
  assert _grid(*kept, '--batch_size', '6') == 0
  grid = np.asarray(Image.open('grid.png'))
  candidates = pipe.sample_batches(np.repeat([2, 0], 3), 0, 6)
  pixels = np.round(255 * candidates).astype(np.uint8)
  logits = network.apply(network.params, pixels).logits
  best = jax.nn.softmax(logits).max(-1).reshape(2, 3).argmax(1)
  assert list(best) != [0, 0]  # else keeping the first would pass
  sheets.image_grid(candidates[[best[0], 3 + best[1]]], 'wanted.png', 1)
  np.testing.assert_array_equal(grid, np.asarray(Image.open('wanted.png')))


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (('--reject', '0'), '--reject=0: must be at least 1'),
    (('--repeat', '0'), '--repeat=0: must be at least 1'),
    (('--reject', '2'), 'only the criterion confidence'),
    (('--reject', '2', '--labels', '-1'), 'no classifier knows "no class"'),
  ],
)
def test_bad_samples_are_one_sentence(workdir, argv, said, capsys, monkeypatch):
  monkeypatch.setitem(
    features.NETWORKS, 'efflite0', lambda _: tiny_network.make()
  )
  assert _grid(*argv) == 2
  assert said in capsys.readouterr().err
  assert not (workdir / 'grid.png').exists()


# --- edit ---------------------------------------------------------------------


@pytest.fixture
def picture(workdir):
  """A path to a random image of the run's own size, and its pixels."""
  pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
  Image.fromarray(pixels).save(workdir / 'in.png')
  return workdir / 'in.png', pixels


def _edit(workdir, *more):
  argv = ['edit', '--workdir', str(workdir), '--image', 'in.png']
  return cli.main([*argv, '--out', 'out.png', *more])


def _result(workdir):
  return np.asarray(Image.open(workdir / 'out.png'))


@pytest.fixture(autouse=True)
def _inside(request, monkeypatch):
  if 'workdir' in request.fixturenames:
    monkeypatch.chdir(request.getfixturevalue('workdir'))


def test_box_is_the_official_call(pipe, workdir, picture, capsys):
  box = ('--box', '0.25,0.25,0.75,1')
  assert _edit(workdir, '--mode', 'inpaint', *box, '--seed', '5') == 0
  assert 'inpaint by run random' in capsys.readouterr().out
  keep = np.ones((4, 4), np.float32)
  keep[1:3, 1:] = 0
  images, _ = pipe.edit(
    picture[1][None].astype(np.float32) / 127.5 - 1,
    np.asarray([-1]),
    keep,
    jax.random.key(5),
    cfg=3.0,
    top_k=900,
    top_p=0.95,
    smooth=True,
  )
  expected = np.round(np.asarray(images[0]) * 255).astype(np.uint8)
  np.testing.assert_array_equal(_result(workdir), expected)


def test_masks_blends_classes_and_scales(pipe, workdir, picture):
  inside = np.zeros((SIDE, SIDE), np.uint8)
  inside[4:8, 8:12] = 255
  Image.fromarray(inside).save(workdir / 'mask.png')
  results = {}
  for name, argv in {
    'box': ('--mode', 'inpaint', '--box', '0.25,0.5,0.5,0.75'),
    'mask': ('--mode', 'inpaint', '--mask', 'mask.png'),
    'class': ('--mode', 'class', '--box', '0,0,1,1', '--label', '2'),
    'none': ('--mode', 'inpaint', '--box', '0,0,1,1'),
    'out': ('--mode', 'outpaint', '--mask', 'mask.png'),
    'blend': ('--mode', 'inpaint', '--mask', 'mask.png', '--blend', '2'),
    'hard': ('--mode', 'outpaint', '--mask', 'mask.png', '--blend', '0'),
    'all': ('--mode', 'superres', '--keep_scales', '3'),
    'coarse': ('--mode', 'superres', '--keep_scales', '1'),
  }.items():
    assert _edit(workdir, *argv) == 0
    results[name] = _result(workdir)
  np.testing.assert_array_equal(results['box'], results['mask'])
  assert np.any(results['class'] != results['none'])
  assert np.any(results['out'] != results['mask'])
  # Two pixels from the mask on, the blended image is the given one.
  pixels = picture[1]
  far = np.ones((SIDE, SIDE), bool)
  far[1:11, 5:15] = False
  np.testing.assert_array_equal(results['blend'][far], pixels[far])
  white = inside > 0
  np.testing.assert_array_equal(results['blend'][white], results['mask'][white])
  np.testing.assert_array_equal(results['hard'][white], pixels[white])
  np.testing.assert_array_equal(results['hard'][~white], results['out'][~white])
  images = pixels[None].astype(np.float32) / 127.5 - 1
  rebuilt = (np.asarray(pipe.decode(pipe.encode(images)))[0] + 1) * 127.5
  np.testing.assert_allclose(results['all'], rebuilt, atol=1)
  assert np.any(results['coarse'] != results['all'])


def test_other_sizes_are_cropped_alike(workdir, picture):
  image = Image.open(picture[0])
  wide = Image.new('RGB', (2 * SIDE, SIDE), 'red')
  wide.paste(image, (SIDE // 2, 0))
  wide.save(workdir / 'in.png')
  mask = Image.new('L', wide.size, 0)
  mask.paste(255, (SIDE, 4, SIDE + 8, 8))
  mask.save(workdir / 'mask.png')
  argv = ('--mode', 'inpaint', '--mask', 'mask.png')
  assert _edit(workdir, *argv) == 0
  cropped = _result(workdir)
  image.save(workdir / 'in.png')
  assert _edit(workdir, '--mode', 'inpaint', '--box', '.25,.5,.5,1') == 0
  np.testing.assert_array_equal(cropped, _result(workdir))


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (('--mode', 'inpaint'), 'needs --mask or --box'),
    (('--mode', 'inpaint', '--box', '0,0,1'), 'must be four numbers'),
    (('--mode', 'inpaint', '--box', '.5,0,.2,1'), '0 <= start < end <= 1'),
    (('--mode', 'class', '--box', '0,0,.5,1'), 'needs --label'),
    (('--mode', 'inpaint', '--box', '0,0,1,1', '--label', '3'), '0..2, or -1'),
    (('--mode', 'superres', '--blend', '3'), '--blend: has no meaning'),
    (('--mode', 'superres', '--keep_scales', '4'), 'must be in 0..3'),
    (('--mode', 'inpaint', '--mask', 'small.png'), 'must be 16 x 16'),
    (('--mode', 'inpaint', '--mask', 'text.png'), 'not a readable image'),
    (('--mode', 'inpaint', '--mask', 'none.png'), 'No such file'),
    (('--mode', 'inpaint', '--box', '0,0,1,1', '--blend', '-2'), '--blend=-2'),
  ],
)
def test_bad_edits_are_one_sentence(workdir, picture, argv, said, capsys):
  assert picture[0].exists()
  Image.new('L', (3, 5)).save(workdir / 'small.png')
  (workdir / 'text.png').write_text('not an image')
  assert _edit(workdir, *argv) == 2
  err = capsys.readouterr().err
  assert said in err
  assert len(err.strip().splitlines()) == 1
  assert not (workdir / 'out.png').exists()
