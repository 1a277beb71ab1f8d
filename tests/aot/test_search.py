"""Candidates, their order, and the search around a fake compiler."""

import dataclasses

from pod_cases import D30, GIB, V5E, compiled
import pytest

from varjax import devices, errors, memory, topology
from varjax.aot import search


def test_candidates_divide_what_they_split():
  found = search.candidates(D30, V5E)
  assert len({c.run for c in found}) == len(found)
  for c in found:
    mesh, parts = c.run.mesh, c.run.optim.accumulate
    assert mesh.data * mesh.fsdp * mesh.tensor == 4
    # 30 heads: at most two groups.
    assert mesh.tensor in (1, 2)
    assert 256 % (mesh.data * mesh.fsdp * parts) == 0
  assert {c.run.model.remat for c in found} == set(memory.REMAT)
  assert max(c.run.optim.accumulate for c in found) == 128


def test_the_fastest_come_first_and_the_hopeless_are_dropped():
  found = search.candidates(D30, V5E)
  times = [c.roofline.middle_s for c in found]
  assert times == sorted(times)
  kept = search.hopeful(found)
  assert 0 < len(kept) < len(found)
  assert all(c.estimate_bytes <= 1.25 * 16 * GIB for c in kept)
  # Without recomputation only a few images at a time have room.
  whole = [c for c in kept if c.run.model.remat == 'none']
  assert all(c.run.optim.accumulate >= 16 for c in whole)


def test_suggestions_stay_below_the_memory_and_reach_larger_slices():
  found = search.suggestions(D30, V5E)
  slices = [c.slice_.count for c in found]
  assert slices == sorted(set(slices))
  assert slices[-1] > 4
  for c in found:
    again = memory.memory_estimate(c.run, c.slice_.count).total
    assert again == c.estimate_bytes <= 0.8 * 16 * GIB
    assert c.run.batch_size == 256
    assert f'--topology {c.slice_}' in c.flags


def test_the_search_ranks_what_fits():
  asked = []

  def ask(run, _):
    asked.append(run)
    if len(asked) == 1:
      return compiled(20 * GIB)
    if len(asked) == 2:
      raise errors.ConfigError('mesh: refused')
    # The third sends so much that it is the slowest.
    return compiled(9 * GIB, sent=1e15 if len(asked) == 3 else 0.0)

  said = []
  found = search.search(D30, V5E, ask, tries=4, say=said.append)
  assert len(asked) == 4
  assert [r.compiled.wire_bytes for r in found] == [0.0, 1e15]
  assert found[0].roofline.step_s < found[1].roofline.step_s
  assert found[1].roofline.bound == 'interconnect'
  assert found[0].roofline.mfu > found[1].roofline.mfu
  assert any('does not fit: 20.00 GiB of 15.75 GiB' in line for line in said)
  assert any('mesh: refused' in line for line in said)
  rows = search.table(found).splitlines()
  assert len(rows) == 3
  assert 'interconnect' in rows[2]


def test_a_batch_that_nothing_divides_is_refused():
  run = dataclasses.replace(D30, batch_size=7)
  with pytest.raises(errors.ConfigError, match='multiple of 4'):
    search.search(run, V5E, None, 1, print)


def test_a_tokenizer_is_not_searched():
  run = dataclasses.replace(D30, task='reconstruct')
  with pytest.raises(errors.ConfigError, match='transformers only'):
    search.candidates(run, V5E)


def test_slices_double_and_parse():
  for name in ('v4', 'v5e', 'v5p', 'v6e', 'h100'):
    device = devices.get(name)
    found = topology.slices(device)
    counts = [s.count for s in found]
    assert counts == [counts[0] * 2**i for i in range(len(counts))]
    assert all(topology.parse(str(s)) == s for s in found)
    assert max(counts) <= device.island
