"""The console script: help everywhere, one sentence for bad input."""

import pathlib
import subprocess
import sys

import pytest

from varjax import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize('command', cli.COMMANDS)
def test_every_command_has_help(command, capsys):
  with pytest.raises(SystemExit) as caught:
    cli.main([command, '--help'])
  assert caught.value.code == 0
  assert f'varjax {command}' in capsys.readouterr().out


def test_usage_lists_every_command(capsys):
  assert cli.main(['--help']) == 0
  out = capsys.readouterr().out
  assert all(name in out for name in cli.COMMANDS)


def test_unknown_command_lists_the_known(capsys):
  assert cli.main(['tran']) == 2
  assert 'train' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (['train', '--config', 'none.py', '--dry_run'], 'no such file'),
    (
      [
        'train', '--config', 'experiments/emoji_var.py', '--dry_run',
        '--config.optim.lrr=1',
      ],
      'lrr',
    ),
    (
      ['train', '--config', 'experiments/emoji_var.py:size=q', '--dry_run'],
      "size='q'",
    ),
    (['train', '--config', 'experiments/emoji_var.py'], '--workdir'),
    (['encode', '--tokenizer', 'none', '--out', 'x'], 'tokenizer.json'),
    (['sample', '--workdir', 'none', '--out', 'x.png'], 'run.json'),
    (['sample', '--workdir', 'none', '--out', 'x.gif'], '.png'),
    (['eval', '--workdir', 'none'], 'run.json'),
  ],
)  # fmt: skip
def test_bad_input_is_one_sentence(argv, said, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert cli.main(argv) == 2
  err = capsys.readouterr().err
  assert said in err
  assert len(err.strip().splitlines()) == 1


def test_module_runs_as_a_program():
  result = subprocess.run(
    [sys.executable, '-m', 'varjax', '--version'],
    capture_output=True, text=True, cwd=ROOT,
  )  # fmt: skip
  assert result.returncode == 0
  assert result.stdout.strip()


def test_help_does_not_start_jax():
  code = (
    'import sys\nfrom varjax import cli\ncli.main(["--help"])\n'
    'assert "jax" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
