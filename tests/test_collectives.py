"""Canned HLO text, in the notations of the CPU and TPU compilers."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from varjax import collectives, errors, replica_groups
from varjax.collectives import Array

CPU = """\
HloModule jit__step, is_scheduled=true, num_partitions=8

%add.clone (x.1: f32[], y.1: f32[]) -> f32[] {
  %x.1 = f32[] parameter(0)
  %y.1 = f32[] parameter(1)
  ROOT %add = f32[] add(%x.1, %y.1)
}

%inner_body (p.9: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.9 = (s32[], f32[4]{0}) parameter(0)
  %get.9 = f32[4]{0} get-tuple-element(%p.9), index=1
  %shift = f32[4]{0} collective-permute(%get.9), channel_id=9, source_target_pairs={{0,1},{1,0}}
  ROOT %t.9 = (s32[], f32[4]{0}) tuple(%p.9, %shift)
}

%inner_condition (p.8: (s32[], f32[4])) -> pred[] {
  %p.8 = (s32[], f32[4]{0}) parameter(0)
  %get.8 = s32[] get-tuple-element(%p.8), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%get.8, %limit), direction=LT
}

%body (p.2: (s32[], f32[2,21,16])) -> (s32[], f32[2,21,16]) {
  %p.2 = (s32[], f32[2,21,16]{2,1,0}) parameter(0)
  %all-gather.63 = f32[16,3,8]{2,1,0} all-gather(%slice.1), channel_id=1, replica_groups=[4,2]<=[4,2]T(1,0), dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(_step)/blocks/qkv" stack_frame_id=249}
  %bitcast.1 = f32[16,24]{1,0} bitcast(%all-gather.63)
  %all-reduce.2 = (f32[16]{0}, bf16[8,2]{1,0}, /*index=2*/f32[]) all-reduce(%a, %b, %c), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,2,2]T(1,0,2)) {'axis_0'}, to_apply=%add.clone
  %while.2 = (s32[], f32[4]{0}) while(%t.1), condition=%inner_condition, body=%inner_body
  ROOT %t.2 = (s32[], f32[2,21,16]{2,1,0}) tuple(%p.2, %p.2)
}

%condition (p.3: (s32[], f32[2,21,16])) -> pred[] {
  %p.3 = (s32[], f32[2,21,16]{2,1,0}) parameter(0)
  ROOT %never = pred[] constant(true)
}

ENTRY %main.1_spmd (param: f32[8,8]) -> f32[8,8] {
  %param = f32[8,8]{1,0} parameter(0)
  %while.1 = (s32[], f32[2,21,16]{2,1,0}) while(%t.0), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"16"}}
  %while.3 = (s32[], f32[4]{0}) while(%t.3), condition=%condition, body=%inner_body
  %reduce-scatter.1 = f32[2,8]{1,0} reduce-scatter(%param), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add.clone
  ROOT %all-reduce.1 = f32[8,8]{1,0} all-reduce(%param), replica_groups={}, to_apply=%add.clone
}
"""  # noqa: E501

TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=4, frontend_attributes={}

%region_0 (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[]{:T(256)} parameter(0)
  ROOT %sum = bf16[]{:T(256)} add(%a, %a)
}

%wrapped (w: bf16[64,128]) -> bf16[16,128] {
  %w = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %scatter = bf16[16,128]{1,0:T(8,128)(2,1)} reduce-scatter(%w), replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%region_0
}

%all-reduce-scatter.5 (input: f32[64,128]) -> f32[32,128] {
  %input = f32[64,128]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.7 = f32[64,128]{1,0:T(8,128)} all-reduce(%input), replica_groups={{0,1},{2,3}}, to_apply=%region_0
  ROOT %slice = f32[32,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.7, %i, %j), dynamic_slice_sizes={32,128}
}

ENTRY %main (p: bf16[16,128]) -> bf16[64,128] {
  %p = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather-start = (bf16[16,128]{1,0:T(8,128)(2,1)}, bf16[64,128]{1,0:T(8,128)(2,1)S(1)}) all-gather-start(%p), replica_groups=[1,4]<=[4], dimensions={0}
  %all-gather-done = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} all-gather-done(%all-gather-start)
  %send = (bf16[16,128]{1,0}, bf16[16,128]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p), source_target_pairs={{0,1},{1,2},{2,3}}
  %sent = bf16[16,128]{1,0} collective-permute-done(%send)
  %all-reduce-start.1 = s8[16,128]{1,0:T(8,128)(4,1)} all-reduce-start(%p), replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%region_0
  %rs = ((bf16[64,128]{1,0}), bf16[16,128]{1,0}, u32[]) async-start(%all-gather-done), calls=%wrapped
  %rs-done = bf16[16,128]{1,0} async-done(%rs)
  %fusion.9 = f32[32,128]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.5
  ROOT %out = bf16[64,128]{1,0} copy(%all-gather-done)
}
"""  # noqa: E501


