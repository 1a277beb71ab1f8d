"""The profile of a compiled update, from its text and from a real one."""

import pathlib

import pytest
import tiny

from varjax import sharding, topology
from varjax.aot import compiler, parts, programs, traffic
from varjax.aot.parts import Part
from varjax.spec import MeshSpec

NOWHERE = pathlib.Path('nowhere')

FORWARD = 'jit(update)/jvp(Transformer)/while/body'
BACKWARD = 'jit(update)/transpose(jvp(Transformer))'
AGAIN = f'{BACKWARD}/while/body/checkpoint/rematted_computation'


def _line(name, opcode, operands, path, dtype='bf16'):
  return (
    f'  %{name} = {dtype}[64,64]{{1,0}} {opcode}({operands}), '
    f'metadata={{op_name="{path}"}}'
  )


SAMPLED = 'jit(draw)/Transformer.classify/head.step/head._classify/logits'
WRAPPED = (
  ('jvp(encoder)/Encoder/down_0_block_1/norm1/norm1._moments/mul', 'forward',
   'encoder/down_0/norm1/moments'),
  ('transpose(jvp(decoder))/Decoder/mid_attn_1/qkv/dot', 'backward',
   'decoder/mid_attn_1/qkv'),
  ('transpose(jvp(discriminator))/while/body/blocks/mlp/add', 'backward',
   'discriminator/blocks/mlp'),
  ('quantizer/quantizer/nearest/cond/branch_0_fun/argmax', 'update',
   'quantizer/nearest'),
  ('draw/vmap(jit(_gumbel))/jit(_uniform)/vmap()/slice', 'update', 'draw'),
  ('Transformer._run/while/body/closed_call/Block/mlp/fc1/few_rows/pallas_call',
   'update', 'blocks/mlp/fc1/few_rows'),
)  # fmt: skip

TEXT = '\n'.join(
  (
    'HloModule jit_update',
    '',
    'ENTRY %main (x: bf16[64,64], w: bf16[64,64]) -> f32[64,64] {',
    '  %x = bf16[64,64]{1,0} parameter(0)',
    '  %w = bf16[64,64]{1,0} parameter(1)',
    _line(
      'p', 'custom-call', '%x, %w', f'{FORWARD}/blocks/mlp/fc1/ab,bc->ac/d'
    ),
    _line('g', 'negate', '%p', f'{FORWARD}/blocks/mlp/mul'),
    _line('r', 'negate', '%g', f'{AGAIN}/blocks/attention/attention._unit/mul'),
    _line('b', 'negate', '%r', f'{BACKWARD}/head/logits/reduce_sum'),
    _line('s', 'negate', '%b', f'{FORWARD}/jit(index)/dynamic_update_slice'),
    _line('u', 'negate', '%s', 'jit(update)/add', 'f32'),
    '  ROOT %v = f32[64,64]{1,0} copy(%u)',
    '}',
  )
)


def test_paths_say_which_part_and_which_pass():
  once = 2 * 64 * 64
  assert set(parts.parts(TEXT)) == {
    Part('forward', 'blocks/mlp/fc1', 'product', 3 * once, 1),
    Part('forward', 'blocks/mlp', 'element-wise', 2 * once, 1),
    Part('recompute', 'blocks/attention/unit', 'element-wise', 2 * once, 1),
    Part('backward', 'head/logits', 'element-wise', 2 * once, 1),
    Part('forward', 'scan', 'element-wise', 2 * once, 1),
    Part('update', 'other', 'element-wise', 3 * once + 4 * once, 2),
  }  # fmt: skip
  sizes = [part.bytes for part in parts.parts(TEXT)]
  assert sizes == sorted(sizes, reverse=True)
  assert sum(sizes) == traffic.hbm_bytes(TEXT)


@pytest.mark.parametrize(('path', 'step', 'place'), WRAPPED)
def test_what_jax_puts_into_a_path_is_taken_out(path, step, place):
  text = TEXT.replace('jit(update)/add', f'jit(update)/{path}')
  (found,) = (p for p in parts.parts(text) if p.place == place)
  assert found.step == step


def test_a_fusion_around_a_product_is_one():
  text = TEXT.replace(
    'ENTRY', '%fused (a: bf16[64,64]) -> bf16[64,64] {\n'
    '  %a = bf16[64,64]{1,0} parameter(0)\n'
    '  ROOT %n = bf16[64,64]{1,0} negate(%a)\n}\n\nENTRY'
  ).replace('negate(%p)', 'fusion(%p), kind=kOutput, calls=%fused')  # fmt: skip
  kinds = {p.place: p.kind for p in parts.parts(text)}
  assert kinds['blocks/mlp'] == 'product'
  assert kinds['blocks/attention/unit'] == 'element-wise'


def test_without_training_all_is_forward():
  text = TEXT.replace('jit(update)/add', f'{SAMPLED}/dot_general')
  found = parts.parts(text, is_training=False)
  assert {part.step for part in found} == {'forward'}
  assert 'head/classify/logits' in {part.place for part in found}
  whole = parts.summed(found)
  assert whole[0].place == 'blocks'
  assert {part.place for part in whole} == {'blocks', 'head', 'scan', 'other'}
  assert sum(part.bytes for part in whole) == traffic.hbm_bytes(text)
  assert sum(part.launches for part in whole) == 7


def test_the_table_sums_up_what_it_does_not_list():
  text = parts.table(parts.parts(TEXT), most=2)
  assert text.splitlines()[1].split()[:2] == ['update', 'other']
  assert '4 more' in text.splitlines()[-1]
  shares = [float(line.split(' %')[0].split()[-1])
            for line in text.splitlines()[1:]]  # fmt: skip
  assert sum(shares) == pytest.approx(100, abs=0.2)


def test_a_real_update_has_every_part():
  run = tiny.var_run(NOWHERE, NOWHERE, NOWHERE, **{'model.remat': 'full'})
  lowered = programs.train(run, sharding.make_mesh(MeshSpec(-1, 1, 1)))
  found = compiler.compile_lowered(lowered, topology.parse('v5e:2x4'))
  seen = {(part.step, part.place) for part in found.parts}
  for step in ('forward', 'recompute', 'backward'):
    places = ' '.join(place for one, place in seen if one == step)
    assert 'blocks/attention' in places, step
    assert 'blocks/mlp' in places, step
  assert any(step == 'update' for step, _ in seen)
  assert found.hbm_bytes == sum(part.bytes for part in found.parts)
