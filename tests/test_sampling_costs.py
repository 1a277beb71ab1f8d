"""Passes of a sampler against the forward pass they add up to."""

import dataclasses
import functools

import pytest

from varjax import decode_costs, devices, flops, sampling_costs
from varjax.params import Sequence, parameter_counts
from varjax.spec import ModelSpec, PrecisionSpec, SampleSpec, TokenizerSpec

TOKENIZER = TokenizerSpec()
MODEL = ModelSpec(depth=16, width=1024, heads=16)
PLAIN = SampleSpec(cfg=0)
GUIDED = SampleSpec(cfg=1.5, top_k=900, top_p=0.96)


def _total(field, passes):
  return sum(getattr(one, field) for one in passes)


def _passes(sample, batch=1, **precision):
  return sampling_costs.sampling_passes(
    MODEL, TOKENIZER, batch, sample, PrecisionSpec(**precision)
  )


def test_unguided_passes_add_up_to_one_forward_pass():
  passes = _passes(PLAIN, batch=3)
  work = flops.sampling_flops_per_image(MODEL, TOKENIZER, cfg=False)
  assert _total('flops', passes) == 3 * work.total
  assert _total('rows', passes) == 3 * 680
  assert _total('layers', passes) == 160
  assert [one.name for one in passes][:3] == ['labels', 'step 0', 'step 1']


def test_weights_are_read_once_a_step_in_their_type():
  counts = parameter_counts(MODEL, TOKENIZER)
  for precision, size in (({}, 2), ({'weights': 'int8'}, 1),
                          ({'compute': 'float32'}, 4)):  # fmt: skip
    steps = _passes(GUIDED, **precision)[1:-1]
    read = (counts.linear + counts.head) * size
    assert {one.weight_bytes for one in steps} == {read}


def test_the_cache_is_read_up_to_each_step_and_written_once():
  row = 2 * 16 * 1024 * 2  # keys and values of all layers, bfloat16
  steps = _passes(PLAIN)[1:-1]
  assert [one.cache_bytes // row for one in steps[:4]] == [1, 5, 14, 30]
  small = _passes(PLAIN, cache='int8')[1:-1]
  ratio = small[3].cache_bytes / steps[3].cache_bytes
  assert ratio == pytest.approx((1024 + 16 * 4) / 2048)


def test_guidance_that_ends_early_saves_the_last_rows():
  everywhere, early = (
    _passes(GUIDED),
    _passes(dataclasses.replace(GUIDED, guided=(0, 8))),
  )
  both = {one.name: one for one in everywhere}
  for one in early:
    late = one.name in ('step 8', 'step 9')
    assert one.flops == both[one.name].flops // (2 if late else 1)
  saved = 1 - _total('flops', early[:-1]) / _total('flops', everywhere[:-1])
  assert 0.3 < saved < 0.34  # 425 of 680 positions, of one half of two


def test_guidance_that_begins_late_is_caught_up_with():
  late = _passes(dataclasses.replace(GUIDED, guided=(3, 10)))
  names = [one.name for one in late]
  assert names[4:6] == ['catch up', 'step 3']
  assert late[4].rows == 1 + 4 + 9
  assert late[4].logit_bytes == 0
  # Only the logits of the three steps are saved.
  saved = _total('flops', _passes(GUIDED)) - _total('flops', late)
  assert saved == 2 * 14 * 1024 * 4096


def test_one_image_waits_for_the_weights_and_many_for_products():
  h100 = devices.get('h100')
  floor = 10 * (parameter_counts(MODEL, TOKENIZER).linear) * 2
  floor /= h100.measured_bandwidth
  one = sampling_costs.roofline_s(_passes(GUIDED)[:-1], h100)
  assert floor < one < 1.5 * floor
  many = _passes(GUIDED, batch=256)[:-1]
  products = _total('flops', many) / h100.measured_flops
  assert products <= sampling_costs.roofline_s(many, h100) < 1.2 * products


def test_the_kernel_of_the_filters_moves_a_row_twice_and_is_one_launch():
  ours = _passes(GUIDED, batch=4)
  rows = 4 * 680 * 4096 * 4
  assert _total('filter_bytes', ours) == 2 * rows
  passes = functools.partial(
    sampling_costs.sampling_passes, MODEL, TOKENIZER, 4, kernels=False
  )
  assert _total('filter_bytes', passes(GUIDED)) == 42 * rows
  top_k = dataclasses.replace(GUIDED, top_p=0.0)
  assert _total('filter_bytes', passes(top_k)) == 17 * rows
  launches = _total('launches', ours)
  unfiltered = dataclasses.replace(GUIDED, top_k=0, top_p=0.0)
  assert launches == _total('launches', _passes(unfiltered, batch=4)) + 10
  assert launches < 0.7 * _total('launches', passes(GUIDED))


def test_launches_are_those_of_the_compiled_program():
  # 3856 in XLA's program of one image, 4673 in that of 64 for an H100.
  assert _total('launches', _passes(GUIDED)) == pytest.approx(3856, rel=0.02)
  many = _total('launches', _passes(GUIDED, batch=64))
  assert many == pytest.approx(4673, rel=0.02)


def test_codes_of_a_position_are_passes_of_the_depth_transformer():
  sequence = Sequence((1,) * 6, 1, 3, 7, 6, 0, targets_per_position=4,
                      depth_dim=3)  # fmt: skip
  model = dataclasses.replace(MODEL, depth=3, depth_layers=2)
  passes = sampling_costs.sampling_passes(model, sequence, 5, PLAIN)
  costs = decode_costs.decode_costs(model, sequence, cached=True)
  assert _total('flops', passes) == 5 * costs.flops
  depth = [one for one in passes if 'code' in one.name]
  assert len(depth) == costs.depth_steps == 24
  assert len(passes) == 1 + costs.steps + 24
  counts = parameter_counts(model, sequence)
  assert {one.weight_bytes for one in depth} == {
    2 * (counts.depth + counts.head)
  }
  assert {one.logit_bytes for one in passes if one not in depth} == {0}
  assert depth[3].cache_bytes == 4 * depth[0].cache_bytes
