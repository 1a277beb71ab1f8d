"""Designs: within budget, identifiable, simulated honestly, runnable."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from varjax import cli, config, errors, flops, sweep
from varjax.scaling import design, identify, ladder, proposal, sweep_file

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def sizes():
  family = ladder.of_run(
    dataclasses.replace(proposal.var_family(), batch_size=64)
  )
  depths = range(4, 31, 2)
  return design.SizeList(
    tuple(f'd{d}' for d in depths), tuple(family.run(d) for d in depths)
  )


@pytest.fixture(scope='module')
def law():
  return design.assumed_law()


@pytest.fixture(scope='module')
def cells(law, sizes):
  return design.isoflop(law, sizes, 1e21)


@pytest.fixture(scope='module')
def judged(law, cells):
  return design.judge('isoflop', cells, law)


def test_isoflop_spends_its_budget_at_exact_cost(cells, sizes):
  total = sum(c.flops for c in cells)
  assert 0.8e21 < total <= 1e21
  groups = sorted({c.group for c in cells})
  assert groups == [0, 1, 2, 3, 4]
  for group in groups:
    members = [c for c in cells if c.group == group]
    assert 4 <= len({c.name for c in members}) == len(members)
    # Whole updates: equal but for less than one update of the largest.
    costs = np.array([c.flops for c in members])
    assert costs.max() / costs.min() == pytest.approx(1, abs=0.02)
  for cell in cells:
    run = sizes.runs[sizes.names.index(cell.name)]
    work = flops.train_flops_per_image(run.model, run.tokenizer).total
    assert cell.flops == work * cell.steps * run.batch_size
    assert cell.d == cell.steps * run.batch_size * 680


def test_isoflop_brackets_the_minimum_it_assumes(cells, law, judged):
  inner = 0
  for group in range(5):
    members = sorted((c for c in cells if c.group == group), key=lambda c: c.n)
    losses = [law.loss(c.n, c.d) for c in members]
    inner += 0 < int(np.argmin(losses)) < len(losses) - 1
  edges = sum('at the edge' in w for w in judged.warnings)
  assert inner + edges == 5
  assert inner >= 4


def test_a_design_is_identifiable_and_says_how_well(judged):
  assert 1 < judged.condition < identify.MAX_CONDITION
  for true, low, high in judged.expected.values():
    assert low < true < high
  assert judged.failed < 0.05


def test_intervals_shrink_with_the_noise_and_with_more_runs(cells, law, judged):
  def width(found, name='alpha'):
    _, low, high = found.expected[name]
    return high - low

  quiet = design.judge('isoflop', cells, law, noise=0.001)
  assert width(quiet) < 0.4 * width(judged)
  twice = design.judge('isoflop', [*cells, *cells], law)
  assert width(twice) == pytest.approx(width(judged) / np.sqrt(2), rel=0.25)


def test_simulation_is_reproducible(cells, law, judged):
  assert design.judge('isoflop', cells, law) == judged
  other = design.judge('isoflop', cells, law, seed=1)
  assert other.expected != judged.expected


def test_ladder_at_several_lengths_is_a_grid(law, sizes):
  cells = design.ladder(law, sizes, 1e20, lengths=3, span=16)
  assert len(cells) == 3 * len(sizes.names)
  assert sum(c.flops for c in cells) <= 1e20
  found = design.judge('ladder', cells, law)
  assert found.condition < identify.MAX_CONDITION
  d = sorted({round(np.log2(c.d / cells[0].d)) for c in cells})
  assert d == [0, 2, 4]


def test_designs_that_cannot_be_fitted_are_refused(law, sizes, cells):
  with pytest.raises(identify.ConstantInput, match='one training length'):
    design.ladder(law, sizes, 1e20, lengths=1)
  tied = [dataclasses.replace(c, d=20 * c.n) for c in cells]
  with pytest.raises(identify.TiedInputs):
    design.judge('isoflop', tied, law)
  constant = [dataclasses.replace(c, d=1e10) for c in cells]
  with pytest.raises(identify.ConstantInput):
    design.judge('isoflop', constant, law)
  with pytest.raises(identify.TooFewPoints, match='d4 to d30'):
    design.isoflop(law, sizes, 1e15)
  with pytest.raises(identify.TooFewPoints, match='one update'):
    design.ladder(law, sizes, 1e14)
  few = design.SizeList(sizes.names[:3], sizes.runs[:3])
  with pytest.raises(identify.TooFewPoints, match='3 sizes'):
    design.ladder(law, few, 1e20)


@pytest.mark.parametrize(
  'bad', [{'budget': -1.0}, {'span': 1.0}, {'spread': float('nan')}]
)
def test_bad_numbers_are_refused(law, sizes, bad):
  with pytest.raises(errors.ConfigError):
    design.isoflop(law, sizes, **{'budget': 1e21, **bad})


def test_sweep_file_lists_the_runs(tmp_path, judged):
  template = 'experiments/var_imagenet256.py:size={size}'
  path = tmp_path / 'made.py'
  note = 'a \\ note with """ quotes'
  path.write_text(sweep_file.source(judged, template, note))
  trials = sweep.load(str(path))
  assert len(trials) == len(judged.cells)
  assert len({t['name'] for t in trials}) == len(trials)
  found = {(t['config'], t['total.steps']) for t in trials}
  assert found == {
    (template.replace('{size}', c.name), c.steps) for c in judged.cells
  }


def test_command_designs_vars_family(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(_ROOT)
  out, values = tmp_path / 'iso.py', tmp_path / 'design.json'
  argv = ['design', '--budget', '1e21', '--out', str(out), '--json',
          str(values), '--studies', '100', '--device', 'v5p']  # fmt: skip
  assert cli.main(argv) == 0
  text = capsys.readouterr().out
  assert 'Jacobian condition' in text
  assert 'a guess, not a measurement' in text
  assert 'v5p-hours' in text
  assert 'sees its data' in text
  trials = sweep.load(str(out))
  written = json.loads(values.read_text())
  assert len(trials) == len(written['cells'])
  trial = trials[0]
  run = config.to_spec(
    config.override(
      config.load(trial['config']), {'total.steps': trial['total.steps']}
    )
  )
  work = flops.train_flops_per_image(run.model, run.tokenizer).total
  costs = {c['flops'] for c in written['cells']}
  assert work * run.batch_size * run.total.steps in costs


def test_command_refuses_with_exit_code_3(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(_ROOT)
  out = tmp_path / 'x.py'
  argv = ['design', '--budget', '1e12', '--out', str(out)]
  assert cli.main(argv) == 3
  assert 'larger --budget' in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []
  argv = ['design', '--budget', '1e21', '--config', 'x.py']
  assert cli.main(argv) == 2
  assert '{size}' in capsys.readouterr().err
