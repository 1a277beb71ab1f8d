"""Images are scored during training, at fractions, with the weights in use."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import random_pipeline
import tiny
import tiny_network

from varjax import artifacts, config, errors, evaluations, features, records
from varjax.evals import frechet
from varjax.step import TrainState
from varjax.tokenizers import artifact
from varjax.workdir import Workdir

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.mark.slow
def test_a_tokenizer_is_scored_at_its_fractions(tmp_path, monkeypatch):
  monkeypatch.setitem(features.NETWORKS, 'tiny', lambda _: tiny_network.make())
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path / 'cache'))
  artifacts._extractor.cache_clear()
  run = tiny.tokenizer_run(
    tiny.write_images(tmp_path / 'images'),
    **{'score.fractions': (0.5, 1.0), 'score.features': 'tiny', 'ema': 0.5},
  )
  tiny.run_to_end(run, tmp_path / 'run')
  lines = evaluations.read(tmp_path / 'run' / evaluations.FILE)
  assert [line.steps for line in lines] == [2, 4]
  assert {line.role for line in lines} == {'periodic'}
  assert {line.images for line in lines} == {12}
  # The weights are those of the validation at the same update: averaged.
  curve = records.load_curves(tmp_path / 'run' / 'curves.jsonl')
  for line in lines:
    wanted = curve.loc[curve['steps'] == line.steps, 'val_psnr_db'].iloc[0]
    np.testing.assert_allclose(line.values['psnr_db'], wanted, atol=0.05)
    assert 'rfd_tiny' in line.values
  # They are no result of the run: the table shows none of them.
  table = records.load(tmp_path / 'run' / 'records.jsonl')
  assert 'rfd_tiny' not in table


def test_a_transformer_is_scored_by_samples_of_its_average(
  tmp_path, monkeypatch
):
  network = tiny_network.make()
  monkeypatch.setitem(features.NETWORKS, 'tiny', lambda _: network)
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path / 'cache'))
  artifacts._extractor.cache_clear()
  images, home = tiny.write_images(tmp_path / 'images'), tmp_path / 'run'
  pipe = random_pipeline.make(home)
  run = tiny.var_run(
    images, tmp_path / 'tokenizer', tmp_path / 'codes',
    **{'score.fractions': (1.0,), 'score.features': 'tiny', 'score.images': 14},
  )  # fmt: skip
  weights = jax.device_get(pipe._weights)
  artifact.save(
    run.tokenizer_dir, run.tokenizer, run.data, weights['tokenizer']
  )
  unused = jax.tree.map(np.zeros_like, weights['model'])
  state = TrainState(jnp.int32(6), unused, None, {}, ema=weights['model'])
  artifacts.score_images(run, Workdir(home), 'random', state, 6)

  [line] = evaluations.read(home / evaluations.FILE)
  assert (line.kind, line.role, line.steps) == ('samples', 'periodic', 6)
  assert (line.images, line.reference_images) == (14, 12)
  assert not list((home / 'samples').iterdir())  # they were discarded
  index = np.arange(14)
  sampler = pipe.group_sampler(pipe.settings(), group=16, seed=0)
  files = sorted(images.glob('validation/*/*.png'))
  shown = [np.asarray(Image.open(f).resize((16, 16))) for f in files]
  moments = []
  for pixels in (sampler(index, index % 3), np.stack(shown)):
    seen = np.float64(network.apply(network.params, pixels).pooled)
    moments += [seen.mean(0), np.cov(seen.T)]
  wanted = frechet.distance(*moments)
  assert wanted > 0.01
  # Pillow resizes the references a little differently.
  assert line.values['fd_tiny'] == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize(
  ('values', 'said'),
  [
    ({'score.fractions': (0.0,)}, 'must be shares of the run'),
    ({'score.fractions': (1.5,)}, 'must be shares of the run'),
    ({'score.fractions': (1.0,), 'score.images': 2}, 'must be at least 3'),
  ],
)
def test_scores_that_cannot_be_are_refused(values, said):
  with pytest.raises(errors.ConfigError, match=said):
    tiny._run({'task': 'generate', 'total.steps': 4, **values}, 'images')


def test_scoring_is_no_part_of_a_runs_identity(tmp_path):
  from varjax import identity

  plain = tiny.tokenizer_run(tmp_path)
  scored = tiny.tokenizer_run(tmp_path, **{'score.fractions': (0.5,)})
  assert identity.run_id(plain) == identity.run_id(scored)
  assert config.from_json(config.to_json(scored)) == scored
