"""The real train step from shapes alone, compiled for virtual CPU devices."""

import math
import pathlib

import jax
import pytest
import tiny

from varjax import errors, identity, sharding, topology
from varjax.aot import abstract, compiler, cuda, programs, target
from varjax.aot.request import Request
from varjax.spec import MeshSpec
from varjax.step import TrainState

NOWHERE = pathlib.Path('nowhere')
V5E = topology.parse('v5e:2x4')
H100 = topology.parse('h100:8')


def _run(mesh='1,4,2', **values):
  sizes = dict(zip(('data', 'fsdp', 'tensor'), mesh.split(','), strict=True))
  meshes = {f'mesh.{axis}': int(size) for axis, size in sizes.items()}
  return tiny.var_run(NOWHERE, NOWHERE, NOWHERE, **meshes, **values)


def _local_bytes(tree):
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


@pytest.fixture(scope='module')
def lowered():
  mesh = sharding.make_mesh(MeshSpec(1, 4, 2))
  return programs.train(_run(), mesh)


@pytest.fixture(scope='module')
def result(lowered):
  return compiler.compile_lowered(lowered, V5E)


def test_arguments_are_the_sharded_state_and_batch(lowered, result):
  args, _ = lowered.in_avals
  state = lowered.args_info[0][0]
  assert isinstance(state, TrainState)
  run = _run()
  mesh = sharding.make_mesh(run.mesh)
  inputs = abstract.frozen(run, mesh), abstract.batch(run, mesh)
  whole = sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(args)
  )
  memory = result.memory
  assert _local_bytes(inputs) < memory.arguments < whole
  # The donated state comes back in place.
  assert 0 < memory.alias <= memory.outputs <= memory.arguments
  assert result.used_bytes == memory.peak >= memory.arguments


def test_what_is_sharded_is_gathered_and_reduced(result):
  assert result.fits
  assert result.bounded
  assert result.refusal == ''
  assert result.collectives['all-gather'].count > 0
  reduced = {'all-reduce', 'reduce-scatter'} & set(result.collectives)
  assert reduced
  assert result.wire_bytes > 0
  assert set(result.versions) == {'jax', 'jaxlib', 'libtpu'}


def test_abstract_images_and_tokenizers():
  mesh = sharding.make_mesh(MeshSpec(-1, 1, 1))
  run = _run('-1,1,1', input='images')
  assert abstract.batch(run, mesh)['image'].shape == (8, 16, 16, 3)
  whole = abstract.frozen(run, mesh)['tokenizer']
  assert {'encoder', 'decoder', 'quantizer'} <= set(whole)
  stage_1 = tiny.tokenizer_run(NOWHERE)
  assert abstract.frozen(stage_1, mesh) == {}
  seeing = tiny.tokenizer_run(
    NOWHERE, **{'reconstruct.perceptual.backbone': 'efflite0'}
  )
  assert set(abstract.frozen(seeing, mesh)) == {'perceptual'}
  assert set(abstract.batch(stage_1, mesh)) == {'image', 'label'}
  with pytest.raises(errors.ConfigError, match='batch_size=6'):
    abstract.batch(_run(batch_size=6), mesh)


def test_one_compile_for_one_program(tmp_path, monkeypatch, lowered, result):
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path))
  monkeypatch.setattr(target, 'devices', lambda _: jax.devices())
  calls = []

  def lower(*_):
    calls.append('lower')
    return lowered, sharding.make_mesh(_run().mesh)

  def compile_lowered(*_):
    calls.append('compile')
    return result

  monkeypatch.setattr(programs, 'lower', lower)
  monkeypatch.setattr(compiler, 'compile_lowered', compile_lowered)
  assert compiler.compiled(Request(_run()), V5E) == result
  assert compiler.compiled(Request(_run()), V5E) == result
  assert calls == ['lower', 'compile']
  # Code that was edited is lowered again; the same program needs no compile.
  monkeypatch.setattr(identity, 'code_version', lambda: 'edited')
  assert compiler.compiled(Request(_run()), V5E) == result
  assert compiler.compiled(Request(_run()), V5E) == result
  assert calls == ['lower', 'compile', 'lower']


class _Refusing:
  """A lowered program whose compiler says `text`."""

  def __init__(self, text):
    self._text = text

  def compile(self, compiler_options):
    assert compiler_options is None
    raise jax.errors.JaxRuntimeError(self._text)


def test_too_much_memory_is_a_result_and_other_errors_are_errors():
  text = 'RESOURCE_EXHAUSTED: Used 20.20G of 15.75G hbm. Exceeded.\nProgram'
  found = compiler.compile_lowered(_Refusing(text), V5E)
  assert not found.fits
  assert found.used_bytes == round(20.20 * 2**30)
  assert found.limit_bytes == round(15.75 * 2**30)
  assert found.refusal == text.splitlines()[0]
  assert found.memory is None
  with pytest.raises(errors.ConfigError, match='INTERNAL: bug'):
    compiler.compile_lowered(_Refusing('INTERNAL: bug\nstack'), V5E)


def test_what_a_gpu_cannot_hold_is_refused_by_its_peak(
  lowered, result, monkeypatch
):
  # Virtual CPU devices know no option of the CUDA compiler.
  monkeypatch.setattr(cuda, 'OPTIONS', {})
  roomy = compiler.compile_lowered(lowered, H100)
  assert roomy.fits
  assert roomy.limit_bytes == cuda.usable_bytes(H100)
  peak = result.used_bytes
  monkeypatch.setattr(cuda, 'usable_bytes', lambda _: peak - 1)
  tight = compiler.compile_lowered(lowered, H100)
  assert not tight.fits
  assert (tight.used_bytes, tight.limit_bytes) == (peak, peak - 1)
  assert cuda.FRACTION in tight.refusal
