"""What README and the docs tell a reader to type is what the code accepts."""

import pathlib
import re
import shlex

import pytest

from varjax import cli
from varjax.tools import demo

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')])


def commands(page):
  """Every `varjax ...` line of the shell blocks of a page."""
  text = page.read_text()
  for block in re.findall(r'```(?:sh|bash)\n(.*?)```', text, re.S):
    joined = block.replace('\\\n', ' ')
    for line in joined.splitlines():
      if line.startswith('varjax '):
        yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page, capsys):
  for argv in commands(page):
    assert argv[0] in cli.COMMANDS, argv
    with pytest.raises(SystemExit):
      cli.main([argv[0], '--help'])
    shown = capsys.readouterr().out
    for word in argv[1:]:
      option = word.partition('=')[0]
      if option.startswith('--') and not option.startswith(
        ('--config.', '--data.')
      ):
        assert option in shown, f'{page.name}: {argv[0]} has no {option}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_dry_runs_of_the_docs_run(page, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  for argv in commands(page):
    if '--dry_run' in argv:
      assert cli.main(argv) == 0, argv
      assert capsys.readouterr().out


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
  text = page.read_text()
  for target in re.findall(r'\]\(([^)#:]+)\)', text):
    assert (page.parent / target).exists(), f'{page.name}: {target}'
  for path in re.findall(r'`((?:varjax|experiments|sweeps|tests|benchmarks)/'
                         r'[\w/.]+\.py)', text):  # fmt: skip
    assert (ROOT / path).exists(), f'{page.name}: {path}'


def test_readme_shows_the_commands_of_the_demo():
  shown = list(commands(ROOT / 'README.md'))
  stages = demo.stages(pathlib.Path('runs/my'), parallel=2, quick=False)
  for stage in stages:
    assert any(line[0] == stage[0] for line in shown)
  for line in shown[:2]:
    assert [w for w in line if w.startswith('experiments/')] == [
      w for w in stages[shown.index(line)] if w.startswith('experiments/')
    ]


def test_make_targets_of_the_readme_exist():
  makefile = (ROOT / 'Makefile').read_text()
  for target in re.findall(
    r'^    make (\w+)', (ROOT / 'README.md').read_text(), re.M
  ):
    assert re.search(rf'^{target}:', makefile, re.M), target
