"""What is printed and written, and the command around it."""

import dataclasses
import json
import re

from pod_cases import D30, GIB, V5E, compiled
import pytest

from varjax import cli, errors, roofline, topology
from varjax.aot import compiled as facts
from varjax.aot import report, rooflines
from varjax.aot.request import Request
from varjax.spec import PrecisionSpec
from varjax.tools import aot

ARGV = ['aot', '--config', 'experiments/var_imagenet256.py:size=d30',
        '--config.batch_size=256', '--topology', 'v5e:2x2']  # fmt: skip


@pytest.fixture
def answer(monkeypatch):
  """Replaces the compiler; returns what it was asked."""
  asked = []

  def install(result):
    def ask(request, slice_):
      asked.append((request, str(slice_)))
      return result

    monkeypatch.setattr(aot, 'ask', ask)
    return asked

  return install


def test_facts_survive_json():
  memory = facts.Memory(1, 2, 3, 4, 5, 6)
  whole = dataclasses.replace(compiled(9e9, sent=2.5), memory=memory)
  for one in (whole, compiled(20 * GIB)):
    again = facts.from_json(json.loads(json.dumps(facts.to_json(one))), 'x')
    assert again == one
  with pytest.raises(errors.RecordError, match=r'x\.json'):
    facts.from_json({'schema': 1}, 'x.json')


def test_compiled_bytes_replace_the_estimates():
  analytic = roofline.roofline(D30, V5E)
  quiet = report.describe(Request(D30), V5E, compiled(9 * GIB))
  assert quiet.roofline.link_s == quiet.roofline.hbm_s == 0
  assert quiet.roofline.bound == 'compute'
  assert quiet.analytic == analytic
  loud = report.describe(Request(D30), V5E, compiled(9 * GIB, sent=1e13))
  link = 1e13 / (V5E.bandwidth * roofline.LINK_EFFICIENCY)
  hbm = 1e13 / (V5E.device.bandwidth * roofline.HBM_EFFICIENCY)
  assert loud.roofline.hbm_s == pytest.approx(hbm)
  assert loud.roofline.step_s == loud.roofline.link_s == pytest.approx(link)
  ratio = loud.roofline.step_s / quiet.roofline.step_s
  assert quiet.roofline.mfu / loud.roofline.mfu == pytest.approx(ratio)
  # Nothing was compiled, so nothing was moved: the estimate stays.
  refused = report.describe(Request(D30), V5E, compiled(20 * GIB))
  assert refused.roofline == analytic


def test_text_has_the_sizes():
  text = report.to_text(report.describe(Request(D30), V5E, compiled(9 * GIB)))
  assert 'd30' in text
  assert '9.00 GiB of 15.75 GiB on each device: fits' in text
  assert 'not measured' in text
  text = report.to_text(
    report.describe(Request(D30), V5E, compiled(20.2 * GIB))
  )
  assert '20.20 GiB of 15.75 GiB on each device: DOES NOT FIT' in text
  assert 'step time' not in text
  early = dataclasses.replace(compiled(60 * GIB), partial=True)
  text = report.to_text(report.describe(Request(D30), V5E, early))
  assert '60.00 GiB without its arguments of 15.75 GiB' in text


def test_a_tokenizer_has_a_roofline_too():
  run = dataclasses.replace(D30, task='reconstruct')
  found = report.describe(Request(run), V5E, compiled(9 * GIB, sent=1e12))
  assert found.analytic == roofline.roofline(run, V5E)
  hbm = 1e12 / (V5E.device.bandwidth * roofline.HBM_EFFICIENCY)
  assert found.roofline.hbm_s == pytest.approx(hbm)
  assert 'by roofline, not measured' in report.to_text(found)


@pytest.mark.parametrize('program', ['sample', 'encode', 'decode'])
def test_a_call_of_one_device_is_reported(program):
  request = Request(D30, program, 8, PrecisionSpec(compute='bfloat16'))
  found = report.describe(request, V5E, compiled(9 * GIB, sent=1e10))
  assert found.mesh == (1, 1, 1)
  assert found.estimate_bytes is None
  assert found.analytic == rooflines.analytic(request, V5E)
  text = report.to_text(found)
  assert f'{program} of d30' in text
  assert 'one device of v5e:2x2' in text
  assert '8 images, compute bfloat16' in text
  assert re.search(r'kernels +16 in a call', text)
  assert 'images/s' in text
  assert '\n  interconnect' not in text
  values = report.to_json(found)
  assert values['program'] == program
  assert values['roofline']['serial_s'] > values['roofline']['step_s']


