"""Images are scored during training, at fractions, with the weights in use."""

import numpy as np
import pytest
import tiny
import tiny_network

from varjax import artifacts, config, errors, evaluations, features, records

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
