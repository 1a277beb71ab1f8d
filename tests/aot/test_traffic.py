"""Bytes through memory, counted by hand on text and on compiled loops."""

import jax
import jax.numpy as jnp
import pytest

from varjax import collectives, errors, hlo
from varjax.aot import traffic

# A loop of 5 trips over stacked activations, as the TPU compiler writes it:
# one fusion reads a slice, one updates a slice in place, a copy brings an
# array on chip (S(1)), where reading it is free.
LOOP = """
HloModule jit_update, num_partitions=4

%read (p.0: bf16[5,8,128], p.1: s32[]) -> bf16[8,128] {
  %p.0 = bf16[5,8,128]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %slice.0 = bf16[1,8,128]{2,1,0} dynamic-slice(%p.0, %p.1), dynamic_slice_sizes={1,8,128}
  ROOT %view = bf16[8,128]{1,0} bitcast(%slice.0)
}

%nested (q.0: bf16[5,8,128], q.1: s32[]) -> bf16[8,128] {
  %q.0 = bf16[5,8,128]{2,1,0} parameter(0)
  %q.1 = s32[] parameter(1)
  ROOT %inner = bf16[8,128]{1,0} fusion(%q.0, %q.1), kind=kLoop, calls=%read
}

%write (r.0: bf16[5,8,128], r.1: bf16[8,128], r.2: s32[]) -> (bf16[5,8,128], f32[8]) {
  %r.0 = bf16[5,8,128]{2,1,0} parameter(0)
  %r.1 = bf16[8,128]{1,0} parameter(1)
  %r.2 = s32[] parameter(2)
  %update = bf16[1,8,128]{2,1,0} bitcast(%r.1)
  %stack = bf16[5,8,128]{2,1,0} dynamic-update-slice(%r.0, %update, %r.2)
  %sum = f32[8]{0} negate(%r.1)
  ROOT %both = (bf16[5,8,128]{2,1,0}, f32[8]{0:S(1)}) tuple(%stack, %sum)
}

%body (s: (s32[], bf16[5,8,128])) -> (s32[], bf16[5,8,128]) {
  %s = (s32[], bf16[5,8,128]{2,1,0}) parameter(0)
  %i = s32[]{:S(6)} get-tuple-element(%s), index=0
  %x = bf16[5,8,128]{2,1,0} get-tuple-element(%s), index=1
  %a = bf16[8,128]{1,0} fusion(%x, %i), kind=kLoop, calls=%nested
  %start = (bf16[8,128]{1,0:S(1)}, bf16[8,128]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %done = bf16[8,128]{1,0:S(1)} copy-done(%start)
  %w = (bf16[5,8,128]{2,1,0}, f32[8]{0:S(1)}) fusion(%x, %done, %i), kind=kLoop, calls=%write
  %y = bf16[5,8,128]{2,1,0} get-tuple-element(%w), index=0
  ROOT %t = (s32[], bf16[5,8,128]{2,1,0}) tuple(%i, %y)
}

%condition (c: (s32[], bf16[5,8,128])) -> pred[] {
  %c = (s32[], bf16[5,8,128]{2,1,0}) parameter(0)
  ROOT %lt = pred[] constant(true)
}

ENTRY %main (arg: bf16[5,8,128]) -> f32[8,128] {
  %arg = bf16[5,8,128]{2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %buffer = bf16[5,8,128]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %state = (s32[], bf16[5,8,128]{2,1,0}) tuple(%zero, %arg)
  %loop = (s32[], bf16[5,8,128]{2,1,0}) while(%state), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %end = bf16[5,8,128]{2,1,0} get-tuple-element(%loop), index=1
  ROOT %out = f32[8,128]{1,0} fusion(%end, %zero), kind=kLoop, calls=%nested
}
"""  # noqa: E501 - as a compiler prints it

SLICE = 8 * 128 * 2


