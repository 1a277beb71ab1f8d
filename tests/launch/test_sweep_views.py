"""What a person sees of a sweep: the plan, the progress, the table."""

import html.parser
import io
import json

import pytest

from varjax import errors, flops, identity, records
from varjax.launch import base, manifest, page, plan, table, view
from varjax.tools import arguments, status, sweep_dry_run


def _trial(tmp_path, name='one', index=0):
  return base.Trial(
    index=index,
    name=name,
    config='x.py',
    overrides={},
    role='fit',
    run_id=name * 2,
    workdir=tmp_path / name,
    command=('true',),
  )


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_view_redraws_its_block_on_a_terminal(tmp_path, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(view.time, 'monotonic', lambda: clock[0])
  out = _Terminal()
  shown = view.View(total=3, done=1, out=out)
  trial = _trial(tmp_path)
  trial.workdir.mkdir()
  shown.started(trial)
  clock[0] = 61.0
  shown.tick()
  assert out.getvalue() == ('[1:01] 1/3 complete, 1 running\n  one  starting\n')
  trial.progress.write_text(
    json.dumps({'step': 3, 'total_steps': 9, 'loss': 5.25, 'eta_s': 3700})
  )
  shown.tick()  # too soon: nothing is drawn
  clock[0] = 62.0
  shown.tick()
  assert out.getvalue().endswith(
    '\x1b[2F\x1b[J[1:02] 1/3 complete, 1 running\n'
    '  one  step 3/9  loss 5.2500  eta 1:01:40\n'
  )
  shown.event('failed one')
  assert out.getvalue().endswith('\x1b[2F\x1b[Jfailed one\n')
  shown.ended(trial, 'failed')
  assert shown.lines() == ['[1:02] 1/3 complete, 1 failed, 0 running']


def test_view_writes_plain_lines_elsewhere(tmp_path, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(view.time, 'monotonic', lambda: clock[0])
  out = io.StringIO()
  shown = view.View(total=1, done=0, out=out)
  shown.started(_trial(tmp_path))
  for second in range(60):
    clock[0] = float(second)
    shown.tick()
  assert '\x1b' not in out.getvalue()
  assert out.getvalue().count('running') == 1


def test_rows_tell_every_state(tmp_path):
  names = ('done', 'broken', 'busy', 'paused', 'fresh')
  trials = [_trial(tmp_path, name, i) for i, name in enumerate(names)]
  for trial in trials[:4]:
    trial.workdir.mkdir()
    trial.progress.write_text('{"step": 3, "total_steps": 9, "loss": 5.0}')
  found = [
    records.RunRecord(
      run_id='donedone',
      status='complete',
      params_body=1234,
      steps=9,
      total_steps=9,
      val_loss_nats_per_token=4.25,
      val_err=0.75,
    ),
    records.RunRecord(run_id='brokenbroken', status='failed', error='boom'),
    records.RunRecord(run_id='busybusy', status='failed', error='before'),
  ]
  rows = table.rows(trials, found, {'busybusy': {'where': 'here'}})
  assert [(r.status, r.steps, r.loss) for r in rows] == [
    ('complete', 9, 4.25),
    ('failed', 3, None),
    ('running', 3, 5.0),
    ('stopped', 3, None),
    ('pending', None, None),
  ]
  lines = table.text(rows).splitlines()
  assert len({line.index(row.status) for line, row in zip(
    lines[1:], rows, strict=True)}) == 1  # fmt: skip
  assert '1,234' in lines[1]
  assert '4.2500' in lines[1]
  assert '0.7500' in lines[1]
  assert lines[2].endswith('boom')
  assert 'before' not in lines[3]
  assert 'psnr' not in lines[0]
  assert table.summary(rows) == (
    '5 trials: 1 complete, 1 failed, 1 running, 1 stopped, 1 pending'
  )


def test_a_torn_progress_file_is_not_an_error(tmp_path):
  trial = _trial(tmp_path)
  trial.workdir.mkdir()
  for torn in ('', '{"step": 3', '[3]', '{"step": "x"}'):
    trial.progress.write_text(torn)
    [row] = table.rows([trial], [], {trial.run_id: {'where': 'here'}})
    assert (row.status, row.steps) == ('running', None)


def test_status_refuses_what_is_not_a_sweep(bench, tmp_path, capsys):
  with pytest.raises(errors.LaunchError, match=r'no sweep\.json'):
    status.main([str(tmp_path)])
  (tmp_path / 'sweep.json').write_text('{"trials": [{}]}')
  with pytest.raises(errors.LaunchError, match='not the manifest'):
    status.main([str(tmp_path)])
  with pytest.raises(errors.LaunchError, match='not the manifest'):
    bench.run(bench.named('one'), tmp_path)
  (tmp_path / 'sweep.json').unlink()
  assert bench.run(bench.named('typed', 'one'), tmp_path) == 1
  capsys.readouterr()
  assert status.main([str(tmp_path), '--watch=0.1']) == 1
  out = capsys.readouterr().out
  assert '(not running), 2 trials: 1 complete, 1 failed' in out
  assert 'optim.lr=-1: must be positive' in out
  assert bench.run(bench.named('two'), tmp_path) == 0
  assert status.main([str(tmp_path)]) == 0
  assert '1 complete records of earlier' in capsys.readouterr().out


class _Page(html.parser.HTMLParser):
  """Counts tags and keeps what would be fetched or run."""

  def __init__(self):
    super().__init__()
    self.tags, self.outside, self.open = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag not in ('meta', 'link', 'br', 'img'):
      self.open.append(tag)
    self.outside += [v for k, v in attrs if k in ('src', 'href')]
    self.outside += [k for k, _ in attrs if k.startswith('on')]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_the_page_escapes_what_trials_say_and_needs_nothing_else():
  evil = '<img src=x onerror=alert(1)>"\'&{{ 1234 * 4321 }}'
  rows = [
    table.Row(
      i, evil, evil, evil, status, error=evil, where=evil, note=evil,
      steps=3, total_steps=9, attempt=2, eta_s=61.0, loss=1.5,
    )
    for i, status in enumerate(('running', 'failed', 'complete'))
  ]  # fmt: skip
  text = page.html(evil, rows, running=True, refresh_s=5.0)
  parsed = _Page()
  parsed.feed(text)
  assert parsed.open == []
  assert not {'img', 'script', 'iframe', 'link'} & set(parsed.tags)
  assert parsed.outside == []
  assert '5332114' not in text
  assert '<meta http-equiv="refresh" content="5">' in text
  assert "default-src 'none'" in text
  assert text.count('<tr') == 1 + len(rows)
  assert 'width: 33%' in text
  assert 'width: 100%' in text
  still = page.html('s', [], running=False)
  assert 'http-equiv="refresh"' not in still


def test_status_writes_the_page_and_watches_trials_of_others(
  bench, tmp_path, capsys, monkeypatch
):
  assert (
    bench.run(bench.named('one', 'two'), tmp_path, '--engine=manifest') == 0
  )
  _, trials, _ = manifest.read(tmp_path)
  looks = []

  def someone_trains_meanwhile(seconds):
    looks.append(seconds)
    if len(looks) < 3:
      trials[0].workdir.mkdir(parents=True, exist_ok=True)
      step = {'step': len(looks), 'total_steps': 9, 'time': 0.0}
      trials[0].progress.write_text(json.dumps(step))

  monkeypatch.setattr(status.time, 'sleep', someone_trains_meanwhile)
  capsys.readouterr()
  assert status.main([str(tmp_path), '--watch=7', '--html']) == 0
  shown = capsys.readouterr().out
  assert looks == [7.0, 7.0, 7.0]
  assert 'elsewhere' in shown
  assert '2 trials: 1 running, 1 pending' in shown
  text = (tmp_path / 'status.html').read_text()
  assert 'http-equiv="refresh"' not in text  # the last look
  assert '2/9' in text
  other = tmp_path / 'pages' / 'ladder.html'
  assert status.main([str(tmp_path), f'--html={other}']) == 0
  assert other.is_file()


def test_dry_run_counts_and_starts_nothing(bench, tmp_path, capsys):
  file = bench.sweep_file(
    "hyper.sweep('config', [f'experiments/x.py:depth={d}' for d in (2, 3)])",
    'depths',
  )
  sweep_dir = tmp_path / 'd'
  assert bench.run(file, sweep_dir, '--dry_run', '--only=name=*-3') == 0
  out = capsys.readouterr().out
  assert not sweep_dir.exists()
  run = arguments.load_run(
    f'{bench.root}/experiments/x.py:depth=3', {'name': 'x-3'}
  )
  total = flops.train_flops_per_image(run.model, run.tokenizer).total
  assert f'{float(total) * 20 * run.batch_size:.4g}' in out
  assert f'{flops.parameter_counts(run.model, run.tokenizer).body:,}' in out
  assert identity.digest(identity.identity(run))[:12] in out
  assert 'x-2' not in out
  [command] = [line for line in out.splitlines() if 'fake_trainer' in line]
  assert '--config.name=x-3' in command
  assert f'--workdir {sweep_dir}/trials/x-3-' in command


def test_dry_run_reports_missing_inputs(bench, tmp_path):
  trials = [{'name': 'a', 'config': f'{bench.root}/experiments/x.py'}]
  resolver = sweep_dry_run.Resolver()
  planned = plan.plan(trials, 'sweeps/s.py', tmp_path / 'd', resolver)
  text = sweep_dry_run.describe(planned, tmp_path / 'd', resolver.missing)
  assert 'run ids are provisional' in text
  assert 'tok/tokenizer.json' in text
  assert planned[0].trial.run_id in text