def test_the_command_reports_what_fits(answer, tmp_path, capsys):
  asked = answer(compiled(9 * GIB))
  file = tmp_path / 'd30.json'
  assert cli.main([*ARGV, '--mesh', '2,-1,1', '--json', str(file)]) == 0
  assert 'fits' in capsys.readouterr().out
  values = json.loads(file.read_text())
  assert values['mesh'] == [2, 2, 1]
  assert values['compiled']['used_bytes'] == 9 * GIB
  assert values['roofline']['bound'] in ('compute', 'memory', 'interconnect')
  request, where = asked[0]
  run = request.run
  assert (run.mesh.data, run.mesh.fsdp, where) == (2, -1, 'v5e:2x2')


def test_what_does_not_fit_exits_non_zero_with_sizes_and_a_way_out(
  answer, tmp_path, capsys
):
  answer(compiled(20.2 * GIB))
  file = tmp_path / 'd30.json'
  assert cli.main([*ARGV, '--json', str(file)]) == 5
  said = capsys.readouterr().err
  assert 'a device needs 20.20 GiB of 15.75 GiB' in said
  assert '--config.optim.accumulate=' in said
  assert '--topology v5e:4x4' in said
  assert json.loads(file.read_text())['compiled']['fits'] is False


def test_the_command_asks_for_a_sampler_as_it_will_run(answer, capsys):
  asked = answer(compiled(9 * GIB, sent=1e9))
  argv = ['--program', 'sample', '--batch', '2', '--guided', '0,4',
          '--weights', 'int8', '--cfg', '2', '--parts']  # fmt: skip
  assert cli.main([*ARGV, *argv]) == 0
  request, _ = asked[0]
  assert (request.program, request.batch) == ('sample', 2)
  assert request.precision == PrecisionSpec(weights='int8')
  assert (request.run.sample.guided, request.run.sample.cfg) == ((0, 4), 2)
  assert request.run.sample.top_k == 900  # Of the experiment.
  assert 'sample of var-d30' in capsys.readouterr().out
  answer(compiled(20 * GIB))
  assert cli.main([*ARGV, '--program', 'encode']) == 5
  assert 'lower --batch' in capsys.readouterr().err


def test_the_search_prints_a_table(answer, capsys):
  asked = answer(compiled(9 * GIB))
  assert cli.main([*ARGV, '--search', '--tries', '2']) == 0
  assert len(asked) == 2
  assert 'remat' in capsys.readouterr().out
  answer(compiled(20 * GIB))
  assert cli.main([*ARGV, '--search', '--tries', '2']) == 5
  assert 'in any of the 2 ways' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('extra', 'message'),
  [
    (['--mesh', '1,2'], 'data,fsdp,tensor'),
    (['--mesh', 'a,b,c'], 'data,fsdp,tensor'),
    (['--json', 'no/such/folder/x.json'], 'folder does not exist'),
    (['--batch', '8'], 'set the batch of an update with --config.batch_size'),
    (['--program', 'sample', '--batch', '0'], 'must be at least 1'),
    (['--program', 'sample', '--mesh', '1,4,1'], 'runs on each device alone'),
    (['--program', 'encode', '--search'], 'runs on each device alone'),
    (['--program', 'encode', '--cfg', '2'], '--cfg: is a setting of'),
    (['--program', 'decode', '--weights', 'int8'], 'has no such choice'),
    (['--program', 'encode', '--compute', 'bfloat16'], 'compute_dtype'),
    (['--compute', 'bfloat16'], 'the program train has no such choice'),
  ],
)
def test_bad_arguments(answer, extra, message, capsys):
  answer(compiled(9 * GIB))
  assert cli.main([*ARGV, *extra]) == 2
  assert message in capsys.readouterr().err


def test_a_mesh_that_does_not_fill_the_slice():
  slice_ = topology.parse('v5e:2x2')
  run = dataclasses.replace(D30, mesh=dataclasses.replace(D30.mesh, fsdp=3))
  with pytest.raises(errors.ConfigError, match='number of devices, 4'):
    report.describe(Request(run), slice_, compiled(9 * GIB))