def test_a_loop_by_hand():
  read = 2 * SLICE  # a slice in, the slice out
  copy = SLICE  # on chip
  write = SLICE  # in place, from the chip; the sum stays there
  out = SLICE + 8 * 128 * 4
  scalars = 5 * 0 + 4  # the index on chip, and the constant of the last
  expected = 5 * (read + copy + write) + out + scalars
  assert traffic.hbm_bytes(LOOP) == expected


def test_a_fusion_beside_the_others_moves_what_it_would_alone():
  """The CUDA compiler of jax 0.11 copies slices on another stream."""
  arrays = '(bf16[5,8,128]{2,1,0}, f32[8]{0:S(1)})'
  inputs = '(bf16[5,8,128]{2,1,0}, bf16[8,128]{1,0:S(1)}, s32[])'
  at_once = f'%w = {arrays} fusion(%x, %done, %i), kind=kLoop, calls=%write'
  started = (
    f'%ws = ({inputs}, {arrays}, u32[]) fusion-start(%x, %done, %i), '
    f'kind=kLoop, calls=%write\n  %w = {arrays} fusion-done(%ws)'
  )
  assert at_once in LOOP
  text = LOOP.replace(at_once, started)
  assert traffic.hbm_bytes(text) == traffic.hbm_bytes(LOOP)


def test_every_trip_of_a_real_loop_counts():
  def text(trips):
    def body(x, w):
      return jnp.sin(x @ w), None

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    w = jax.ShapeDtypeStruct((trips, 64, 64), jnp.float32)
    run = jax.jit(lambda x, w: jax.lax.scan(body, x, w)[0])
    return run.lower(x, w).compile().as_text()

  few, many = traffic.hbm_bytes(text(4)), traffic.hbm_bytes(text(12))
  one = 64 * 64 * 4
  # At the least: weights, and the carry in and out.
  assert 12 * 3 * one < many < 12 * 12 * one
  assert many / few == pytest.approx(3, rel=0.2)


def test_walk_multiplies_trips_and_sees_fusions_when_asked():
  module = hlo.parse(LOOP)
  trips = {v.line.name: v.trips for v in module.walk()}
  assert trips['w'] == 5
  assert trips['out'] == 1
  assert 'slice.0' not in trips
  inside = [v.trips for v in module.walk(True) if v.line.name == 'slice.0']
  assert inside == [5, 1]


def test_another_text_is_refused():
  with pytest.raises(errors.ConfigError, match='ENTRY'):
    traffic.hbm_bytes('not a program')


# A gather of weights that the TPU compiler cut in three: started in one
# fusion, continued beside a product, ended where it is needed.
PIECES = """
HloModule jit_update, num_partitions=4

%begin (b.0: bf16[2,64]) -> (bf16[2,64], bf16[8,64], u32[]) {
  %b.0 = bf16[2,64]{1,0} parameter(0)
  %g.0 = bf16[8,64]{1,0} all-gather(%b.0), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %started = (bf16[2,64]{1,0}, bf16[8,64]{1,0}, u32[]{:S(2)}) custom-call(%g.0), custom_call_target="AsyncCollectiveStart"
}

%beside (c.0: bf16[2,64], c.1: bf16[8,64], c.2: f32[16]) -> (f32[16], bf16[2,64], bf16[8,64]) {
  %c.0 = bf16[2,64]{1,0} parameter(0)
  %c.1 = bf16[8,64]{1,0} parameter(1)
  %c.2 = f32[16]{0} parameter(2)
  %g.1 = bf16[8,64]{1,0} all-gather(%c.0), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
  %work = f32[16]{0} negate(%c.2)
  ROOT %all = (f32[16]{0}, bf16[2,64]{1,0}, bf16[8,64]{1,0}) tuple(%work, %c.0, %g.1)
}

%end (d.0: bf16[2,64], d.1: bf16[8,64]) -> bf16[8,64] {
  %d.0 = bf16[2,64]{1,0} parameter(0)
  %d.1 = bf16[8,64]{1,0} parameter(1)
  %g.2 = bf16[8,64]{1,0} all-gather(%d.0), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %ended = bf16[8,64]{1,0} custom-call(%d.0, %d.1, %g.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (w: bf16[2,64], x: f32[16]) -> f32[16] {
  %w = bf16[2,64]{1,0} parameter(0)
  %x = f32[16]{0} parameter(1)
  %s = (bf16[2,64]{1,0}, bf16[8,64]{1,0}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%begin
  %s.0 = bf16[2,64]{1,0} get-tuple-element(%s), index=0
  %s.1 = bf16[8,64]{1,0} get-tuple-element(%s), index=1
  %m = (f32[16]{0}, bf16[2,64]{1,0}, bf16[8,64]{1,0}) fusion(%s.0, %s.1, %x), kind=kCustom, calls=%beside
  %m.0 = bf16[2,64]{1,0} get-tuple-element(%m), index=1
  %m.1 = bf16[8,64]{1,0} get-tuple-element(%m), index=2
  %e = bf16[8,64]{1,0} fusion(%m.0, %m.1), kind=kCustom, calls=%end
  ROOT %y = f32[16]{0} get-tuple-element(%m), index=0
}
"""  # noqa: E501 - as a compiler prints it


