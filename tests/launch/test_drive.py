"""The promises of every engine, on a host that follows a script."""

import json
import os
import signal

import fake_host
from fake_host import Turn
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from varjax import errors
from varjax.launch import base, drive, policy, stragglers

_FAST = {'backoff_s': 0.0}


def _drive(root, turns, names=('one',), slots=1, priorities=(), **values):
  trials = [
    fake_host.trial(root, name, i, priority=dict(priorities).get(name, 0))
    for i, name in enumerate(names)
  ]
  host = fake_host.Host(turns, slots)
  observer = fake_host.Observer()
  found, signum = drive.drive(
    trials, observer, host, policy.Policy(**{**_FAST, **values}), poll_s=0.0
  )
  assert host.closed
  assert [o.trial for o in found] == trials
  return found, signum, host, observer


@settings(max_examples=60, deadline=None)
@given(
  codes=st.lists(
    st.sampled_from([0, 1, 2, 3, 4, -9, -15, 143, 137, 'complete']),
    min_size=1,
    max_size=6,
  ),
  retries=st.integers(0, 3),
)
def test_starts_are_bounded_and_final_codes_are_final(
  tmp_path_factory, codes, retries
):
  root = tmp_path_factory.mktemp('drive')
  turns = {'one': [Turn(code) for code in codes]}
  [outcome], _, host, _ = _drive(root, turns, retries=retries)
  made = [codes[min(i, len(codes) - 1)] for i in range(len(host.started))]
  assert len(made) <= retries + 1
  assert outcome.attempts == len(made)
  assert all(code not in base.FINAL_EXIT_CODES for code in made[:-1])
  assert (outcome.status == 'complete') == (made[-1] == 'complete')
  if outcome.status == 'failed' and made[-1] not in base.FINAL_EXIT_CODES:
    assert len(made) == retries + 1


def test_a_preempted_trial_that_moved_on_is_not_counted(tmp_path):
  turns = {
    'one': [Turn(143, step=5), Turn(143, step=9), Turn(143, step=11), Turn()],
    # Is told to stop before it has made a step, again and again.
    'two': [Turn(143)],
  }
  found, _, host, observer = _drive(tmp_path, turns, ('one', 'two'), retries=1)
  assert [o.status for o in found] == ['complete', 'failed']
  assert (found[0].attempts, host.started.count('two')) == (4, 2)
  [why, *_] = [e[2] for e in observer.events if e[:2] == ('retrying', 'one')]
  assert why.startswith('preempted: ')
  assert 'preempted' in found[1].error


def test_back_off_doubles_up_to_a_limit():
  given_policy = policy.Policy(backoff_s=5.0)
  assert [given_policy.wait_s(n) for n in (1, 2, 3)] == [5, 10, 20]
  assert given_policy.wait_s(5000) == policy.MAX_BACKOFF_S
  with pytest.raises(errors.ConfigError, match='--retries=-1'):
    policy.Policy(retries=-1)
  with pytest.raises(errors.ConfigError, match='above 1'):
    policy.Policy(straggler_factor=0.5)


def test_higher_priorities_start_first_also_after_a_crash(tmp_path):
  turns = {'high': [Turn(1), Turn()]}
  _, _, host, _ = _drive(
    tmp_path, turns, ('low', 'mid', 'high', 'mid2'),
    priorities=[('high', 2), ('mid', 1), ('mid2', 1)],
  )  # fmt: skip
  assert host.started == ['high', 'high', 'mid', 'mid2', 'low']


def test_a_record_that_never_shows_is_not_complete(tmp_path, monkeypatch):
  monkeypatch.setattr(fake_host.Host, 'loses_records', True)
  monkeypatch.setattr(fake_host.Host, 'settle_s', 0.05)
  [outcome], _, host, _ = _drive(tmp_path, {}, retries=1)
  assert outcome.status == 'failed'
  assert 'no complete record' in outcome.error
  assert len(host.started) == 2


def test_signals_stop_then_kill(tmp_path, monkeypatch):
  turns = {'polite': [Turn(None)], 'deaf': [Turn('deaf')]}
  host_seen = []

  def signals_when_running(_):
    host_seen.append(1)
    if len(host_seen) in (20, 40):
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(fake_host.Observer, 'tick', signals_when_running)
  found, signum, host, observer = _drive(
    tmp_path, turns, ('polite', 'deaf', 'never'), slots=2
  )
  assert signum == signal.SIGTERM
  assert [o.status for o in found] == ['stopped'] * 3
  assert [a.told for a in host.attempts] == [['stop'], ['stop', 'kill']]
  assert observer.events.count(('stopping', 'SIGTERM')) == 2


