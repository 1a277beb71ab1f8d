"""Written trials: commands that run, templates that parse, one merge."""

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import yaml

from varjax import errors, records
from varjax.launch import base, manifest, tpu_slices
from varjax.tools import status
from varjax.tools import sweep as sweep_tool


def _write(bench, sweep_dir, *options):
  file = bench.sweep_file(
    "hyper.product(hyper.fixed('config', 'experiments/x.py'), "
    "hyper.zipit(hyper.sweep('name', ['one', 'two', 'three']), "
    "hyper.sweep('priority', [0, 5, 1]), "
    "hyper.sweep('optim.lr', [0.1, 0.2, 0.3])))",
    'ladder',
  )
  assert bench.run(file, sweep_dir, '--engine=manifest', *options) == 0
  return file


def test_commands_run_anywhere_and_their_records_are_merged(
  bench, tmp_path, capsys
):
  calm = tmp_path / 'calm'
  file = _write(bench, tmp_path / 'd')
  assert bench.run(file, calm) == 0
  out = capsys.readouterr().out
  assert 'merge later: varjax sweep --collect --workdir' in out
  # The sweep directory turns up under another path, as in a container.
  moved = tmp_path / 'elsewhere' / 'it is "$mounted"'
  moved.parent.mkdir()
  os.rename(tmp_path / 'd', moved)
  commands = sorted(moved.glob('manifest/commands/*.sh'))
  assert [c.stem for c in commands] == ['000-two', '001-three', '002-one']
  environment = {**os.environ, 'VARJAX_SWEEP_DIR': str(moved)}
  for command in commands[:2]:
    subprocess.run(['sh', command], env=environment, check=True, cwd=tmp_path)
  assert sweep_tool.main(['--collect', '--workdir', str(moved)]) == 0
  out = capsys.readouterr().out
  assert '3 trials: 2 complete, 1 pending' in out
  subprocess.run(['sh', commands[2]], env=environment, check=True, cwd=tmp_path)
  for _ in range(2):
    assert sweep_tool.main(['--collect', '--workdir', str(moved)]) == 0
  assert status.main([str(moved)]) == 0
  assert '3 trials: 3 complete' in capsys.readouterr().out

  def table(folder):
    return [
      (r.run_id, r.name, r.steps, r.val_loss_nats_per_token)
      for r in records.read(folder / 'records.jsonl')
    ]

  assert table(moved) == table(calm)
  # What is complete is not written again.
  assert bench.run(file, moved, '--engine=manifest') == 0
  assert '3 already complete, 0 to run' in capsys.readouterr().out


def test_the_default_folder_is_in_the_command(bench, tmp_path):
  _write(bench, tmp_path, '--remote_dir=/mnt/a b', '--env=JAX_LOG=1 2')
  text = (tmp_path / 'manifest' / 'commands' / '000-two.sh').read_text()
  assert ': "${VARJAX_SWEEP_DIR:=/mnt/a b}"' in text
  assert "export JAX_LOG='1 2'" in text
  assert sys.executable not in text
  assert str(tmp_path) not in text.replace(str(bench.root), '')
  table = json.loads((tmp_path / 'manifest' / 'trials.json').read_text())
  assert [row['priority'] for row in table] == [5, 1, 0]


