"""Samplers and tokenizers from shapes alone are the programs that run."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
import random_pipeline
import tiny

from varjax import errors, topology
from varjax.aot import compiler, programs
from varjax.aot.request import Request
from varjax.spec import PrecisionSpec
from varjax.tokenizers import make_tokenizer
from varjax.tools import encode as encode_tool

NOWHERE = pathlib.Path('nowhere')
V5E = topology.parse('v5e:2x4')


def _run(**values):
  return tiny.var_run(NOWHERE, NOWHERE, NOWHERE, **values)


def _lower(program, images, run=None, **precision):
  request = Request(run or _run(), program, images, PrecisionSpec(**precision))
  request.check()
  lowered, mesh = programs.lower(request, jax.devices())
  assert mesh.devices.size == 1
  return lowered


def _operations(lowered):
  """The program without numbers of values and placements on a mesh."""
  text = re.sub(r' ?\{sdy\.sharding = #sdy\.sharding<[^>]*>\}', '',
                lowered.as_text())  # fmt: skip
  return [
    re.sub(r'%\w+', '%', line)
    for line in text.splitlines()
    if 'sdy.' not in line
  ]


@pytest.fixture(scope='module')
def pipe(tmp_path_factory):
  return random_pipeline.make(tmp_path_factory.mktemp('pipe'))


def test_the_sampler_is_the_pipelines(pipe):
  keys = jax.random.split(jax.random.key(0), 2)
  program = pipe._sampler(pipe.settings(guided=(0, 2), cfg=1.5))
  labels = jnp.zeros(2, jnp.int32)
  real = program.lower(pipe._weights, labels, keys, None, None)
  run = _run(**{'sample.guided': (0, 2), 'sample.cfg': 1.5})
  found = _operations(_lower('sample', 2, run))
  assert found == _operations(real)
  assert len(found) > 1000


def test_the_decoder_is_the_pipelines(pipe):
  codes = jnp.zeros((3, 21, 1), jnp.int32)
  real = pipe._decode.lower(pipe._weights, codes)
  found, wanted = _operations(_lower('decode', 3)), _operations(real)
  # The name of the function, and of its weights, are all that differs.
  assert found[1:] == wanted[1:]


def test_the_encoder_is_that_of_the_command():
  tokenizer = make_tokenizer(_run().tokenizer, 16)
  params = jax.eval_shape(lambda: programs._weights(tokenizer, _run()))
  images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)
  real = encode_tool._encoder(tokenizer, params).func.lower(params, images)
  assert _operations(_lower('encode', 4)) == _operations(real)


def test_choices_of_precision_are_in_the_program():
  stored = _lower('sample', 2, weights='int8', cache='int8').as_text()
  # A kernel of the blocks, and keys of both halves of two images.
  assert 'tensor<2x16x64xi8>' in stored
  assert 'tensor<2x4x21x2x8xi8>' in stored
  half = _lower('decode', 2, compute='bfloat16').as_text()
  assert re.search(r'stablehlo.convolution.*xbf16>', half)
  assert 'bf16' not in _lower('decode', 2).as_text()


@pytest.mark.parametrize(
  ('program', 'roots'),
  [
    ('encode', {'encoder', 'quantizer'}),
    ('decode', {'decoder', 'quantizer'}),
    pytest.param(
      'sample',
      {'decoder', 'quantizer', 'blocks', 'head', 'filters', 'draw'},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_every_part_of_a_program_is_named(program, roots):
  run = _run(**{'sample.cfg': 1.5, 'sample.top_k': 4})
  found = compiler.compile_lowered(_lower(program, 2, run), V5E, False)
  assert found.fits
  assert found.collectives == {}
  assert roots <= {part.root for part in found.parts}
  assert {part.step for part in found.parts} == {'forward'}
  assert found.launches > 0
  lost = sum(part.bytes for part in found.parts if part.root == 'other')
  assert lost < 0.1 * found.hbm_bytes
  # Levels, not blocks, are told apart, and each layer of them.
  places = {part.place for part in found.parts}
  assert not any('_block_' in place and 'mid' not in place for place in places)


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_stage_1_is_an_update_like_any_other():
  run = tiny.tokenizer_run(NOWHERE)
  lowered, mesh = programs.lower(Request(run), jax.devices())
  assert mesh.devices.size == 1
  found = compiler.compile_lowered(lowered, V5E)
  seen = {(part.step, part.root) for part in found.parts}
  for root in ('encoder', 'decoder'):
    assert {('forward', root), ('backward', root)} <= seen
  assert found.memory.alias > 0  # The donated state.


@pytest.mark.parametrize(
  ('request_', 'message'),
  [
    (Request(_run(), 'score'), 'must be one of train, sample'),
    (Request(_run(), 'train', 4), 'config.batch_size'),
    (Request(_run(), 'sample', -1), 'at least 1'),
    (Request(tiny.tokenizer_run(NOWHERE), 'sample'), 'task generate'),
    (
      Request(_run(), 'sample', precision=PrecisionSpec(weights='int4')),
      'weights',
    ),
  ],
)
def test_what_no_command_runs_is_refused(request_, message):
  with pytest.raises(errors.ConfigError, match=message):
    request_.check()


def test_weights_of_the_shapes_that_samplers_keep(pipe):
  real = jax.tree.map(lambda x: (x.shape, x.dtype), pipe._weights)
  request = Request(_run(), 'sample')
  mesh = programs.sharding.make_mesh(programs.MeshSpec(), jax.devices()[:1])
  _, (weights, labels, keys) = programs.sample(request, mesh)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), weights) == real
  assert labels.shape == keys.shape == (32,)
  assert jax.dtypes.issubdtype(keys.dtype, jax.dtypes.prng_key)
