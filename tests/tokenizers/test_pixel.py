"""Pixels and palettes as codes: nothing lost, the nearest colour, the tool."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import cli, config, flops
from varjax.errors import ConfigError
from varjax.spec import DataSpec, TokenizerSpec
from varjax.tokenizers import artifact, make_tokenizer
from varjax.tokenizers.pixel import fit_palette

PIXEL = TokenizerSpec(
  'pixel', vocab=256, codes_per_position=3, scales=(8,), ch_mult=(1,)
)
PALETTE = TokenizerSpec('palette', vocab=5, scales=(8,), ch_mult=(1,))
BYTES = np.arange(256, dtype=np.uint8)
IMAGES = np.random.default_rng(0).permutation(np.repeat(BYTES, 3))
IMAGES = IMAGES.reshape(4, 8, 8, 3)


def test_pixels_lose_nothing():
  tokenizer = make_tokenizer(PIXEL, 8)
  images = jnp.asarray(IMAGES, jnp.float32) / 127.5 - 1
  codes = tokenizer.encode({}, images)
  assert codes.shape == (4, 64, 3)
  np.testing.assert_array_equal(codes.reshape(IMAGES.shape), IMAGES)
  back = (np.asarray(tokenizer.decode({}, codes)) + 1) * 127.5
  np.testing.assert_array_equal(np.round(back), IMAGES)


def test_a_palette_gives_the_nearest_colour():
  tokenizer = make_tokenizer(PALETTE, 8)
  palette = np.random.default_rng(1).uniform(-1, 1, (5, 3)).astype(np.float32)
  images = IMAGES.astype(np.float32) / 127.5 - 1
  codes = tokenizer.encode({'palette': palette}, jnp.asarray(images))
  away = ((images[..., None, :] - palette) ** 2).sum(-1)
  np.testing.assert_array_equal(codes[..., 0], away.argmin(-1).reshape(4, 64))
  shown = tokenizer.decode({'palette': palette}, codes)
  np.testing.assert_array_equal(shown, palette[away.argmin(-1)])
  assert jax.eval_shape(tokenizer.init, jax.random.key(0), 8)[
    'palette'
  ].shape == (5, 3)


def test_k_means_finds_planted_colours():
  rng = np.random.default_rng(2)
  colours = np.asarray([[0, 0, 0], [250, 10, 10], [20, 20, 240]])
  picked = colours[rng.integers(0, 3, (6, 8, 8))]
  noisy = np.clip(picked + rng.integers(-4, 5, picked.shape), 0, 255)
  found = (fit_palette(noisy.astype(np.uint8), 3, seed=0) + 1) * 127.5
  away = np.abs(found[:, None] - colours[None]).max(-1).min(0)
  assert (away < 3).all()


@pytest.mark.parametrize(
  ('spec', 'changes', 'key'),
  [
    (PIXEL, {'vocab': 255}, 'tokenizer.vocab'),
    (PIXEL, {'codes_per_position': 1}, 'tokenizer.codes_per_position'),
    (PALETTE, {'ch_mult': (1, 1)}, 'tokenizer.ch_mult'),
    (PALETTE, {'codes_per_position': 3}, 'tokenizer.codes_per_position'),
    (PALETTE, {'scales': (4, 8)}, 'tokenizer.scales'),
  ],
)
def test_impossible_pixels_are_refused(spec, changes, key):
  with pytest.raises(ConfigError, match=key):
    make_tokenizer(dataclasses.replace(spec, **changes), 8)


def test_pixels_cost_what_their_palette_costs():
  assert flops.tokenizer_parameter_counts(PIXEL).total == 0
  assert flops.tokenizer_parameter_counts(PALETTE).total == 15
  assert flops.tokenizer_flops_per_image(PIXEL, 'encode') == 0
  assert flops.tokenizer_flops_per_image(PALETTE, 'encode') == 64 * 2 * 3 * 5
  assert flops.tokenizer_flops_per_image(PALETTE, 'decode') == 0


def test_a_pixel_tokenizer_is_an_artifact_like_any_other(tmp_path):
  artifact.save(tmp_path, PIXEL, DataSpec(resolution=8), {})
  trained = artifact.load(tmp_path)
  assert trained.spec == PIXEL
  assert trained.tokenizer.encode(trained.params, jnp.zeros((1, 8, 8, 3))).shape


def test_the_tool_writes_a_palette_and_refuses_networks(tmp_path, capsys):
  experiment = tmp_path / 'palette.py'
  experiment.write_text(
    'from varjax import config\n'
    'def get_config(arg=None):\n'
    '  made = config.default_config()\n'
    '  made.data.resolution = 16\n'
    "  made.tokenizer.kind = arg or 'palette'\n"
    '  made.tokenizer.vocab = 6\n'
    '  made.tokenizer.ch_mult = (1,)\n'
    '  made.tokenizer.scales = (16,)\n'
    "  made.order.name = 'raster'\n"
    '  return made\n'
  )
  out = tmp_path / 'colours'
  call = ['pixel-tokenizer', '--workdir', str(out), '--images', '12']
  assert cli.main([*call, '--config', str(experiment)]) == 0
  palette = artifact.load(out).params['palette']
  assert palette.shape == (6, 3)
  assert np.abs(palette).max() <= 1
  fewer = ['--config', str(experiment), '--config.tokenizer.vocab=4']
  assert cli.main([*call, *fewer]) == 0
  assert artifact.load(out).params['palette'].shape == (4, 3)
  assert cli.main([*call, '--config', f'{experiment}:vq']) == 2
  assert 'tokenizer.kind' in capsys.readouterr().err
  trains = config.override(
    config.load(str(experiment)), {'task': 'reconstruct', 'total.steps': 1}
  )
  with pytest.raises(ConfigError, match='nothing to train'):
    config.to_spec(trains)