def test_gke_template_is_a_jobset_per_trial(bench, tmp_path):
  _write(
    bench, tmp_path, '--tpu=v5e:4x4', '--image=registry.example/x:1',
    '--remote_dir=/mnt/sweep', '--retries=7',
  )  # fmt: skip
  text = (tmp_path / 'manifest' / 'gke-jobset.yaml').read_text()
  sets = list(yaml.safe_load_all(text))
  assert len(sets) == 3
  for one in sets:
    assert one['kind'] == 'JobSet'
    assert one['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
    assert one['spec']['failurePolicy']['maxRestarts'] == 7
    [replicated] = one['spec']['replicatedJobs']
    job = replicated['template']['spec']
    assert job['parallelism'] == job['completions'] == 4
    [rule] = job['podFailurePolicy']['rules']
    assert rule['onExitCodes']['values'] == list(base.FINAL_EXIT_CODES)
    pod = job['template']['spec']
    assert pod['restartPolicy'] == 'Never'
    assert pod['nodeSelector'] == {
      'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
      'cloud.google.com/gke-tpu-topology': '4x4',
    }
    [container] = pod['containers']
    assert container['image'] == 'registry.example/x:1'
    assert container['resources']['limits']['google.com/tpu'] == 4
    script = pathlib.Path(container['command'][1])
    assert script.parent == pathlib.Path('/mnt/sweep/manifest/commands')
    assert (tmp_path / 'manifest' / 'commands' / script.name).is_file()
    [mount] = container['volumeMounts']
    [volume] = pod['volumes']
    assert mount['name'] == volume['name']
    assert mount['mountPath'] == '/mnt/sweep'
  names = [one['metadata']['name'] for one in sets]
  assert len(set(names)) == 3
  assert all(len(name) <= 63 and name == name.lower() for name in names)


def test_skypilot_and_xpk_templates(bench, tmp_path):
  _write(bench, tmp_path, '--tpu=v6e:2x4', '--remote_dir=/mnt/sweep')
  folder = tmp_path / 'manifest'
  tasks = sorted(folder.glob('skypilot/*.yaml'))
  assert len(tasks) == 3
  for path in tasks:
    task = yaml.safe_load(path.read_text())
    assert set(task) == {
      'name', 'num_nodes', 'resources', 'envs', 'file_mounts', 'run',
    }  # fmt: skip
    assert task['resources']['accelerators'] == 'tpu-v6e-8'
    assert task['envs']['VARJAX_SWEEP_DIR'] in task['file_mounts']
    assert shlex.split(task['run'])[0] == 'sh'
  xpk = folder / 'xpk.sh'
  assert subprocess.run(['sh', '-n', xpk]).returncode == 0
  # Run with an xpk that only says what it was asked for.
  (tmp_path / 'xpk').write_text('#!/bin/sh\nprintf "%s|" "$@"; echo\n')
  (tmp_path / 'xpk').chmod(0o755)
  said = subprocess.run(
    ['sh', xpk], capture_output=True, text=True, check=True,
    env={'PATH': f'{tmp_path}:/usr/bin:/bin', 'CLUSTER': 'mine'},
  ).stdout.splitlines()  # fmt: skip
  assert len(said) == 3
  assert said[0].startswith('workload|create|--cluster|mine|--workload|two-')
  assert '|--tpu-type|v6e-8|' in said[0]
  assert said[0].endswith(
    '|--command|sh /mnt/sweep/manifest/commands/000-two.sh|'
  )


def test_names_of_slices():
  found = {
    text: (s.kind, s.accelerator, s.hosts, s.chips_per_host)
    for text in ('v5e:4x4', 'v5e:2x4', 'v5p:4x4x4', 'v6e:16x16', 'v4:2x2x1')
    for s in [tpu_slices.parse(text)]
  }
  assert found == {
    'v5e:4x4': ('v5litepod-16', 'tpu-v5-lite-podslice', 4, 4),
    'v5e:2x4': ('v5litepod-8', 'tpu-v5-lite-podslice', 1, 8),
    'v5p:4x4x4': ('v5p-128', 'tpu-v5p-slice', 16, 4),
    'v6e:16x16': ('v6e-256', 'tpu-v6e-slice', 64, 4),
    'v4:2x2x1': ('v4-8', 'tpu-v4-podslice', 1, 4),
  }
  for wrong in ('v5e', 'v5e:4', 'h100:8', 'v9:2x2'):
    with pytest.raises(errors.ConfigError, match='--tpu'):
      tpu_slices.parse(wrong)


def test_options_of_other_engines_are_refused(bench, tmp_path):
  with pytest.raises(errors.ConfigError) as refused:
    bench.run(bench.named('one'), tmp_path / 'd', '--resources=GPU=1')
  assert str(refused.value) == (
    '--resources is not for --engine local, but for ray'
  )
  for bad in ('--resources=GPU', '--resources=GPU=-1', '--resources=A=1,A=2'):
    with pytest.raises(errors.ConfigError, match='--resources'):
      bench.run(bench.named('one'), tmp_path / 'd', '--engine=ray', bad)
  assert not (tmp_path / 'd').exists()


def test_a_record_of_other_code_is_named(bench, tmp_path, capsys):
  _write(bench, tmp_path)
  _, [trial, *_], _ = manifest.read(tmp_path)
  records.append(
    trial.records, records.RunRecord(run_id='other', status='complete')
  )
  sweep_tool.main(['--collect', '--workdir', str(tmp_path)])
  shown = capsys.readouterr()
  assert f'is of run other and not of {trial.run_id}' in shown.err
  assert '3 pending' in shown.out


def test_two_complete_records_that_differ_are_named(bench, tmp_path, capsys):
  assert bench.run(bench.named('one'), tmp_path) == 0
  [path] = tmp_path.glob('trials/*/records.jsonl')
  [record] = records.read(path)
  records.append(path, record)
  assert sweep_tool.main(['--collect', '--workdir', str(tmp_path)]) == 0
  assert 'differ' not in capsys.readouterr().err
  records.append(
    path, dataclasses.replace(record, val_loss_nats_per_token=1.25)
  )
  assert sweep_tool.main(['--collect', '--workdir', str(tmp_path)]) == 0
  said = capsys.readouterr().err
  assert 'two complete records that differ' in said
  assert 'val_loss_nats_per_token' in said