def test_a_collective_in_pieces_is_one():
  (found,) = collectives.parse(PIECES)
  assert found.kind == 'all-gather'
  assert found.bytes == 8 * 64 * 2
  assert found.wire_bytes == 3 / 4 * 8 * 64 * 2


def test_pieces_move_their_bytes_once():
  gather = (2 + 8) * 64 * 2  # the shard in, the whole out
  work = 2 * 16 * 4
  assert traffic.hbm_bytes(PIECES) == gather + work


# Two kernels that fill one array, [2, 8], the first its half and the second
# the rest, from one array that both take in two parts.
KERNELS = """
HloModule jit_update

ENTRY %main (arg: f32[2,8]) -> f32[2,8] {
  %arg = f32[2,8]{1,0} parameter(0)
  %view = f32[2,8]{1,0} bitcast(%arg)
  %one = (f32[2,8]{1,0}, f32[4]{0}) custom-call(%arg, %view), custom_call_target="__gpu$xla.gpu.triton", api_version=1
  %half = f32[2,8]{1,0} get-tuple-element(%one), index=0
  %sums = f32[4]{0} get-tuple-element(%one), index=1
  ROOT %two = f32[2,8]{1,0} custom-call(%arg, %arg, %sums, /*index=3*/%half), custom_call_target="__gpu$xla.gpu.triton", output_to_operand_aliasing={{}: (3, {})}, api_version=1
}
"""  # noqa: E501


def test_kernels_that_share_an_array_write_it_once():
  one, two = traffic.moves(KERNELS)
  assert one.bytes == 64 + 16
  assert two.bytes == 64 + 16 + 64


# A kernel that multiplies 2 rows with one of 8 layers, and one with 4 of them.
STACKS = """
HloModule jit_sample

ENTRY %main (x: f32[2,4], stack: s8[8,4,4], layer: s32[1], scale: f32[8,4]) -> f32[1,2,4,4] {
  %x = f32[2,4]{1,0} parameter(0)
  %stack = s8[8,4,4]{2,1,0} parameter(1)
  %layer = s32[1]{0} parameter(2)
  %scale = f32[8,4]{1,0} parameter(3)
  %one = f32[1,2,1,4]{3,2,1,0} custom-call(%x, %stack, %layer, %scale), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(f)/few_rows/pallas_call"}
  ROOT %four = f32[1,2,4,4]{3,2,1,0} custom-call(%x, %stack, %layer, %scale), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(f)/few_rows/pallas_call"}
}
"""  # noqa: E501


def test_a_kernel_reads_its_own_layers_of_a_stack():
  one, four = traffic.moves(STACKS)
  rows, number, layer = 2 * 4 * 4, 4, 4 * 4 + 4 * 4
  assert one.bytes == rows + number + layer + 2 * 4 * 4
  assert four.bytes == rows + number + 4 * layer + 2 * 4 * 4 * 4