def test_an_exception_of_the_observer_kills_what_runs(tmp_path, monkeypatch):
  def broken(_):
    raise RuntimeError('defect')

  monkeypatch.setattr(fake_host.Observer, 'tick', broken)
  host = fake_host.Host({'one': [Turn(None)]})
  with pytest.raises(RuntimeError, match='defect'):
    drive.drive(
      [fake_host.trial(tmp_path, 'one')], fake_host.Observer(), host,
      policy.Policy(),
    )  # fmt: skip
  assert host.closed
  assert host.attempts[0].told == ['kill']


def test_silent_stragglers_are_reported_and_restarted(tmp_path, monkeypatch):
  monkeypatch.setattr(drive, '_LOOK_FOR_STRAGGLERS_S', 0.0)
  turns = {'one': [Turn('deaf'), Turn()]}
  [outcome], _, host, observer = _drive(
    tmp_path, turns, silent_s=0.05, restart_stragglers=True, grace_s=0.05
  )
  assert outcome.status == 'complete'
  assert host.attempts[0].told[:2] == ['stop', 'kill']
  [said] = [e for e in observer.events if e[0] == 'straggling']
  assert said[2].startswith('has made no progress for 0')
  [retry] = [e for e in observer.events if e[0] == 'retrying']
  assert retry[2].startswith('straggler restarted: has made no progress')
  # A restart is a retry: with none left the trial is only reported.
  turns = {'two': [Turn('complete', polls=3000)]}
  [outcome], _, host, observer = _drive(
    tmp_path, turns, ('two',), silent_s=0.001, restart_stragglers=True,
    retries=0,
  )  # fmt: skip
  assert outcome.status == 'complete'
  assert host.attempts[0].told == []
  assert any(e[0] == 'straggling' for e in observer.events)


def _progress(trial, **values):
  trial.workdir.mkdir(exist_ok=True)
  trial.progress.write_text(json.dumps(values))


def test_slow_trials_stand_out_whatever_their_clock_says(tmp_path):
  sizes = {'small': 1e6, 'mid': 4e6, 'large': 16e6, 'slow': 4e6}
  rates = {'small': 100.0, 'mid': 60.0, 'large': 25.0, 'slow': 2.0}
  trials = [
    fake_host.trial(tmp_path, name, i, flops_per_image=sizes[name])
    for i, name in enumerate(sizes)
  ]
  watch = stragglers.Watch(policy.Policy(silent_s=1800, straggler_factor=4))
  for one in trials:
    _progress(one, step=0, images_per_s=1.0, time=5e9)
    watch.begin(one, now=0.0)
  assert watch.find(30.0) == {}
  for one in trials:
    # The trials' own times are years off, in both directions.
    _progress(one, step=9, images_per_s=rates[one.name], time=1.0)
  assert watch.find(100.0) == {}  # they may have compiled until now
  for one in trials:
    _progress(one, step=10, images_per_s=rates[one.name], time=1.0)
  found = watch.find(160.0)
  assert list(found) == ['slow']
  assert 'times what its peers let expect' in found['slow']
  assert '0.5 s per image' in found['slow']
  watch.end(trials[3])
  assert watch.find(1959.0) == {}
  assert set(watch.find(1961.0)) == {'small', 'mid', 'large'}


@given(
  work=st.floats(1, 1e12),
  peers=st.lists(
    st.tuples(st.floats(1e-6, 1e3), st.floats(1, 1e12)), min_size=2, max_size=9
  ),
)
def test_expected_seconds_is_within_the_bounds_of_the_peers(work, peers):
  bounds = [s * max(1.0, work / w) for s, w in peers]
  expected = stragglers.expected_seconds(work, peers)
  assert min(bounds) <= expected <= max(bounds)
  # Larger work is never expected to be faster.
  assert stragglers.expected_seconds(2 * work, peers) >= expected


def test_nothing_is_expected_without_peers_or_sizes():
  assert stragglers.expected_seconds(1.0, [(1.0, 1.0)]) is None
  assert stragglers.expected_seconds(None, [(1.0, 1.0)] * 3) is None
  assert stragglers.expected_seconds(1.0, [(1.0, None)] * 3) is None