def _by_name(text):
  return {one.name: one for one in collectives.parse(text)}


def test_cpu_text():
  found = _by_name(CPU)
  gather = found['all-gather.63']
  assert gather.kind == 'all-gather'
  assert gather.arrays == (Array('f32', (16, 3, 8)),)
  assert gather.bytes == 16 * 3 * 8 * 4
  assert gather.groups == ((0, 2), (4, 6), (1, 3), (5, 7))
  assert gather.op_name == 'jit(_step)/blocks/qkv'
  assert (gather.trips, gather.bounded) == (16, True)
  combined = found['all-reduce.2']
  assert [a.dtype for a in combined.arrays] == ['f32', 'bf16', 'f32']
  assert combined.bytes == 64 + 32 + 4
  assert combined.groups == ((0, 2), (1, 3), (4, 6), (5, 7))
  everyone = found['all-reduce.1']
  assert everyone.groups == (tuple(range(8)),)
  assert everyone.wire_bytes == 2 * 7 / 8 * 256
  assert found['reduce-scatter.1'].wire_bytes == 3 * 64


def test_loops_multiply_and_say_when_they_are_not_known():
  shifts = [c for c in collectives.parse(CPU) if c.name == 'shift']
  # Inside both loops, 16 * 3; and once in a loop nobody can count.
  assert [(c.trips, c.bounded) for c in shifts] == [(48, True), (1, False)]
  totals = collectives.totals(collectives.parse(CPU))
  assert list(totals) == [
    'all-gather', 'all-reduce', 'reduce-scatter', 'collective-permute',
  ]  # fmt: skip
  assert totals['collective-permute'].count == 49
  assert totals['collective-permute'].bytes == 49 * 16
  assert totals['all-reduce'].bytes == 16 * 100 + 256


def test_tpu_text():
  found = _by_name(TPU)
  assert found['all-gather-start'].arrays == (Array('bf16', (64, 128)),)
  assert found['send'].bytes == 16 * 128 * 2
  assert found['send'].groups == ((0, 1), (1, 2), (2, 3))
  assert found['send'].wire_bytes == found['send'].bytes
  assert found['all-reduce-start.1'].bytes == 16 * 128
  assert found['all-reduce-start.1'].groups == ((0, 2), (1, 3))
  assert found['scatter'].kind == 'reduce-scatter'
  fused = found['all-reduce.7']
  assert (fused.kind, fused.arrays[0].shape) == ('reduce-scatter', (32, 128))
  assert len(found) == 5


def test_text_that_is_no_module_is_refused():
  with pytest.raises(errors.ConfigError, match='no ENTRY'):
    collectives.parse('module @jit_step { func.func public @main() }')


@pytest.mark.parametrize(
  ('text', 'groups'),
  [
    ('{{0,1},{2,3}}, to_apply=%f', ((0, 1), (2, 3))),
    ('{}', ((0, 1, 2, 3),)),
    ('{{0,2,1,3}}', ((0, 2, 1, 3),)),
    ('[2,2]<=[4]', ((0, 1), (2, 3))),
    ('[2,2]<=[2,2]T(1,0)', ((0, 2), (1, 3))),
    ("mesh['x'=2,'y'=2] {'y'}", ((0, 1), (2, 3))),
    ("mesh['x'=2,'y'=2] {'x','y'}", ((0, 1, 2, 3),)),
    ("mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'y'}", ((0, 2), (1, 3))),
    ("mesh['x'=4] {'x':(1)2}", ((0, 2), (1, 3))),
    ("mesh['x'=4] {'x':(2)2}", ((0, 1), (2, 3))),
  ],
)
def test_every_notation_of_groups(text, groups):
  assert replica_groups.parse(text, 4) == groups


def test_an_unknown_notation_is_refused():
  with pytest.raises(errors.ConfigError, match='notation'):
    replica_groups.parse('@groups', 4)


@given(
  st.lists(st.integers(1, 4), min_size=1, max_size=4),
  st.randoms(use_true_random=False),
)
def test_axes_of_a_mesh_partition_its_devices(sizes, random):
  names = [f'a{i}' for i in range(len(sizes))]
  chosen = random.sample(names, random.randint(1, len(names)))
  axes = ','.join(f"'{n}'={s}" for n, s in zip(names, sizes, strict=True))
  over = ','.join(f"'{n}'" for n in chosen)
  count = int(np.prod(sizes))
  groups = replica_groups.parse(f'mesh[{axes}] {{{over}}}', count)
  assert sorted(d for group in groups for d in group) == list(range(count))
  members = np.prod([sizes[names.index(n)] for n in chosen])
  assert {len(group) for group in groups} == {members}
